"""Score checkpoints on a suite of evaluation tasks: python src/eval.py checkpoint=RUN_DIR suite=demo"""

import contextlib
import functools
import os
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gte.build import build, listed, plain, script


def check(cfg: DictConfig) -> None:
    from gte.early import check_models
    from gte.evaluation.suite import check_tasks

    settings = plain(cfg)
    checkpoints, data_dir, tasks = settings["checkpoint"], settings["data_dir"], listed(settings["tasks"])
    check_models(list(checkpoints.values()) if isinstance(checkpoints, dict) else listed(checkpoints))
    suite = build(OmegaConf.create(settings["suite"]), _convert_="all")
    if data_dir is not None or suite.folder or not (suite.tasks or tasks):
        check_tasks(data_dir, tasks, suite, settings["split"])


@script("eval", check, alone=("out",))
def main(cfg: DictConfig) -> int:
    from gte.evaluation.suite import exit_code, name_checkpoints, plan, run_suite
    from gte.results.figures import loss_curves
    from gte.results.table import cells
    from gte.ticker import still_at

    settings = plain(cfg)
    suite = build(OmegaConf.create(settings["suite"]), _convert_="all")
    checkpoints = name_checkpoints(settings["checkpoint"])
    if cfg.data_dir is not None and all(map(is_here, checkpoints.values())):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # with local folders nothing is asked of the hub

    from gte.evaluation.grid import Grid
    from gte.evaluation.model import check_checkpoint, load_model, prompt_names
    from gte.models.device import choose_devices, choose_precision
    from gte.prompts import check_prompts

    for checkpoint in checkpoints.values():
        check_checkpoint(checkpoint)
    todo = plan(suite, settings["data_dir"], listed(settings["tasks"]), settings["split"])
    if settings["prompts"]:
        check_prompts(settings["prompts"], known=prompt_names([*todo.run, *todo.skipped, *suite.tasks]))
    if settings["board"]:
        from gte.evaluation.board import check_stated

        check_stated(settings["board"])
    devices = choose_devices(settings["device"])
    precision = choose_precision(cfg.precision, devices[0])
    load = functools.partial(
        load_model,
        precision=precision,
        batch_tokens=cfg.batch_tokens,
        device=devices,
        progress=sys.stderr.isatty(),
        cache=cfg.cache,
        cache_gb=cfg.cache_gb,
        prompts=settings["prompts"],
    )
    grid = Grid(load, checkpoints, settings["widths"], listed(settings["precisions"]))
    with contextlib.nullcontext() if sys.stderr.isatty() else still_at("evaluating"), contextlib.closing(grid):
        board = {"stated": settings["board"], "board": not grid.varied}  # reduced vectors are no entry of it
        results = run_suite(grid.checkpoints, suite, todo, cfg.out, grid.load, **board)
    shown = write_tables(results, grid.rows(results) if grid.varied else None, Path(cfg.out))
    curves = {label: Path(checkpoint) / "metrics.csv" for label, checkpoint in checkpoints.items()}
    curves = {label: file for label, file in curves.items() if file.exists()}
    if curves:  # some of the checkpoints are run directories
        loss_curves(curves, Path(cfg.out) / "loss.png")
    if cfg.wandb:
        from gte.training.loggers import log_table

        log_table(cells(results), cfg.out, settings)
    print(f"\n{shown}\n\nscores in points of 100; details in {Path(cfg.out) / 'results.json'}")
    return exit_code(results)


def write_tables(results: dict, compact: list[list[str]] | None, out: Path) -> str:
    """Writes a result's tables beside it; returns the one to show.

    compact: rows that compare widths and precisions, where several were asked for.
    """
    from gte.files import whole
    from gte.results.paper import paper_tables
    from gte.results.table import aligned, as_csv, as_markdown, as_text, csv_text, markdown

    files, shown = {"table.md": as_markdown(results), "table.csv": as_csv(results)}, as_text(results)
    files |= {f"{name}.csv": csv_text(table) for name, (_, table) in paper_tables(results).items()}
    if compact is not None:
        shown = aligned(compact[:1], compact[1:])
        files |= {"compact.md": markdown(compact), "compact.csv": csv_text(compact)}
    for name, text in files.items():
        with whole(out / name) as partial:
            partial.write_text(text)
    return shown


def is_here(checkpoint: str) -> bool:
    """Whether a checkpoint is no name on the hub."""
    return checkpoint.split("-")[0] == "bm25" or "://" in checkpoint or Path(checkpoint).exists()


if __name__ == "__main__":
    main()
