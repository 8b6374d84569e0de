"""Token tables of random ids, the same as lists, and damage done to prepared folders."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from gte.data.shards import MANIFEST, Manifest, write_shards


def make_table(
    folder: Path, rows: int, negatives: bool, batch: int = 37, dtype: str = "uint16"
) -> tuple[Manifest, dict]:
    """A prepared source "s" of random ids, and its rows as plain lists."""
    rng = np.random.default_rng(rows)

    def ids(longest: int) -> list[int]:
        return rng.integers(0, 60_000, rng.integers(0, longest)).tolist()

    columns = {"query": [ids(9) for _ in range(rows)], "document": [ids(40) for _ in range(rows)]}
    if negatives:
        columns["negatives"] = [[ids(30) for _ in range(rng.integers(0, 4))] for _ in range(rows)]
        columns["negatives_hash"] = [rng.integers(0, 2**63, len(texts)).tolist() for texts in columns["negatives"]]
    for name in ("query", "document"):
        columns[f"{name}_hash"] = rng.integers(0, 2**63, rows).tolist()
    token = pa.list_(getattr(pa, dtype)())
    types = {"query": token, "document": token, "negatives": pa.list_(token), "negatives_hash": pa.list_(pa.uint64())}
    schema = pa.schema([(name, types.get(name, pa.uint64())) for name in columns])
    batches = pa.table(columns, schema=schema).to_batches(max_chunksize=batch)
    facts = write_shards(iter([pa.concat_batches([piece]) for piece in batches]), folder, "s")
    entry = {"stages": ["pretrain"], "negatives": negatives, "kept": rows, "shards": facts}
    manifest = Manifest("test", {"dtype": dtype}, {"s": entry})
    manifest.save(folder)
    return Manifest.load(folder), columns


class ListTable:
    """A TokenTable over Python lists. A text's hash is that of its ids."""

    name = "lists"

    def __init__(self, queries, documents, negatives):
        self.columns = {"query": queries, "document": documents}
        self.negatives = negatives

    def __len__(self):
        return len(self.columns["query"])

    def gather(self, column, rows):
        return flatten([self.columns[column][row] for row in rows])

    def gather_negatives(self, rows):
        chosen = [self.negatives[row] for row in rows]
        flat, lengths = flatten([text for texts in chosen for text in texts])
        return flat, lengths, np.array([len(texts) for texts in chosen], dtype=np.int64)

    def hashes(self, column, rows):
        return hash_texts(self.columns[column][row] for row in rows)

    def negative_hashes(self, rows):
        return hash_texts(text for row in rows for text in self.negatives[row])


def hash_texts(texts):
    return np.array([hash(tuple(text)) % 2**64 for text in texts], dtype=np.uint64)


def flatten(texts):
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return np.array([token for text in texts for token in text], dtype=np.uint16), lengths


def texts_of(batch):
    ends = batch.lengths_R.cumsum(0).tolist()
    return [
        batch.ids_T[end - length : end].tolist() for end, length in zip(ends, batch.lengths_R.tolist(), strict=True)
    ]


SHARD = Path("shards/colours/00000.arrow")


def flip_a_bit(folder: Path, _) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / SHARD).write_bytes(data)


def without_pages(folder: Path) -> None:
    """Makes a prepared folder one of before there were checksums of pages."""
    facts = json.loads((folder / MANIFEST).read_text())
    facts.pop("checksum")
    for source in facts["sources"].values():
        for shard in source["shards"]:
            (folder / shard.pop("pages")["file"]).unlink()
    Manifest(**facts).save(folder)
