"""Input of the benchmarks of training and encoding: the texts of a prepared folder and a model to read them.

A step's texts are those that training would take at that step, for every variant.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import ModernBertConfig, ModernBertModel, PretrainedConfig

from gte.data.mixture import Mixture
from gte.data.shards import Manifest
from gte.data.tokenizer import load_tokenizer
from gte.encoder import Encoder
from gte.errors import UserError


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


ARCHITECTURES = ("bert", "modernbert")


def write_model(
    folder: Path, data: str, architecture: str, hidden_size: int, num_hidden_layers: int, dropout: float
) -> None:
    """Write a model of random weights over the vocabulary of the prepared data, heads of 64, as a directory.

    Args:
        architecture: bert, or modernbert: a gated unit of 1.5 times the width, rotary positions, a window of 128
            tokens in two layers of three, as in ModernBERT-base.
        dropout: of all places where the architecture has one.
    Raises: UserError for another architecture.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"benchmark.architecture={architecture} must be one of {', '.join(ARCHITECTURES)}")
    torch.manual_seed(0)
    tokenizer = load_tokenizer(Path(data) / "tokenizer")
    sizes = dict(
        hidden_size=hidden_size, num_hidden_layers=num_hidden_layers, num_attention_heads=max(hidden_size // 64, 1)
    )
    if architecture == "bert":
        encoder = Encoder.from_scratch(
            tokenizer, **sizes, intermediate_size=4 * hidden_size, max_length=512, dropout=dropout
        )
    else:
        config = ModernBertConfig(
            vocab_size=len(tokenizer),
            **sizes,
            intermediate_size=3 * hidden_size // 2,
            local_attention=128,
            attention_dropout=dropout,
            mlp_dropout=dropout,
            embedding_dropout=dropout,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
        )
        encoder = Encoder(ModernBertModel(config), tokenizer, 512)
    encoder.save(folder)


def largest_dropout(config: PretrainedConfig) -> float:
    """The largest dropout that a model's configuration holds, the classifiers' aside: 0 where it has none."""
    rates = [value for key, value in config.to_dict().items() if "dropout" in key and "classifier" not in key]
    return max((rate for rate in rates if isinstance(rate, float)), default=0.0)


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
