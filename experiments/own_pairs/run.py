"""Ours and sentence-transformers in turns, then one evaluation of both: run.py MODEL WORK STEPS [fp32 bf16]

python experiments/own_pairs/run.py /path/to/all-MiniLM-L6-v2 runs/own_pairs 312 fp32 bf16
WORK is what data.py wrote. Writes WORK/results/table.csv and prints it.
"""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SRC = HERE.parents[1] / "src"
PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}


def timed(*command) -> float:
    """Seconds of a Python script, imports included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True)
    return time.perf_counter() - start


def main(model: str, work: str, steps: str, *precisions: str) -> None:
    folder = Path(work)
    rows, checkpoints = [], {"before": model}
    for precision in precisions or PRECISION:
        data, ours, peer = (folder / f"{name}-{precision}" for name in ("data", "ours", "peer"))
        for path in (data, ours, peer):
            shutil.rmtree(path, ignore_errors=True)
        prepared = timed(
            SRC / "prepare.py", "data=local", f"data.path={folder}/pairs", f"model={model}", f"data.dir={data}"
        )
        sizes = ["stage.max_length=128", "stage.global_batch=64", f"stage.steps={steps}", "stage.epochs=null"]
        memory = ["stage.recompute_fraction=0", "stage.batch_tokens=8192"]
        setting = ["trainer=cpu", f"trainer.precision={PRECISION[precision]}", f"data.dir={data}", f"out={ours}"]
        trained = timed(SRC / "train.py", "stage=finetune", "data=local", f"model={model}", *sizes, *memory, *setting)
        other = timed(HERE / "peer.py", folder / "pairs", model, peer, steps, precision)
        checkpoints |= {f"ours {precision}": str(ours), f"sentence-transformers {precision}": str(peer)}
        rows += [(f"ours {precision}", prepared + trained), (f"sentence-transformers {precision}", other)]
    named = "{" + ", ".join(f'{label}: "{path}"' for label, path in checkpoints.items()) + "}"
    tasks = [f"data_dir={folder}/tasks", f"out={folder}/eval", "precision=fp32"]
    timed(SRC / "eval.py", f"checkpoint={named}", "suite=local", *tasks)
    scores = json.loads((folder / "eval" / "results.json").read_text())["models"]
    seconds = dict(rows)
    names = sorted(next(iter(scores.values()))["tasks"])
    table = [("model", "steps", "seconds", *names)]
    for label in checkpoints:
        found = [f"{scores[label]['tasks'][name]['main_score']:.2f}" for name in names]
        table.append((label, steps if label in seconds else 0, f"{seconds.get(label, 0):.0f}", *found))
    (folder / "results").mkdir(exist_ok=True)
    with open(folder / "results" / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    for row in table:
        print("  ".join(f"{cell:<24}" for cell in map(str, row)))


if __name__ == "__main__":
    main(*sys.argv[1:])
