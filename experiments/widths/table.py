"""Share of nDCG@10 that a model keeps when its vectors are cut: table.py RESULTS.json [RESULTS.json ...]

python experiments/widths/table.py runs/widths/eval_plain/results.json runs/widths/eval_nested/results.json
RESULTS are of src/eval.py with widths=, the model's own width among them. Writes results.csv beside this file and
prints a row a model and width: the mean of the tasks' scores, and the part that is of the mean at the largest width.
"""

import json
import sys
from pathlib import Path
from statistics import mean

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "src"))

from gte.results.ablation import write_csv  # noqa: E402


def main(*files: str) -> None:
    rows = []
    for file in files:
        results = json.loads(Path(file).read_text())
        for label, model in results["models"].items():
            name, width, _ = label.rsplit(" ", 2)
            scores = {task: score["main_score"] for task, score in model["tasks"].items()}
            rows.append({"model": name, "width": int(width), **scores, "mean": mean(scores.values())})
    full = {}
    for row in sorted(rows, key=lambda row: -row["width"]):
        full.setdefault(row["model"], row["mean"])
    shown = []
    for row in rows:
        kept = f"{100 * row['mean'] / full[row['model']]:.1f}"
        shown.append({key: f"{x:.2f}" if isinstance(x, float) else x for key, x in row.items()} | {"kept": kept})
    write_csv(shown, HERE / "results.csv")
    print("| " + " | ".join(shown[0]) + " |\n|---" + "|---:" * (len(shown[0]) - 1) + "|")
    for row in shown:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
