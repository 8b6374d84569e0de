"""The real all-MiniLM-L6-v2: its published scores, and how fast it encodes against sentence-transformers."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from gte.benchmarks.encode import BATCHES, fastest
from gte.benchmarks.gpu.checks.encoder import precisions
from gte.benchmarks.gpu.findings import Findings
from gte.benchmarks.gpu.setting import Setting
from gte.encoder import Encoder

EVAL = Path(__file__).resolve().parents[4] / "eval.py"
PUBLISHED = {"STSBenchmark": 82.03, "SciFact": 64.51}  # MTEB's leaderboard


def evaluation(findings: Findings, setting: Setting) -> None:
    out = Path(setting.work) / "eval"
    shutil.rmtree(out, ignore_errors=True)
    precision = "bf16" if setting.device == "cpu" else "fp16"
    names = [name for name in PUBLISHED if not (setting.small and name == "SciFact")]  # 5,000 abstracts are too many
    given = [
        *(sys.executable, str(EVAL), f"checkpoint={setting.minilm()}", "suite=mteb", f"data_dir={setting.tasks}"),
        *(f"tasks=[{','.join(names)}]", f"precision={precision}", f"out={out}"),
    ]
    start = time.perf_counter()
    done = subprocess.run(given, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"eval.py ended with {done.returncode}: {done.stderr[-400:]}")
    (model,) = json.loads((out / "results.json").read_text())["models"].values()
    scores = {name: model["tasks"][name]["main_score"] for name in names}
    findings.row(f"all-MiniLM-L6-v2 {precision}", seconds=time.perf_counter() - start, **scores)
    for name in names:
        distance = abs(scores[name] - PUBLISHED[name])
        findings.at_most(f"{name} of all-MiniLM-L6-v2, from {PUBLISHED[name]}", 0.1, distance, "points")
        if distance > 0.1:
            findings.fault(f"{name} scores {scores[name]:.2f}, published is {PUBLISHED[name]}")


def encode(findings: Findings, setting: Setting) -> None:
    texts = []
    for file in sorted((setting.data / "pairs").glob("*.parquet")):
        table = pq.read_table(file, columns=["query", "document"])
        texts += table.column("query").to_pylist() + table.column("document").to_pylist()
    texts = texts[: 64 if setting.small else 16384]
    folder, n = setting.minilm(), len(texts)
    ours = Encoder.from_pretrained(folder).to(setting.device)

    def rate(function: Callable) -> float:
        function(texts[: n // 4])
        start = time.perf_counter()
        function(texts)
        return n / (time.perf_counter() - start)

    findings.row("tokenize alone", texts_per_s=rate(ours.tokenize))
    reference_ND = ours.encode(texts)
    best = {}
    for precision in precisions(setting):
        made = findings.attempt(
            f"ours {precision}", lambda p=precision: {"texts_per_s": rate(lambda t: ours.encode(t, precision=p))}
        )
        best[precision] = made["texts_per_s"] if made else 0.0
    job = {"model": str(folder), "max_length": ours.max_length, "device": setting.device}
    for precision in precisions(setting)[1:]:
        size, peer = fastest(f"sentence_transformers {precision}", job, texts, (32,) if setting.small else BATCHES)
        theirs = rate(peer)
        findings.row(f"sentence-transformers {precision}", texts_per_s=theirs, batch_size=size)
        cosine = float((np.asarray(peer(texts[:1000])) * reference_ND[:1000]).sum(1).min())
        if not cosine > 0.99:
            findings.fault(
                f"sentence-transformers {precision} embeds otherwise than ours: smallest cosine {cosine:.4f}"
            )
        name = f"encode {precision}, times sentence-transformers"
        findings.at_least(name, 1.5, best[precision] / theirs, "times")
