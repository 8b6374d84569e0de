"""Evaluations of an encoder whose vectors are known, and the suites of conf/suite."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from conftest import ROOT

from gte.evaluation.model import EncoderModel
from gte.evaluation.suite import Suite, plan, run_suite
from gte.settings import Settings

WIDTH = 8
NO_RULES = '{"truncation": null, "padding": null}'  # of a tokenizer


class KnownEncoder(torch.nn.Module):
    """Gives every text the vector that `vectors` holds for it, or one drawn from the text; counts what it encodes."""

    def __init__(self, vectors: dict[str, np.ndarray] | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.vectors = vectors or {}
        self.encoded: list[str] = []
        self.max_length, self.dimensions, self.device = 16, WIDTH, "cpu"
        self.settings, self.counts = Settings(max_length=16), Counter()
        self.lm = SimpleNamespace(config=SimpleNamespace(to_dict=dict))
        rust = SimpleNamespace(to_str=lambda: NO_RULES)
        self.tokenizer = SimpleNamespace(backend_tokenizer=rust, truncation_side="right")

    def vector(self, text: str) -> np.ndarray:
        drawn = np.random.default_rng(list(text.encode())).normal(size=WIDTH)
        vector = np.asarray(self.vectors.get(text, drawn), dtype=np.float32)
        return vector / np.linalg.norm(vector)

    def encode(self, texts, batch_tokens, normalize, precision, progress, prompt):
        assert normalize
        texts = [prompt + text for text in texts]
        self.encoded += texts
        return np.stack([self.vector(text) for text in texts]) if texts else np.empty((0, WIDTH), np.float32)


def evaluate(tmp_path: Path, folders: Path, encoder=None, model=None, out="out", names=None) -> dict:
    """Runs all task folders under `folders` with one model; returns the results."""
    todo = plan(Suite("test", names or [], folder=None if names else str(folders)), folders if names else None)
    return run_suite(
        {"model": "checkpoint"},
        Suite("test"),
        todo,
        tmp_path / out,
        load_model=lambda checkpoint: model or EncoderModel(encoder or KnownEncoder()),
        say=lambda line: None,
    )


SUITES = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf" / "suite").glob("*.yaml")}


def suite_of(name: str) -> Suite:
    return Suite(**{key: value for key, value in SUITES[name].items() if key != "_target_"})
