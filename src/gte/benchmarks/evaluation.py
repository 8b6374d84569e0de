"""Evaluation against mteb with sentence-transformers on the same task folders: time, and that the scores agree."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from gte.benchmarks.measure import compare, take_turns
from gte.errors import UserError
from gte.evaluation.logs import quiet
from gte.evaluation.model import EncoderModel
from gte.evaluation.suite import Suite, plan
from gte.evaluation.tasks import Task, make_task
from gte.models.load import load_encoder
from gte.precision import AUTOCAST

PEERS_FILES = ("modules.json", "config.json")  # of a directory that sentence-transformers reads


def run(
    checkpoint: str,
    data_dir: str | list[str],
    tasks: str | list[str],
    rounds: int = 3,
    device: str = "cpu",
    precision: str = "fp32",
) -> list[dict]:
    """A row a task and variant: median seconds with the data and the model in memory, nothing cached between runs.

    The peer, mteb's wrapper with its default settings, computes in the same `precision`, beside int8, which it has not,
    in fp32. Raises RuntimeError where in fp32 the scores differ by more than 0.05 points, UserError for a task that no
    folder under `data_dir` holds and a checkpoint that sentence-transformers does not read.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    folders = data_dir if isinstance(data_dir, str) else list(data_dir)
    chosen = plan(Suite("benchmark", hub=False), folders, names).run
    if Path(checkpoint).exists() and not any((Path(checkpoint) / file).exists() for file in PEERS_FILES):
        raise UserError(f"benchmark.checkpoint={checkpoint} is no model directory; src/export.py makes one of a run")
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    quiet()
    encoder = load_encoder(checkpoint).to(device)
    peer = SentenceTransformer(checkpoint, device=device)
    if AUTOCAST.get(precision):
        peer = peer.to(AUTOCAST[precision])  # the weights themselves, as its users do
    peer = SentenceTransformerEncoderWrapper(peer)
    models = {"ours": lambda: EncoderModel(encoder, precision), "mteb+st": lambda: peer}
    rows = []
    for name, folder in chosen.items():
        tasks_of = {variant: make_task(name, folder) for variant in models}
        tasks_of["ours"].load()
        for part in tasks_of["mteb+st"].parts:
            part.load_data()  # and no more: its columns stay as mteb has them
        turns = {variant: partial(turn, tasks_of[variant], make) for variant, make in models.items()}
        measured = take_turns(turns, rounds)
        ours, theirs = (measured[variant][0]["score"] for variant in models)
        if precision == "fp32" and abs(ours - theirs) > 0.05:
            raise RuntimeError(f"{name}: ours scores {ours:.2f}, mteb with sentence-transformers {theirs:.2f}")
        rows += compare(measured, "ours", task=name, device=device, threads=torch.get_num_threads())
    return rows


def turn(task: Task, make: Callable) -> dict:
    model = make()
    start = time.perf_counter()
    score = task.run(model)[task.main_score]
    return {"seconds": time.perf_counter() - start, "score": score}
