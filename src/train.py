"""Train an encoder for one stage, pre-training or fine-tuning: python src/train.py stage=pretrain model=base"""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gte.build import (
    build,
    build_encoder,
    build_loggers,
    build_loss,
    build_trainer,
    check_loss,
    choose_sources,
    plain,
    require_prepared,
    script,
)
from gte.overrides import refuse_unread, typed

if TYPE_CHECKING:
    from upath import UPath

    from gte.data.module import PairData
    from gte.encoder import Encoder
    from gte.evaluation.during import Evaluate
    from gte.training.changes import Change
    from gte.training.task import ContrastiveTask

READ_WARNINGS = (  # of Lightning 2.6 about what is meant here, or about PyTorch's newer names; all others are shown
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "`broadcast_buffers` is deprecated",
    "You have overridden `transfer_batch_to_device` in `LightningModule`",  # chunks are moved one by one
    "Be aware that when using `ckpt_path`, callbacks used to create",  # this project's notes say what has changed
    "You're resuming from a checkpoint that ended before the epoch ended",  # the data start at the step, exactly
    ".*does not have many workers which may be a bottleneck",  # workers= is the user's choice
    "This DataLoader will create .* worker processes in total",
)
UNREPORTED = ("temperature", "chunk_rows")  # of conf/loss: named by itself, and memory alone


def check(cfg: DictConfig) -> None:
    from gte.data.shards import Manifest
    from gte.early import check_batch, check_model, check_new_run, check_trainer
    from gte.evaluation.suite import check_tasks
    from gte.remote import find_checkpoint, is_address
    from gte.values import TRAIN, check_values

    refuse_unread(
        "data", ("dir", "alpha", "weights", "prompts"), "src/prepare.py", {"sources": "choose by sources=[...]"}
    )
    check_values(plain(cfg), TRAIN)
    stage = build(cfg.stage)
    require_prepared(cfg)
    manifest = Manifest.load(cfg.data.dir)
    chosen, sizes = manifest.chosen(cfg.data.dir, stage.name, choose_sources(cfg)), manifest.stage(stage.name)
    check_batch({name: sizes[name] for name in chosen}, stage.global_batch)
    if cfg.loss.get("guide") and cfg.loss.get("mask_margin") is not None and not is_address(cfg.loss.guide):
        find_checkpoint(cfg.loss.guide)
    if stage.init_from and cfg.resume is None and not is_address(stage.init_from):
        find_checkpoint(stage.init_from)
    folder = cfg.checkpoint_dir or Path(cfg.out) / "checkpoints"
    if not is_address(folder):
        check_new_run(Path(cfg.out), Path(folder), cfg.resume)
    if cfg.evaluate_every is not None and cfg.evaluate.data_dir is not None:
        evaluate = plain(cfg.evaluate)
        check_tasks(evaluate["data_dir"], evaluate["tasks"], split=evaluate["split"])
    check_trainer(plain(cfg.trainer))
    build(cfg.optim)
    check_model(cfg.model.get("name_or_path"), cfg.model.get("revision"))


@script("train", check, alone=("out", "checkpoint_dir"))
def main(cfg: DictConfig) -> int | None:
    import torch

    from gte.data.module import prepared_tokenizer
    from gte.models.load import history, steps_of
    from gte.remote import place
    from gte.results.report import FILE as REPORT
    from gte.temperature import LearntTemperature
    from gte.training.changes import changes, check_settings, tell_changes
    from gte.training.ranks import tie_to_starter
    from gte.training.resume import find_resume, finished
    from gte.training.zero import check_resume

    tie_to_starter()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in READ_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    out = Path(cfg.out)
    tell_of_dead_ranks(out)
    loss, data = build_objective(cfg)
    facts = stated_facts(cfg, data)
    folder = place(cfg.checkpoint_dir) if cfg.checkpoint_dir else out / "checkpoints"
    resume = find_resume(out, folder, cfg.resume)
    done = bool(resume) and finished(resume, facts, data.total_steps)
    if cfg.resume == "auto" and done:
        if not (out / REPORT).exists() and (out / "metrics.csv").exists():  # a full disk kept it from being written
            draw(data.stage.name, out)
        print(f"{data.stage.name} was done already: {folder / 'last.ckpt'}")
        return None
    callbacks, evaluation = build_callbacks(cfg, data.total_steps, folder)
    trainer = checked_trainer(cfg, data, callbacks)
    facts["precision"] = trainer.precision
    *earlier, begun = (history(resume) if resume else []) or [None]
    changed = changes(begun, facts) if begun else []
    if resume:
        check_resume(resume, trainer, learnt=isinstance(loss, LearntTemperature))
        check_settings(resume, changed)
    torch.manual_seed(cfg.seed)
    encoder = build_encoder(cfg.model, lambda: prepared_tokenizer(cfg.data.dir))
    fit_to_data(encoder, data, cfg, resume, changed)
    record_parts(facts, data, begun, changed)
    if data.stage.init_from and not resume:
        earlier = history(data.stage.init_from)
        if trainer.is_global_zero:
            tell_unfinished(data.stage.init_from, earlier)
    task = build_task(cfg, encoder, loss, data, [*earlier, facts])
    if trainer.precision == "64-true":
        task.double()  # Lightning does so after it has read a checkpoint, whose weights float32 would round
    if trainer.is_global_zero:
        tell_beginning(data, trainer.precision, trainer.strategy.root_device.type, out)
        if begun:
            tell_changes(begun, changed)
        if resume:
            print(f"{data.stage.name}: goes on after step {steps_of(resume)}, from {resume}", flush=True)
        elif cfg.resume == "auto":
            print(f"{data.stage.name}: begins at step 0, as {folder} holds no checkpoint to resume from", flush=True)
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    return tell_end(cfg, task, data, evaluation, folder) if trainer.is_global_zero else None


def build_objective(cfg: DictConfig) -> tuple[Callable, "PairData"]:
    """The loss and the data of a stage, whose groups are as large as the data's negatives allow where none was typed.

    Raises UserError where one of the two, or stage.init_from, cannot be used.
    """
    from gte.data.module import PairData, group_size_of
    from gte.remote import find_checkpoint

    stage = build(cfg.stage)
    settings = {"seed": cfg.seed, "sources": choose_sources(cfg), "workers": cfg.workers, "verify": cfg.verify}
    if "stage.group_size" not in typed():
        cfg.stage.group_size = group_size_of(cfg.data.dir, stage, settings["sources"])
        stage = build(cfg.stage)
    loss = build_loss(cfg.loss)
    check_loss(cfg.loss, loss)
    if stage.init_from:
        find_checkpoint(stage.init_from)
    texts = {"text_hashes": cfg.mask_repeated_texts, "prompts": plain(cfg)["data"]["prompts"]}
    return loss, PairData(cfg.data.dir, stage, **mixing_of(cfg), **settings, **texts)


def mixing_of(cfg: DictConfig) -> dict:
    """The settings by which sources are mixed."""
    weights = cfg.data.weights and {str(name): weight for name, weight in plain(cfg.data.weights).items()}
    return {"alpha": cfg.data.alpha, "weights": weights}


def stated_facts(cfg: DictConfig, data: "PairData") -> dict:
    """The record of a stage as far as its configuration and its data say it, before anything is trained."""
    loss = plain(cfg.loss)
    return {key: plain(cfg[key]) for key in ("stage", "optim", "model")} | {
        "loss": cfg.loss._target_.rsplit(".")[-1],
        "temperature": loss.get("temperature"),
        "loss_options": {key: value for key, value in loss.items() if key[0] != "_" and key not in UNREPORTED},
        "mask_repeated_texts": cfg.mask_repeated_texts,
        **mixing_of(cfg),
        "seed": cfg.seed,
        "sources": data.source_facts(),
        "data": data.identity(),
        "prompts": plain(cfg)["data"]["prompts"],
        "keep_best": cfg.keep_best,
        "early_stop": cfg.early_stop,
        "ema_decay": cfg.ema_decay,
    }


def build_callbacks(cfg: DictConfig, total_steps: int, folder: "Path | UPath") -> tuple[list, "Evaluate | None"]:
    """The trainer's callbacks, and the one among them that evaluates, where evaluate_every asks for it.

    Raises UserError for evaluations that cannot be made, and for what they cannot decide.
    """
    from gte.training.callbacks import run_callbacks

    planned = None
    if cfg.evaluate_every is not None or cfg.keep_best or cfg.early_stop:
        from gte.evaluation.during import Evaluate, check_keep_best, plan_evaluation

        planned = plan_evaluation(**plain(cfg.evaluate)) if cfg.evaluate_every is not None else None
        check_keep_best(cfg.keep_best, cfg.early_stop, cfg.evaluate_every, planned)
    kept = {"keep_initial": cfg.keep_initial, "keep_last": cfg.keep_last, "keep_every": cfg.keep_every}
    callbacks = run_callbacks(Path(cfg.out), folder, every=cfg.checkpoint_every, **kept)
    if cfg.ema_decay is not None:
        from gte.training.averaging import Ema

        callbacks.append(Ema(folder, cfg.ema_decay))
    if planned is None:
        return callbacks, None
    every = total_steps if cfg.evaluate_every == "end" else cfg.evaluate_every
    best = {"folder": folder, "keep_best": cfg.keep_best, "early_stop": cfg.early_stop}
    evaluation = Evaluate(planned, every, pause=callbacks[0].pause, **best)
    return [*callbacks, evaluation], evaluation


def checked_trainer(cfg: DictConfig, data: "PairData", callbacks: list):
    """The Lightning Trainer. Raises UserError where it does not fit the data or the loss."""
    from gte.errors import UserError
    from gte.training.checkpoint import WholeFiles

    trainer = build_trainer(
        cfg.trainer,
        max_steps=data.total_steps,
        logger=build_loggers(cfg),
        callbacks=callbacks,
        default_root_dir=str(cfg.out),
        enable_progress_bar=sys.stderr.isatty(),
    )
    trainer.strategy.checkpoint_io = WholeFiles(Path(cfg.out))
    data.check_ranks(trainer.world_size)
    if cfg.loss.get("tf32") and trainer.precision in ("32-true", "64-true"):
        raise UserError(
            f"loss.tf32=true rounds what trainer.precision={trainer.precision} promises; set loss.tf32=false"
        )
    return trainer


def fit_to_data(
    encoder: "Encoder", data: "PairData", cfg: DictConfig, resume: Path | None, changed: list["Change"]
) -> None:
    """Gives the encoder the weights and prompts that it begins with, and the data its length and prompts.

    Raises UserError where encoder, data, checkpoint and loss do not go together.
    """
    from gte.errors import UserError
    from gte.models.load import check_same_model, initialize, take_prompts
    from gte.training.changes import check_data

    data.check_encoder(encoder)
    if data.stage.init_from and not resume:
        initialize(encoder, data.stage.init_from)
    if resume:
        check_same_model(encoder, resume)
        check_data(resume, changed, cfg.resume_data)
        take_prompts(encoder, resume)
    data.set_prompts(encoder)
    if cfg.loss.get("widths") and cfg.loss.widths[0] > encoder.width:
        raise UserError(f"loss.widths={cfg.loss.widths} must be at most the encoder's width, {encoder.width}")
    if cfg.loss.get("guide"):
        from gte.training.guide import Guide

        data.guide = Guide(cfg.loss.guide, data)


def record_parts(facts: dict, data: "PairData", begun: dict | None, changed: list["Change"]) -> None:
    """Completes the record of a stage, and lets the data begin where the last of its parts does.

    begun: the record of the run that is resumed, and what has changed since.
    """
    from gte.provenance import git_commit
    from gte.training.changes import continued, earlier_epochs

    facts |= {"commit": git_commit(), "sources": data.source_facts()}
    facts["max_length"] = data.stage.max_length  # which the model may lower
    facts["segments"] = continued(begun, facts, changed)
    data.go_on(facts["segments"][-1]["first_step"], earlier_epochs(facts["segments"]))


def build_task(
    cfg: DictConfig, encoder: "Encoder", loss: Callable, data: "PairData", history: list[dict]
) -> "ContrastiveTask":
    """The LightningModule of a stage. Raises UserError for a schedule that does not fit its steps."""
    from gte.training.task import ContrastiveTask

    optim = build(cfg.optim)
    optim.check_steps(data.total_steps)
    return ContrastiveTask(
        encoder,
        loss,
        optim,
        data.stage,
        total_steps=data.total_steps,
        sources=data.source_names,
        history=history,
        seed=cfg.seed,
        max_skipped=cfg.max_skipped,
    )


def tell_beginning(data: "PairData", precision: str, device: str, out: Path) -> None:
    """Prints what is trained, on what, and where to."""
    import torch

    from gte.errors import tell

    count = torch.get_num_threads()
    threads = f"{count} thread{'s' * (count > 1)}, " if device == "cpu" else ""
    if data.lowered:
        tell(data.lowered)
    print(f"{data.stage.name}: {data.describe()}, {precision}, {threads}writes {out}", flush=True)


def tell_unfinished(init_from: str, stages: list[dict]) -> None:
    """Notes that the run which training starts from was stopped on its way; a .ckpt that is named is meant."""
    from gte.errors import tell

    last = stages[-1] if stages and not init_from.endswith(".ckpt") else {}
    planned = last.get("stage", {}).get("steps")
    if planned and last.get("steps", planned) < planned and "stopped_early" not in last:
        done = f"stopped after {last['steps']:,} of {planned:,} steps"
        tell(f"note: stage.init_from={init_from} was {done}; its own command with resume=auto finishes it")


def tell_end(
    cfg: DictConfig, task: "ContrastiveTask", data: "PairData", evaluation: "Evaluate | None", folder: "Path | UPath"
) -> int | None:
    """Draws and prints how far the training came; returns the exit code."""
    from gte.errors import Stopped
    from gte.models.encoding import cut_line

    out, trainer, name = Path(cfg.out), task.trainer, data.stage.name
    drawn = draw(name, out, task.facts())
    if evaluation and evaluation.best:
        metric, score, step = evaluation.best.values()
        print(f"best {metric}: {score:.2f} after step {step}, {folder / 'best.ckpt'}")
    if "stopped_early" in task.history[-1]:
        print(f"{name} ended early: {cfg.early_stop} evaluations without a higher {cfg.keep_best}")
    elif trainer.global_step < data.total_steps:
        print(f"{name} stopped after {trainer.global_step} steps; go on with resume=auto out={out}")
        return Stopped.exit_code
    if line := cut_line(task.counts, data.stage.max_length):
        counted = ["since the resume"] * task.resumed + ["on rank 0"] * (trainer.world_size > 1)
        print(line + (f" (counted {' '.join(counted)})" if counted else ""))
    print(f"epochs: {', '.join(f'{source} {times:.3g}' for source, times in data.epochs(data.total_steps).items())}")
    print(f"{name} done: {folder / 'last.ckpt'}{drawn}")
    return None


def draw(name: str, out: Path, history: list[dict] | None = None) -> str:
    """Draws the loss curve and the report, and returns where they are, as the end of a line.

    What cannot be drawn is a note: the training is done, and its checkpoints are written.
    """
    from gte.errors import first_line, tell
    from gte.results.figures import loss_curves
    from gte.results.report import write_run_report

    try:
        loss_curves({name: out / "metrics.csv"}, out / "loss.png")
        return f", loss curve {out / 'loss.png'}, report {write_run_report(out, history)}"
    except Exception as error:  # a library's that draws, or a disk's: none of them undoes the training
        kind = type(error).__name__
        tell(f"note: no report of {out} ({kind}: {first_line(error)}); python src/collect.py report={out} writes it")
        return ""


def tell_of_dead_ranks(out: Path) -> None:
    """Shows the one message of Lightning's launcher: which rank died, seconds before it kills the others."""
    from gte.errors import tell

    shown = logging.Handler()
    shown.emit = lambda record: tell(shown.format(record))
    shown.setFormatter(logging.Formatter(f"error: %(message)s Go on with resume=auto out={out}"))
    launcher = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    launcher.setLevel(logging.INFO)
    launcher.handlers = [shown]
    launcher.propagate = False  # to a handler of Lightning's package, which would show it once more


if __name__ == "__main__":
    main()
