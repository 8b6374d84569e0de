"""src/bench.py benchmark=train on the device: sentence-transformers' trainer at its best, in our precision."""

import json
import subprocess
import sys
from pathlib import Path

from gte.benchmarks.gpu.findings import LOWER, Findings
from gte.benchmarks.gpu.setting import Setting

BENCH = Path(__file__).resolve().parents[4] / "bench.py"
COLUMNS = ("seconds", "ratio", "tokens_per_s", "mfu", "peak_mb", "padding", "first_loss")


def bench_train(findings: Findings, setting: Setting) -> None:
    pairs, budget, portions, steps = (32, 2048, [8], 1) if setting.small else (4096, 32768, [256, 1024], 3)
    out = Path(setting.work) / "bench_train"
    given = [
        *(sys.executable, str(BENCH), "benchmark=train", f"benchmark.data={setting.data}", f"out={out}"),
        *(f"benchmark.model={setting.model('base', dropout=0.0)}", f"benchmark.device={setting.device}"),
        *(f"benchmark.pairs={pairs}", f"benchmark.batch_tokens={budget}", f"benchmark.mini_batch={portions}"),
        *("benchmark.recompute_fraction=1.0", "benchmark.rounds=1", f"benchmark.steps={steps}"),
        *("benchmark.precisions=[bf16]", "benchmark.peers=[sentence_transformers]"),
    ]
    done = subprocess.run([word.replace(" ", "") for word in given], capture_output=True, text=True)
    if done.returncode:
        line = LOWER if "out of memory" in done.stderr else done.stderr[-400:]
        raise RuntimeError(f"bench.py ended with {done.returncode}: {line}")
    rows = json.loads((out / "results.json").read_text())["rows"]
    for row in rows:
        findings.row(row["variant"], **{key: row[key] for key in COLUMNS})
    best = min(row["ratio"] for row in rows if not row["variant"].startswith("ours"))
    findings.at_least("train.py bf16, times sentence-transformers' trainer in bf16", 2.5, best, "times")
