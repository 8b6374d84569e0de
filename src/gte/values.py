"""Values that a setting may hold, and the line for any other: a wrong value is no bug, nor another run."""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gte.errors import UserError


class Kind(NamedTuple):
    """The values that fit, and their description: `must be <said>`."""

    fits: Callable[[object], bool]
    said: str

    def or_one_of(self, *others: str | None) -> "Kind":
        """This kind, or one of a few words besides."""
        said = " or ".join("null" if other is None else other for other in others)
        return Kind(
            lambda value: self.fits(value) or (isinstance(value, str | None) and value in others),
            f"{self.said}, or {said}",
        )


def whole(least: int | None = None) -> Kind:
    """Whole numbers, from `least` on; true and false are none."""

    def fits(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)

    return Kind(fits, "a whole number" if least is None else f"at least {least} and whole")


def finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def above_zero(value: object) -> bool:
    return finite(value) and value > 0


TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(  # Hydra reads a folder 2020 as a number
    lambda value: isinstance(value, str | int) and not isinstance(value, bool) and value != "", "a single name or path"
)
NAME = Kind(lambda value: isinstance(value, str) and value != "", TEXT.said)
SHARE = Kind(lambda value: finite(value) and 0 <= value <= 1, "a share, from 0 to 1")
NUMBER = Kind(finite, "a finite number")
LIST = Kind(lambda value: isinstance(value, list), "a list, [a,b]")
NAMES = Kind(
    lambda value: isinstance(value, str | None) or (isinstance(value, list) and all(isinstance(x, str) for x in value)),
    "a name, a list of names, or null",
)
PATHS = Kind(NAMES.fits, "a path, a list of them, or null")
SPLIT = Kind(
    lambda value: value is None or all(map(NAME.fits, value.values() if isinstance(value, dict) else [value])),
    "a name, names by task, {STSBenchmark: validation}, or null",
)
DEVICES = Kind(
    lambda value: isinstance(value, str | list) or (isinstance(value, int) and value is not True and value >= -1),
    "a number of devices, a list of their numbers, or auto",
)
NAMED = Kind(lambda value: isinstance(value, dict), "given by name, {name: ...}")

# Every key of pytorch_lightning.Trainer, once (a test holds the signature of the pinned version against it). What acts:
TRAINER_READ = (
    "accelerator", "strategy", "devices", "num_nodes", "precision", "plugins", "log_every_n_steps",
    "enable_model_summary", "deterministic", "benchmark", "profiler", "detect_anomaly",
)  # fmt: skip
# what may hold one value only, since a step's batch is a function of (seed, step, rank)
TRAINER_FIXED = {"use_distributed_sampler": False}
# and what is refused, since it would break that promise or does nothing here, with the setting that serves
EVALUATED = "set evaluate_every and evaluate.data_dir"
TRAINER_UNREAD = {
    "gradient_clip_val": "set optim.clip_norm", "gradient_clip_algorithm": "set optim.clip_norm",
    "max_steps": "set stage.steps", "max_epochs": "set stage.epochs", "min_steps": "set stage.steps",
    "min_epochs": "set stage.epochs", "limit_train_batches": "set stage.steps",
    "overfit_batches": "choose few rows by sources=[...], and stage.steps",
    "fast_dev_run": "set stage.steps=2",
    "max_time": "send SIGTERM when the time is over (`timeout -s TERM 2h python src/train.py ...`): the run saves, and "
    "resume=auto goes on",
    "accumulate_grad_batches": "set stage.global_batch: memory is bounded by stage.batch_tokens and "
    "stage.recompute_fraction",
    "limit_val_batches": EVALUATED, "limit_test_batches": EVALUATED, "limit_predict_batches": EVALUATED,
    "val_check_interval": EVALUATED, "check_val_every_n_epoch": EVALUATED, "num_sanity_val_steps": EVALUATED,
    "inference_mode": EVALUATED, "reload_dataloaders_every_n_epochs": "data are read by step; set stage.steps",
    "enable_checkpointing": "set checkpoint_every and keep_last", "sync_batchnorm": "a language model has none",
    "barebones": "it leaves out logs and checkpoints; src/bench.py benchmark=train measures speed",
    "logger": "choose logger=", "enable_autolog_hparams": "the configuration is kept in .hydra, and by logger=wandb",
    "callbacks": "see docs/extend.md", "default_root_dir": "set out", "enable_progress_bar": "a terminal has one",
    "model_registry": "publish by src/export.py push=NAME",
}  # fmt: skip

# of conf/train.yaml and its groups, where a constructor does not look at it first
TRAIN = {
    "seed": whole(),
    "sources": Kind(lambda value: isinstance(value, list | str | None), "a list, [a,b], or the name of one"),
    "source_sets": NAMED,
    "verify": TRUTH,
    "mask_repeated_texts": TRUTH,
    "workers": whole(0),
    "resume": Kind(lambda value: isinstance(value, str | None), "auto, the path of a .ckpt, or null"),
    "resume_data": Kind(lambda value: value in ("same", "changed"), "same or changed"),
    "checkpoint_every": whole(1),
    "checkpoint_dir": Kind(lambda value: isinstance(value, str | None), "a directory, an address, or null"),
    "max_skipped": whole(1),
    "keep_last": whole(1).or_one_of(None),
    "keep_every": whole(1).or_one_of(None),
    "keep_initial": TRUTH,
    "evaluate_every": whole(1).or_one_of("end", None),
    "evaluate": NAMED,
    "evaluate.data_dir": PATHS,
    "evaluate.tasks": NAMES,
    "evaluate.split": SPLIT,
    "logger": NAMED,
    "logger.csv": NAMED,
    "logger.csv.every": whole(1),
    "trainer": NAMED,
    "trainer.accelerator": TEXT,
    "trainer.devices": DEVICES,
    "trainer.num_nodes": whole(1),
    "trainer.strategy": Kind(
        lambda value: (isinstance(value, str) and value) or (isinstance(value, dict) and "_target_" in value),
        "a name, or a constructor, {_target_: ...}",
    ),
    "trainer.precision": TEXT,
    "trainer.log_every_n_steps": whole(1),
    "keep_best": Kind(lambda value: isinstance(value, str | None), "eval/mean, eval/<task>, or null"),
    "early_stop": whole(1).or_one_of(None),
    "data.dir": TEXT,
    "data.alpha": Kind(finite, "a finite number"),
    "data.weights": Kind(lambda value: isinstance(value, dict | None), "numbers by name, {source: 1.0}, or null"),
    "data.prompts": Kind(lambda value: isinstance(value, dict | None), "words by kind, {query: 'query: '}, or null"),
    "stage.steps": whole(1).or_one_of(None),
    "stage.epochs": Kind(lambda value: value is None or above_zero(value), "above 0, or null"),
    "stage.init_from": TEXT.or_one_of(None),
    "stage.recompute_layers": TRUTH,
    "loss.temperature": Kind(
        lambda value: above_zero(value) or value == "learnt" or isinstance(value, dict),
        "above 0 (the paper's is 0.01), or learnt",
    ),
    "loss.widths": Kind(lambda value: isinstance(value, list | None), "a list, [384,256,128,64], or null"),
    "loss.width_weights": Kind(lambda value: isinstance(value, list | None), "a list, [1.0,0.5], or null"),
    "loss.directions": Kind(lambda value: isinstance(value, list), "a list, [query_to_doc]"),
    "loss.mask_margin": Kind(lambda value: value is None or finite(value), "a difference of cosines, 0.0, or null"),
    "loss.guide": TEXT.or_one_of(None),
    "ema_decay": Kind(lambda value: value is None or finite(value), "between 0 and 1, 0.999, or null"),
    "loss.chunk_rows": whole(1).or_one_of(None),
    "loss.tf32": TRUTH,
    "model.max_length": whole(3).or_one_of(None),
    "model.hidden_size": whole(1),
    "model.num_hidden_layers": whole(1),
    "model.num_attention_heads": whole(1),
    "model.intermediate_size": whole(1).or_one_of(None),
    "model.dropout": Kind(lambda value: finite(value) and 0 <= value < 1, "from 0 to less than 1"),
    "model.pooling": Kind(lambda value: isinstance(value, str | None), "mean, cls or last, or null"),
    "model.compile": TRUTH,
    "model.padding_free": Kind(lambda value: isinstance(value, bool | None), "true, false or null"),
}


# of conf/prepare.yaml and conf/data
PREPARE = {
    "engine": NAME,
    "dry_run": TRUTH,
    "force": TRUTH,
    "data.name": TEXT,
    "data.dir": TEXT,
    "data.path": TEXT.or_one_of(None),
    "data.raw": NAME,
    "data.fetch": NAME.or_one_of(None),
    "data.evaluation": NAME.or_one_of(None),
    "data.columns": Kind(lambda value: isinstance(value, dict | None), "a mapping, {query: A, pos: B}, or null"),
    "data.score": Kind(
        lambda value: value is None or value is False or (isinstance(value, str) and value), "a column, false or null"
    ),
    "data.min_score": NUMBER.or_one_of(None),
    "data.header": Kind(lambda value: isinstance(value, bool | None), "true, false or null"),
    "data.delimiter": Kind(lambda value: isinstance(value, str | None), "a character, tab or null"),
    "data.quoting": Kind(lambda value: value in ("minimal", "none", None), "minimal, none or null"),
    "data.mined": TEXT.or_one_of(None),
    "data.sources": LIST.or_one_of(None),
    "data.triples": Kind(lambda value: isinstance(value, dict | None), "settings by name, or null"),
    "data.tokenizer": TEXT.or_one_of(None),
    "data.tokenizer_revision": NAME.or_one_of(None),
    "data.vocab_size": whole(1).or_one_of(None),
    "data.max_tokens": whole(1),
    "data.max_rejected": SHARE,
    "data.dedup_across": TRUTH,
    "data.overrides": Kind(lambda value: isinstance(value, dict | None), "keys by source, {NAME: {score: A}}, or null"),
    "data.decontaminate": Kind(lambda value: isinstance(value, dict | None), "settings, {folder: ...}, or null"),
    "data.decontaminate.folder": TEXT.or_one_of(None),
    "data.decontaminate.texts": LIST,
    "data.decontaminate.ngram": whole(2).or_one_of(None),
    "data.decontaminate.overlap": SHARE,
    "data.decontaminate.min_words": whole(1),
}


DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:\d+)?")
ONE_DEVICE = Kind(lambda value: isinstance(value, str) and DEVICE.fullmatch(value), "auto, cpu or cuda:NUMBER")
SEVERAL_DEVICES = Kind(
    lambda value: all(map(ONE_DEVICE.fits, value)) and value if isinstance(value, list) else ONE_DEVICE.fits(value),
    "auto, cpu or cuda:NUMBER, or a list of them",
)
SEVERAL_TEXTS = Kind(
    lambda value: all(map(NAME.fits, value)) and value if isinstance(value, list) else NAME.fits(value),
    "a single name or path, or a list of them",
)
SEVERAL_COLUMNS = Kind(
    lambda value: all(map(TEXT.fits, value)) and value if isinstance(value, list) else TEXT.fits(value),
    "a column, or a list of them",
)
LABELLED = Kind(
    lambda value: SEVERAL_TEXTS.fits(list(value.values()) if isinstance(value, dict) else value),
    "a single name or path, a list of them, or {label: name}",
)
WORDS = Kind(lambda value: isinstance(value, dict | None), "words by kind, {query: 'query: '}, or null")
ENCODING = {"precision": NAME, "batch_tokens": whole(1).or_one_of(None), "device": SEVERAL_DEVICES, "prompts": WORDS}
WIDTHS = Kind(
    lambda value: value is None or (isinstance(value, list) and value and all(map(whole(1).fits, value))),
    "a list of whole numbers, [384,256], or null",
)
COMPACT = {"dtype": NAME, "truncate_dim": whole(1).or_one_of(None)}
COLUMNS = {key: PREPARE[f"data.{key}"] for key in ("columns", "score", "min_score", "header", "delimiter", "quoting")}

# of the scripts that use a model
EVAL = {
    "checkpoint": LABELLED,
    "data_dir": PATHS,
    "tasks": NAMES,
    "split": SPLIT,
    **ENCODING,
    "cache": NAME.or_one_of(None),
    "cache_gb": Kind(above_zero, "above 0"),
    "board": Kind(lambda value: isinstance(value, dict | None), "facts by name, {license: mit}, or null"),
    "widths": WIDTHS,
    "precisions": NAMES,
    "wandb": TRUTH,
}
EMBED = {
    "checkpoint": NAME,
    "in": NAME,
    "out": NAME,
    "format": NAME.or_one_of(None),
    "field": TEXT,
    "id": TEXT.or_one_of(None),
    "empty": NAME,
    "unreadable": NAME,
    "normalize": TRUTH,
    **COMPACT,
    "ranges": NAME.or_one_of(None),
    "prompt": NAME.or_one_of(None),
    "prefix": Kind(lambda value: isinstance(value, str | int | float | None), "words or null"),
    "precision": NAME,
    "batch_tokens": whole(1).or_one_of(None),
    "device": ONE_DEVICE,
    "trust_remote_code": TRUTH,
}
MINE = {
    "in": SEVERAL_TEXTS,
    "out": NAME,
    **COLUMNS,
    "checkpoint": NAME,
    "corpus": Kind(lambda value: value is None or SEVERAL_TEXTS.fits(value), f"{SEVERAL_TEXTS.said}, or null"),
    "corpus_field": SEVERAL_COLUMNS,
    "answers": TEXT.or_one_of(None),
    "rows": whole(1).or_one_of(None),
    "negatives": whole(),
    "fill": TRUTH,
    "skip": whole(),
    "depth": whole(),
    "draw": NAME,
    "margin": NUMBER.or_one_of(None),
    "relative_margin": NUMBER.or_one_of(None),
    "seed": whole(0),
    **ENCODING,
}
SEARCH = {
    "checkpoint": NAME,
    "folder": NAME,
    "query": Kind(lambda value: isinstance(value, str | int | float | None), "words or null"),
    "include": Kind(
        lambda value: value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value)),
        "patterns of file names, ['*.md'], or null",
    ),
    "top": whole(1),
    "passage_chars": whole(1),
    **COMPACT,
    "prompts": WORDS,
    "prompt_source": NAME.or_one_of(None),
    "precision": NAME,
    "device": ONE_DEVICE,
    "trust_remote_code": TRUTH,
    "out": NAME,
}
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code")  # as the hub names languages
LANGUAGE = Kind(
    lambda value: (
        value is None
        or (value and all(LANGUAGE_CODE.fullmatch(str(one)) for one in (value if isinstance(value, list) else [value])))
    ),
    "a code, fr, a list of them, [en,de], or null",
)
EXPORT = {
    "average_last": whole(2).or_one_of(None),
    "mix_with": NAME.or_one_of(None),
    "mix_share": SHARE.or_one_of(None),
    "truncate_dim": whole(1).or_one_of(None),
    "checkpoint": NAME,
    "out": NAME,
    "name": NAME.or_one_of(None),
    "results": NAME.or_one_of(None),
    "license": NAME.or_one_of(None),
    "language": LANGUAGE,
    "onnx": TRUTH,
    "int8": TRUTH,
    "sts": NAME.or_one_of(None),
    "push": NAME.or_one_of(None),
    "private": TRUTH,
    "trust_remote_code": TRUTH,
}
SCRIPTS = {"prepare": PREPARE, "eval": EVAL, "embed": EMBED, "mine": MINE, "search": SEARCH, "export": EXPORT}


def check_values(settings: Mapping, kinds: Mapping[str, Kind]) -> None:
    """Raises UserError for the first of the settings, nested dicts, that is there and not of its kind."""
    for key, kind in kinds.items():
        node = settings
        *parents, name = key.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping) and name in node and not kind.fits(node[name]):
            value = "null" if node[name] is None else node[name]
            raise UserError(f"{key}={value} must be {kind.said}")
