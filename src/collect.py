"""Gather a sweep's runs, or write a run's page: python src/collect.py name=mixing_ratio | report=RUN_DIR"""

from functools import cache
from pathlib import Path

import yaml
from omegaconf import DictConfig

from gte.build import script
from gte.errors import UserError
from gte.overrides import CONF, typed

PAPER = {"mixing_ratio": "table10", "training_steps": "table8", "training_stages": "table9", "objective": "table11"}


def check(cfg: DictConfig) -> None:
    if cfg.report is None:
        read_grids(cfg.name)


@cache
def read_grids(name: str) -> dict:
    """The grids of an experiment by scale, read once; none of a sweep of one's own, of which runs= and out= are given.

    Its sets of sources are one more: of those that a sweep names in place of the grid's, they give the order.

    Raises UserError where there is no experiment of that name, or no grid in it.
    """
    file = CONF / "experiment" / f"{name}.yaml"
    if not file.exists() and {"runs", "out"} <= typed().keys():
        return {}
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise UserError(f"there is no experiment {name}; there are: {known}; of another sweep give runs= and out=")
    facts = yaml.safe_load(file.read_text())
    if "grids" not in facts:
        raise UserError(f"the experiment {name} is a single run without a grid; its page: collect.py report=RUN_DIR")
    sets = facts.get("source_sets")
    return facts["grids"] | ({"sets": {"sources": ",".join(sets)}} if sets else {})


@script("collect", check)
def main(cfg: DictConfig) -> None:
    from gte.curves import read_rows
    from gte.files import whole
    from gte.results.ablation import (
        by_line,
        by_point,
        check_groups,
        collect,
        grid_order,
        losses_by_line,
        scores_by_seconds,
        table,
        tell_lacking,
        write_rows,
    )
    from gte.results.differences import differences
    from gte.results.figures import ablation, loss_of_points, mixture_shares, score_by_seconds
    from gte.results.paper import read_paper
    from gte.results.record import history_of
    from gte.results.report import all_sources, write_experiment_report, write_run_report
    from gte.results.table import markdown

    out = Path(cfg.out)
    if cfg.report is not None:
        print(f"written: {write_run_report(Path(cfg.report))}")
        return
    order = grid_order(read_grids(cfg.name))
    stages = []
    if cfg.runs is None:
        scores, curves = read_rows(out / "results.csv"), read_rows(out / "loss.csv")
    else:
        scores, curves = collect(Path(cfg.runs))
        stages = [history_of(Path(cfg.runs) / run) for run in dict.fromkeys(row["run"] for row in curves)]
    groups = cfg.groups or {}
    check_groups(scores, groups)
    tell_lacking(scores)
    text, compared = markdown(table(scores, order, groups)), markdown(differences(scores, order, groups))
    if cfg.runs is not None:
        write_rows(scores, curves, out)  # after all that may refuse them
    for name, content in (("table.md", text), ("differences.md", compared)):
        with whole(out / name) as partial:
            partial.write_text(content)

    paper = read_paper(PAPER[cfg.name]) if cfg.name in PAPER else None
    if lines := by_line(scores, order):
        x_label = next(iter(by_point(scores, order)))[-1][0].replace("_", " ")
        ablation(lines, paper, cfg.name, x_label, out / "figure.png")
    if panels := losses_by_line(curves, order):
        loss_of_points(panels, cfg.name, out / "loss.png")
    if points := scores_by_seconds(scores, order):
        score_by_seconds(points, cfg.name, out / "seconds.png")
    alphas = sorted({run[-1]["alpha"] for run in stages if not run[-1].get("weights")})
    if len(alphas) > 1:
        sizes = {name: about["rows"] for name, about in all_sources(stages).items()}
        mixture_shares(sizes, alphas, out / "shares.png")
    page = write_experiment_report(out, cfg.name, scores, curves, order, paper, stages)
    runs = len({row["run"] for row in curves or scores})
    names = ("results.csv", "differences.md", "figure.png", "loss.png")
    written = [out / name for name in names if (out / name).exists()]
    print(f"{text}\n{runs} runs; {', '.join(map(str, [*written, page]))}")


if __name__ == "__main__":
    main()
