"""From prepared rows to a step's batch: ours, part by part, against PyTorch's DataLoader over a `datasets` data set.

The peers read the same rows: ids from an Arrow table, padded by the tokenizer, or texts, tokenised by the collator as
sentence-transformers does. No model takes part.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from gte.benchmarks.measure import compare, take_turns
from gte.data.collate import Batch
from gte.data.module import PairData, load_ahead, prepared_tokenizer
from gte.data.shards import Manifest
from gte.data.tokenizer import special_ids
from gte.errors import UserError
from gte.stage import Stage

SIDES = ["query", "document"]


def run(
    data: str,
    *,
    pairs: int = 16_384,
    max_length: int = 128,
    steps: int = 20,
    peer_steps: int = 3,
    workers: tuple[int, ...] = (0, 1, 2),
    rounds: int = 5,
    alpha: float = 0.5,
    seed: int = 0,
) -> list[dict]:
    """A row a variant: seconds a batch and pairs/s, medians over rounds in which the variants take turns.

    data: a prepared folder; its pre-training sources of fewer rows than a batch of `pairs` are skipped. steps,
    peer_steps: batches that are timed, after a first that is not. RuntimeError where a peer reads other ids than ours.
    """
    rows = Manifest.load(data).stage("pretrain")
    sources = [name for name, count in rows.items() if count >= pairs]
    if not sources:
        raise UserError(f"no source of {data} has {pairs} rows; set benchmark.pairs={max(rows.values(), default=1)}")
    stage = Stage("pretrain", max_length, pairs, steps, None, 1, 1.0, None, max_length, 0.0)
    ours = PairData(data, stage, alpha=alpha, seed=seed, sources=sources)
    makers: dict[str, Callable[[], Iterable]] = {
        "mixture": lambda: map(ours.mixture.batch, range(steps + 1)),
        "mixture and collate": lambda: map(ours.steps().__getitem__, range(steps + 1)),
    }
    for count in workers:
        makers[f"ours, {count} workers"] = partial(load_ahead, ours.steps(), range(steps + 1), count)
    chosen = [offset_rows(ours, step) for step in range(peer_steps + 1)]
    tokenizer = prepared_tokenizer(data)
    for name, (table, pad) in {
        "datasets, ids": (ids_table(ours), partial(pad_ids, tokenizer, max_length)),
        "datasets, texts": (text_table(ours), partial(pad_texts, tokenizer, max_length)),
    }.items():
        for count in workers:
            makers[f"{name}, {count} workers"] = partial(
                DataLoader, table, batch_sampler=chosen, collate_fn=pad, num_workers=count
            )
        check(name, ours.steps()[0], next(iter(makers[f"{name}, {workers[0]} workers"]())))
    measured = take_turns({name: partial(turn, make, pairs) for name, make in makers.items()}, rounds)
    tokens = np.mean([len(ours.steps()[step].ids_T) for step in range(steps)]) / pairs
    facts = {"pairs": pairs, "max_length": max_length, "sources": len(sources), "tokens_per_pair": tokens}
    return compare(measured, f"ours, {workers[0]} workers", **facts)


def turn(make: Callable[[], Iterable], pairs: int) -> dict:
    """Seconds a batch once the first is there: worker processes have started by then."""
    batches = iter(make())
    next(batches)
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    seconds = (time.perf_counter() - start) / count
    return {"seconds": seconds, "pairs_per_s": pairs / seconds}


def offset_rows(ours: PairData, step: int) -> list[int]:
    """A step's rows in the table of all sources, one after the other."""
    source, rows = ours.mixture.batch(step)
    return (rows + sum(map(len, ours.tables[:source]))).tolist()


def ids_table(ours: PairData) -> datasets.Dataset:
    """The token shards as `datasets` maps them."""
    paths = [path for table in ours.tables for path in table.paths]
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in paths]).select_columns(
        SIDES
    )


def text_table(ours: PairData) -> datasets.Dataset:
    """The pairs that the shards were made of, in memory."""
    files = [ours.folder / "pairs" / f"{name}.parquet" for name in ours.source_names]
    return datasets.concatenate_datasets([datasets.Dataset(pq.read_table(file, columns=SIDES)) for file in files])


def pad_ids(tokenizer: PreTrainedTokenizerBase, max_length: int, rows: list[dict]) -> list[dict[str, torch.Tensor]]:
    """Queries and documents as padded tensors, from ids without special tokens."""
    prefix, suffix = special_ids(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    framed = [[prefix + row[side][:room] + suffix for row in rows] for side in SIDES]
    return [tokenizer.pad({"input_ids": ids}, return_tensors="pt") for ids in framed]


def pad_texts(tokenizer: PreTrainedTokenizerBase, max_length: int, rows: list[dict]) -> list[dict[str, torch.Tensor]]:
    """Queries and documents as padded tensors, from texts."""
    options = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
    return [tokenizer([row[side] for row in rows], **options) for side in SIDES]


def check(name: str, batch: Batch, padded: list[dict[str, torch.Tensor]]) -> None:
    """Raises RuntimeError where a peer's first batch holds other ids than ours."""
    ids_T = torch.cat([side["input_ids"][side["attention_mask"].bool()] for side in padded])
    if ids_T.tolist() != batch.ids_T.tolist():
        raise RuntimeError(f"{name} reads other ids than ours")
