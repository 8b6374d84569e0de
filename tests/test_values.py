"""A setting that cannot be meant is one line, by its own name; no traceback, and no run that means something else."""

import pytest
import yaml

from gte.benchmarks.values import BENCHMARKS
from gte.encoder import Encoder
from gte.errors import UserError
from gte.optim import Optim
from gte.overrides import CONF
from gte.stage import Stage
from gte.values import PREPARE, SCRIPTS, TRAIN, check_values

WRONG = [
    ("seed", None), ("seed", 1.5), ("seed", "abc"), ("sources", 5), ("source_sets", 3), ("verify", "abc"),
    ("mask_repeated_texts", None), ("workers", -1), ("workers", True), ("resume", True), ("checkpoint_every", 0),
    ("checkpoint_dir", 5), ("max_skipped", None), ("keep_last", 0), ("keep_every", "abc"), ("keep_initial", 1),
    ("evaluate_every", "ende"), ("evaluate_every", 0), ("evaluate", None), ("data.dir", None), ("data.alpha", None),
    ("data.alpha", float("nan")), ("data.weights", [1, 2]), ("data.prompts", "abc"), ("stage.steps", 0),
    ("stage.epochs", -1.0), ("stage.init_from", ["a"]), ("stage.recompute_layers", 2), ("loss.temperature", None),
    ("loss.temperature", float("nan")), ("loss.temperature", 0), ("loss.chunk_rows", 0), ("loss.chunk_rows", 1.5),
    ("loss.tf32", None), ("model.compile", "abc"), ("model.padding_free", "abc"), ("model.pooling", ["cls"]),
    ("model.hidden_size", "abc"), ("model.hidden_size", None), ("model.num_hidden_layers", 0),
    ("evaluate.data_dir", True), ("evaluate.data_dir", [1]), ("evaluate.tasks", 1.5), ("logger", None),
    ("evaluate.split", 3), ("evaluate.split", {"STS12": 1}),
    ("logger.csv", 3), ("resume_data", "other"), ("resume_data", None),
    ("logger.csv.every", 0), ("logger.csv.every", None), ("trainer", None), ("trainer.accelerator", None),
    ("trainer.devices", None), ("trainer.devices", True), ("trainer.devices", 1.5), ("trainer.num_nodes", 0),
    ("trainer.strategy", None), ("trainer.strategy", {"a": 1}), ("trainer.strategy", ""), ("trainer.precision", True),
    ("trainer.log_every_n_steps", 0), ("model.num_attention_heads", 0),
    ("model.intermediate_size", 0), ("model.dropout", 1), ("model.max_length", 2),
    ("keep_best", 3), ("early_stop", 0), ("early_stop", "end"),
    ("loss.widths", 64), ("loss.width_weights", "abc"), ("loss.directions", None), ("loss.mask_margin", "abc"),
    ("loss.guide", ["a"]), ("ema_decay", "abc"), ("loss.temperature", "warm"),
]  # fmt: skip
OPTIM = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "warmup_fraction": 0.05, "clip_norm": 1}
STAGE = {
    "name": "pretrain", "max_length": 8, "global_batch": 4, "steps": 1, "epochs": None, "group_size": 1,
    "lr_scale": 1.0, "init_from": None, "batch_tokens": 64, "recompute_fraction": 0.0,
}  # fmt: skip


WRONG_IN_PREPARE = [
    ("engine", None), ("dry_run", "abc"), ("force", 1), ("data.name", None), ("data.dir", True), ("data.dir", ""),
    ("data.path", ["a"]), ("data.path", ""), ("data.raw", None), ("data.fetch", 1.5), ("data.evaluation", ["a"]),
    ("data.columns", "abc"), ("data.score", True), ("data.score", ""), ("data.min_score", [1]), ("data.min_score", "a"),
    ("data.header", "yes"), ("data.delimiter", 5), ("data.quoting", "all"),
    ("data.quoting", True), ("data.mined", True), ("data.sources", -1), ("data.sources", "a"),
    ("data.triples", 3), ("data.tokenizer", ["a"]), ("data.tokenizer_revision", False), ("data.vocab_size", "abc"),
    ("data.vocab_size", 0), ("data.max_tokens", None), ("data.max_tokens", -1), ("data.max_rejected", 1.5),
    ("data.dedup_across", None), ("data.overrides", [1]), ("data.decontaminate", "abc"),
    ("data.decontaminate.folder", True),
    ("data.decontaminate.texts", "queries"), ("data.decontaminate.ngram", 1), ("data.decontaminate.overlap", 2),
    ("data.decontaminate.min_words", 0),
]  # fmt: skip


def nested(key: str, value) -> dict:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_named_with_what_it_must_be(key, value):
    with pytest.raises(UserError, match=rf"^{key}=.* must be .+") as told:
        check_values(nested(key, value), TRAIN)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("key", "value"), WRONG_IN_PREPARE)
def test_a_wrong_value_of_prepare_is_named_with_what_it_must_be(key, value):
    with pytest.raises(UserError, match=rf"^{key}=.* must be .+") as told:
        check_values(nested(key, value), PREPARE)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - {"prepare"}))
def test_every_setting_of_a_script_is_checked_takes_what_its_file_holds_and_refuses_a_list_in_a_list(name):
    held = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    held = {key: value for key, value in held.items() if key not in ("defaults", "hydra", "paths")}
    assert set(held) - {"out"} <= set(SCRIPTS[name])
    check_values({key: "a" if value == "???" else value for key, value in held.items()}, SCRIPTS[name])
    for key in set(SCRIPTS[name]) - {"columns"}:
        with pytest.raises(UserError, match=f"^{key}=.* must be"):
            check_values({key: [[1]]}, SCRIPTS[name])


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_what_the_configurations_of_data_hold_fits(name):
    data = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    check_values({"data": data, "engine": "native", "dry_run": False, "force": False}, PREPARE)
    assert {key for key, _ in WRONG_IN_PREPARE} == set(PREPARE)
    assert {f"data.{key}" for key in data} <= {*PREPARE, "data.alpha", "data.weights", "data.prompts"}


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "benchmark").glob("*.yaml")))
def test_every_setting_of_a_benchmark_is_checked_takes_what_its_file_holds_and_refuses_counts_below_one(name):
    held = yaml.safe_load((CONF / "benchmark" / f"{name}.yaml").read_text())
    kinds = BENCHMARKS[name]
    assert {*held} == {*kinds, "_target_"} and held["_target_"] == f"gte.benchmarks.{name}.run"
    check_values({key: "a" if value == "???" else value for key, value in held.items()}, kinds)
    for key in kinds:
        wrong = [[[1]], True] + [0.5, -1, *([0] if key != "work" else [])] * (type(held[key]) is int)
        for value in wrong:
            with pytest.raises(UserError, match=rf"^{key}=.* must be .+") as told:
                check_values({key: value}, kinds)
            assert "\n" not in str(told.value)


def test_every_key_that_is_checked_refuses_something_and_takes_what_the_configurations_hold():
    assert {key for key, _ in WRONG} == set(TRAIN)
    check_values({}, TRAIN)
    taken = {"keep_last": None, "evaluate_every": "end", "sources": "demo", "seed": -1, "resume": "auto", "workers": 0}
    check_values(taken | {"data": {"dir": 2020, "alpha": 0}, "model": {"dropout": 0.0, "max_length": None}}, TRAIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": float("inf")}, "optim.lr must be positive and finite"),
        ({"betas": 3}, "optim.betas=3 must be two numbers"),
        ({"betas": [0.9]}, r"optim.betas=\[0.9\] must be two numbers"),
        ({"betas": ["a", "b"]}, "must be two numbers"),
        ({"betas": [0.9, 1.0]}, "from 0 to less than 1"),
        ({"eps": -1}, "optim.eps=-1 must be finite and at least 0"),
        ({"weight_decay": -1}, "optim.weight_decay=-1 must be"),
        ({"clip_norm": float("nan")}, "optim.clip_norm=nan must be"),
    ],
)
def test_an_optimizer_that_cannot_be_built_is_refused_before_the_training(change, message):
    Optim(**OPTIM)
    with pytest.raises(UserError, match=message):
        Optim(**OPTIM | change)


def test_a_learning_rate_is_never_scaled_below_zero():
    Stage(**STAGE)
    for scale in (0, -1, float("inf")):
        with pytest.raises(UserError, match=r"stage.lr_scale=.+ must be positive"):
            Stage(**STAGE | {"lr_scale": scale})


@pytest.mark.parametrize("length", [0, 1, 2, -1, 5.5, True])
def test_a_length_without_room_for_a_text_is_refused(small_model, length):
    with pytest.raises(UserError, match=f"max_length={length} must be a whole number of tokens, at least 3"):
        Encoder.from_pretrained(small_model, max_length=length)


def test_heads_that_do_not_divide_the_width_are_refused_with_one_that_they_divide(small_model):
    tokenizer = Encoder.from_pretrained(small_model).tokenizer
    with pytest.raises(UserError, match=r"hidden_size=130 does not divide over num_attention_heads=4; choose .*=132"):
        Encoder.from_scratch(tokenizer, hidden_size=130, num_hidden_layers=1, num_attention_heads=4)
