"""Train one stage: python src/train.py stage=pretrain model=base"""

import logging
import sys
import warnings
from pathlib import Path

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
    refuse_unread,
    require_prepared,
    script,
    typed,
)

READ_WARNINGS = (  # of Lightning 2.6 about what is meant here, or about PyTorch's newer names; all others are shown
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "`broadcast_buffers` is deprecated",
    "You have overridden `transfer_batch_to_device` in `LightningModule`",  # chunks are moved one by one
    "You're resuming from a checkpoint that ended before the epoch ended",  # the data start at the step, exactly
    ".*does not have many workers which may be a bottleneck",  # workers= is the user's choice
    "This DataLoader will create .* worker processes in total",
)
UNREPORTED = ("_target_", "temperature", "chunk_rows")  # of conf/loss: named by themselves, and memory alone


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
    if cfg.loss.get("guide") and not is_address(cfg.loss.guide):
        find_checkpoint(cfg.loss.guide)
    if stage.init_from and cfg.resume is None and not is_address(stage.init_from):
        find_checkpoint(stage.init_from)
    folder = cfg.checkpoint_dir or Path(cfg.out) / "checkpoints"
    if not is_address(folder):
        check_new_run(Path(cfg.out), Path(folder), cfg.resume)
    if cfg.evaluate_every is not None and cfg.evaluate.data_dir is not None:
        check_tasks(plain(cfg.evaluate)["data_dir"], plain(cfg.evaluate)["tasks"])
    check_trainer(plain(cfg.trainer))
    build(cfg.optim)
    check_model(cfg.model.get("name_or_path"))


@script("train", check, alone=("out", "checkpoint_dir"))
def main(cfg: DictConfig) -> int | None:
    import torch

    from gte.data.module import PairData, group_size_of, prepared_tokenizer
    from gte.encoder import cut_line
    from gte.errors import Stopped, UserError, tell
    from gte.models.load import check_same_model, history, initialize, steps_of, take_prompts
    from gte.provenance import git_commit
    from gte.remote import find_checkpoint, place
    from gte.results.figures import loss_curves
    from gte.results.report import FILE as REPORT
    from gte.results.report import write_run_report
    from gte.temperature import LearntTemperature
    from gte.training.callbacks import run_callbacks
    from gte.training.changes import changes, check_data, check_settings, continued, earlier_epochs, tell_changes
    from gte.training.checkpoint import WholeFiles
    from gte.training.resume import find_resume, finished
    from gte.training.task import ContrastiveTask
    from gte.training.zero import check_resume

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in READ_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    out = Path(cfg.out)
    tell_of_dead_ranks(out)
    stage = build(cfg.stage)
    weights = cfg.data.weights and {str(name): weight for name, weight in plain(cfg.data.weights).items()}
    mixing = {"alpha": cfg.data.alpha, "weights": weights}
    settings = {"seed": cfg.seed, "sources": choose_sources(cfg), "workers": cfg.workers, "verify": cfg.verify}
    if "stage.group_size" not in typed():
        cfg.stage.group_size = group_size_of(cfg.data.dir, stage, settings["sources"])
        stage = build(cfg.stage)
    loss, stated_loss = build_loss(cfg.loss), plain(cfg.loss)
    check_loss(cfg.loss, loss)
    if stage.init_from:
        find_checkpoint(stage.init_from)
    prompts = plain(cfg)["data"]["prompts"]
    data = PairData(cfg.data.dir, stage, **mixing, **settings, text_hashes=cfg.mask_repeated_texts, prompts=prompts)
    facts = {key: plain(cfg[key]) for key in ("stage", "optim", "model")} | {
        "loss": cfg.loss._target_.rsplit(".")[-1],
        "temperature": stated_loss.get("temperature"),
        "loss_options": {key: value for key, value in stated_loss.items() if key not in UNREPORTED},
        "mask_repeated_texts": cfg.mask_repeated_texts,
        **mixing,
        "seed": cfg.seed,
        "sources": data.source_facts(),
        "data": data.identity(),
        "prompts": prompts,
        "keep_best": cfg.keep_best,
        "early_stop": cfg.early_stop,
        "ema_decay": cfg.ema_decay,
    }
    folder = place(cfg.checkpoint_dir) if cfg.checkpoint_dir else out / "checkpoints"
    resume = find_resume(out, folder, cfg.resume)
    done = bool(resume) and finished(resume, facts, data.total_steps)
    if cfg.resume == "auto" and done:
        if not (out / REPORT).exists() and (out / "metrics.csv").exists():  # a full disk kept it from being written
            loss_curves({stage.name: out / "metrics.csv"}, out / "loss.png")
            write_run_report(out)
        print(f"{stage.name} was done already: {folder / 'last.ckpt'}")
        return None
    planned = None
    if cfg.evaluate_every is not None or cfg.keep_best or cfg.early_stop:
        from gte.evaluation.during import Evaluate, check_keep_best, plan_evaluation

        planned = plan_evaluation(**plain(cfg.evaluate)) if cfg.evaluate_every is not None else None
        check_keep_best(cfg.keep_best, cfg.early_stop, cfg.evaluate_every, planned)
    kept = {"keep_initial": cfg.keep_initial, "keep_last": cfg.keep_last, "keep_every": cfg.keep_every}
    callbacks = run_callbacks(out, folder, every=cfg.checkpoint_every, **kept)
    if cfg.ema_decay is not None:
        from gte.training.averaging import Ema

        callbacks.append(Ema(folder, cfg.ema_decay))
    evaluation = None
    if planned is not None:
        every = data.total_steps if cfg.evaluate_every == "end" else cfg.evaluate_every
        best = {"folder": folder, "keep_best": cfg.keep_best, "early_stop": cfg.early_stop}
        evaluation = Evaluate(planned, every, pause=callbacks[0].pause, **best)
        callbacks.append(evaluation)
    trainer = build_trainer(
        cfg.trainer,
        max_steps=data.total_steps,
        logger=build_loggers(cfg),
        callbacks=callbacks,
        default_root_dir=str(out),
        enable_progress_bar=sys.stderr.isatty(),
    )
    trainer.strategy.checkpoint_io = WholeFiles(out)
    data.check_ranks(trainer.world_size)
    if cfg.loss.get("tf32") and trainer.precision in ("32-true", "64-true"):
        raise UserError(
            f"loss.tf32=true rounds what trainer.precision={trainer.precision} promises; set loss.tf32=false"
        )
    facts["precision"] = trainer.precision
    *earlier, begun = (history(resume) if resume else []) or [None]
    changed = changes(begun, facts) if begun else []
    if resume:
        check_resume(resume, trainer, learnt=isinstance(loss, LearntTemperature))
        check_settings(resume, changed)
    torch.manual_seed(cfg.seed)
    encoder = build_encoder(cfg.model, lambda: prepared_tokenizer(cfg.data.dir))
    data.check_encoder(encoder)
    stage = data.stage
    if stage.init_from and not resume:
        initialize(encoder, stage.init_from)
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
    facts |= {"commit": git_commit(), "sources": data.source_facts()}
    facts["max_length"] = stage.max_length  # which the model may lower
    facts["segments"] = continued(begun, facts, changed)
    data.go_on(facts["segments"][-1]["first_step"], earlier_epochs(facts["segments"]))
    if stage.init_from and not resume:
        earlier = history(stage.init_from)
    task = ContrastiveTask(
        encoder,
        loss,
        build(cfg.optim),
        stage,
        total_steps=data.total_steps,
        sources=data.source_names,
        history=[*earlier, facts],
        seed=cfg.seed,
        max_skipped=cfg.max_skipped,
    )
    if trainer.precision == "64-true":
        task.double()  # Lightning does so after it has read a checkpoint, whose weights float32 would round
    if trainer.is_global_zero:
        count = torch.get_num_threads()
        threads = f"{count} thread{'s' * (count > 1)}, " if trainer.strategy.root_device.type == "cpu" else ""
        if data.lowered:
            tell(data.lowered)
        print(f"{stage.name}: {data.describe()}, {trainer.precision}, {threads}writes {out}", flush=True)
        if begun:
            tell_changes(begun, changed)
        if resume:
            print(f"{stage.name}: goes on after step {steps_of(resume)}, from {resume}", flush=True)
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.is_global_zero:
        loss_curves({stage.name: out / "metrics.csv"}, out / "loss.png")
        page = write_run_report(out, task.facts())
        if evaluation and evaluation.best:
            metric, score, step = evaluation.best.values()
            print(f"best {metric}: {score:.2f} after step {step}, {folder / 'best.ckpt'}")
        if "stopped_early" in facts:
            print(f"{stage.name} ended early: {cfg.early_stop} evaluations without a higher {cfg.keep_best}")
        elif trainer.global_step < data.total_steps:
            print(f"{stage.name} stopped after {trainer.global_step} steps; go on with resume=auto out={out}")
            return Stopped.exit_code
        if line := cut_line(task.counts, stage.max_length):
            print(line + (" (counted on rank 0)" if trainer.world_size > 1 else ""))
        print(f"epochs: {', '.join(f'{name} {times:.3g}' for name, times in data.epochs(data.total_steps).items())}")
        print(f"{stage.name} done: {folder / 'last.ckpt'}, loss curve {out / 'loss.png'}, report {page}")


def tell_of_dead_ranks(out: Path) -> None:
    """Shows the one message of Lightning's launcher: which rank died, seconds before it kills the others."""
    from gte.errors import tell

    shown = logging.Handler()
    shown.emit = lambda record: tell(shown.format(record))
    shown.setFormatter(logging.Formatter(f"error: %(message)s Go on with resume=auto out={out}"))
    launcher = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    launcher.setLevel(logging.INFO)
    launcher.handlers = [shown]


if __name__ == "__main__":
    main()
