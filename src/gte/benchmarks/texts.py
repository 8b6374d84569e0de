"""What the benchmarks of training and encoding work on: the texts of a prepared folder and a BERT to read them.

A step's texts are those that training would take at that step, for every variant.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from gte.data.mixture import Mixture
from gte.data.shards import Manifest
from gte.data.tokenizer import load_tokenizer
from gte.encoder import Encoder


class Steps:
    """The pairs of step 0, 1, ... of a prepared folder's pre-training sources, as training mixes them."""

    def __init__(self, folder: str, pairs: int, alpha: float, seed: int):
        self.folder, manifest = Path(folder), Manifest.load(folder)
        self.names = list(manifest.stage("pretrain"))
        self.mixture = Mixture(list(manifest.stage("pretrain").values()), alpha=alpha, seed=seed, global_batch=pairs)

    def __getitem__(self, step: int) -> tuple[list[str], list[str]]:
        """Queries and documents."""
        source, rows = self.mixture.batch(step)
        file = self.folder / "pairs" / f"{self.names[source]}.parquet"
        table = pq.read_table(file, columns=["query", "document"]).take(rows)
        return table.column("query").to_pylist(), table.column("document").to_pylist()


def write_model(folder: Path, data: str, hidden_size: int, num_hidden_layers: int, dropout: float) -> None:
    """A BERT of random weights over the vocabulary of the prepared data, heads of 64, as a directory."""
    torch.manual_seed(0)
    Encoder.from_scratch(
        load_tokenizer(Path(data) / "tokenizer"),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=hidden_size // 64,
        intermediate_size=4 * hidden_size,
        max_length=512,
        dropout=dropout,
    ).save(folder)


def sentence_transformer(folder: str, max_length: int, device: str):
    """The model directory as sentence-transformers runs it: mean pooling, float32 weights, its default attention."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    lm = Transformer(folder, max_seq_length=max_length)
    return SentenceTransformer(modules=[lm, Pooling(lm.get_embedding_dimension(), "mean")], device=device)


def lengths(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Tokens of each text, special tokens included, cut as the encoder cuts: int64 [N]."""
    return np.array([len(ids) for ids in encoder.tokenize(texts)])


def report(result: dict) -> None:
    """Prints what a child process has measured, as `in_child` reads it."""
    print(json.dumps(result))
