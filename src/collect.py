"""Gather an ablation's runs: python src/collect.py name=mixing_ratio"""

from pathlib import Path

import yaml
from omegaconf import DictConfig

from gte.build import CONF, script
from gte.errors import UserError

PAPER = {"mixing_ratio": "table10", "training_steps": "table8", "training_stages": "table9", "objective": "table11"}


@script("collect")
def main(cfg: DictConfig) -> None:
    from gte.results.ablation import by_line, collect, grid_order, table, write_csv
    from gte.results.figures import ablation, curves_of_runs
    from gte.results.paper import read_paper
    from gte.results.table import markdown

    file = CONF / "experiment" / f"{cfg.name}.yaml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise UserError(f"there is no experiment {cfg.name}; there are: {known}")
    order = grid_order(yaml.safe_load(file.read_text())["grids"])
    scores, curves = collect(Path(cfg.runs))
    out = Path(cfg.out)
    write_csv(scores, out / "results.csv")
    write_csv(curves, out / "loss.csv")
    text = markdown(table(scores, order))
    (out / "table.md").write_text(text)

    paper = read_paper(PAPER[cfg.name]) if cfg.name in PAPER else None
    if lines := by_line(scores, order):
        ablation(lines, paper, cfg.name, out / "figure.png")
    of_run: dict[str, tuple[list[int], list[float]]] = {}
    for row in curves:
        steps, losses = of_run.setdefault(row["run"], ([], []))
        steps.append(row["step"])
        losses.append(float(row["loss"]))
    curves_of_runs(of_run, f"{cfg.name}: loss", out / "loss.png")
    print(f"{text}\n{len(of_run)} runs; {out / 'results.csv'}, {out / 'figure.png'}, {out / 'loss.png'}")


if __name__ == "__main__":
    main()
