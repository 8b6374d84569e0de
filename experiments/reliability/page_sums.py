"""Cost in a step of comparing the pages of shards with their checksums: CPU time of a batch's rows, with and without.

For experiments/reliability/README.md: PYTHONPATH=src python experiments/reliability/page_sums.py FOLDER
"""

import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from gte.data.shards import Manifest, TokenTable, write_shards

ROWS, PIECE = 400_000, 5_000
TOKENS_PER_S = 24_200  # of model=tiny in training on two cores


def lists(longest: int, rng: np.random.Generator) -> pa.ListArray:
    offsets = np.concatenate([[0], rng.integers(1, longest, PIECE).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rng.integers(0, 30_000, offsets[-1]), pa.uint16()))


def table_of(folder: Path) -> tuple[Manifest, int, int]:
    """400,000 pairs of 115 tokens; the manifest, and the bytes of shards and of their checksums."""
    rng = np.random.default_rng(0)
    hashes = {name: pa.array(range(PIECE), pa.uint64()) for name in ("query_hash", "document_hash")}
    pieces = (
        pa.record_batch({"query": lists(30, rng), "document": lists(200, rng), **hashes}) for _ in range(ROWS // PIECE)
    )
    shards = write_shards(pieces, folder, "s")
    manifest = Manifest("t", {"dtype": "uint16"}, {"s": {"negatives": False, "shards": shards}})
    return manifest, sum(shard["bytes"] for shard in shards), sum(shard["pages"]["bytes"] for shard in shards)


def seconds(folder: Path, manifest: Manifest, pairs: int, *, checked: bool, again: bool) -> tuple[float, int]:
    """Median CPU time of five batches of random rows, and their tokens."""
    found = []
    for seed in range(5):
        table, rows = TokenTable(folder, manifest, "s"), np.random.default_rng(seed).permutation(ROWS)[:pairs]
        if not checked:
            table.sums = [None] * len(table.sums)
        table.gather("query", np.array([0, ROWS - 1]))  # maps both shards
        for _ in range(1 + again):
            begin = time.process_time()
            lengths = [table.gather(column, rows)[1] for column in ("query", "document")]
            took = time.process_time() - begin
        found.append(took)
    return float(np.median(found)), int(sum(map(np.sum, lengths)))


def main(folder: Path) -> None:
    manifest, shards, sums = table_of(folder)
    print(f"{shards / 1e6:.0f} MB of shards, {sums / 1e3:.0f} kB of checksums")
    for pairs in (256, 1_024, 16_384):
        for again in (False, True):
            without, tokens = seconds(folder, manifest, pairs, checked=False, again=again)
            compared, _ = seconds(folder, manifest, pairs, checked=True, again=again)
            share = (compared - without) / (tokens / TOKENS_PER_S)
            print(
                f"{pairs:>6} pairs, {'read before' if again else 'first read '}: {1e3 * without:6.2f} ms, compared "
                f"{1e3 * compared:6.2f} ms, {share:8.4%} of a step of model=tiny"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
