"""Training on texts that are hard on the numbers, by the script: finite, and the gradient is the one that is meant."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from logs import column
from loss_oracle import loops
from trainings import TINY
from transformers import BertModel

from gte.loss import improved_contrastive_loss
from gte.models.load import load_encoder

ROWS = 8  # one batch, every row of it
PAIRS = {  # distinct pairs, so that prepare keeps them all, of texts that are hard once they are tokens
    "identical": [("".join(c.upper() if n >> i & 1 else c for i, c in enumerate("abc")), "Abc") for n in range(ROWS)],
    "empty": [("\x01" * (1 + n), "\x02") for n in range(ROWS)],
    "one token": [(chr(97 + n), chr(97 + n % 5)) for n in range(ROWS)],
    "100,000 characters": [("a bc " * 20_000, "x" * 100_000), *((f"q{n}", f"d {n}") for n in range(ROWS - 1))],
    "one text among hard ones": [("q", "d e"), *(("\x01" * (1 + n), "A\x02") for n in range(ROWS - 1))],
}  # fmt: skip


@pytest.fixture(params=PAIRS)
def pairs(request) -> list[tuple[str, str]]:
    return PAIRS[request.param]


def train(script, *arguments) -> tuple[int, str]:
    settings = [*TINY, "data.dir=data", f"stage.global_batch={ROWS}", "stage.max_length=64", "keep_initial=true"]
    code, _, err = script("train", *settings, "checkpoint_every=1", "stage.steps=3", *arguments)
    return code, err


def prepared(script, folder: Path, pairs: list[tuple[str, str]]) -> None:
    (folder / "raw").mkdir()
    rows = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (folder / "raw" / "a.jsonl").write_text(rows)
    code, _, err = script("prepare", "data=local", "data.path=raw", "data.dir=data", "data.vocab_size=200")
    assert code == 0, err


def expected(checkpoint: Path, pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """Loss and norm of the gradient: the texts one by one through transformers' BERT, the loss as loops, in float64."""
    encoder = load_encoder(checkpoint)
    lm = BertModel(encoder.lm.config, add_pooling_layer=False).double().eval()
    lm.load_state_dict(encoder.lm.state_dict())
    lm.config._attn_implementation = "eager"

    def embed(text: str) -> torch.Tensor:
        ids = encoder.tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
        return lm(ids).last_hidden_state[0].mean(0)

    q, d = (torch.stack([embed(pair[side]) for pair in pairs]) for side in (0, 1))
    loss = loops("improved", q, d)
    loss.backward()
    squares = sum(float((p.grad**2).sum()) for p in lm.parameters() if p.grad is not None)
    return loss.item(), math.sqrt(squares)


def test_hard_texts_train_with_the_loss_and_gradient_of_float64(script, tmp_path, pairs):
    prepared(script, tmp_path, pairs)
    code, err = train(script, "out=run")
    assert code == 0, err
    losses, norms = (np.array(column(tmp_path / "run", f"train/{key}")) for key in ("loss", "grad_norm"))
    assert np.isfinite(losses).all() and np.isfinite(norms).all()
    assert column(tmp_path / "run", "train/skipped") == [0] * 3
    for step in (0, 1):
        loss, norm = expected(tmp_path / "run" / "checkpoints" / f"step-{step:07d}.ckpt", pairs)
        assert losses[step] == pytest.approx(loss, abs=2e-3) and norms[step] == pytest.approx(norm, rel=2e-2, abs=2e-3)
    same = pairs in (PAIRS["identical"], PAIRS["empty"])  # every cosine is 1, and moving them all changes none
    assert same == (losses[0] == pytest.approx(math.log(4 * ROWS - 2), abs=1e-3)) == (norms[0] < 1e-2)


@pytest.fixture
def change(monkeypatch):
    """Changes the loss of step 1."""

    def choose(make) -> None:
        calls = []

        def loss(*given, **options):
            calls.append(0)
            if not given[0].requires_grad:  # the trial before the training
                calls.clear()
            result = improved_contrastive_loss(*given, **options)
            return make(result) if len(calls) == 2 else result

        monkeypatch.setattr("gte.loss.improved_contrastive_loss", loss)

    return choose


def test_a_gradient_that_explodes_is_bounded_or_skipped_but_never_taken_as_it_is(script, tmp_path, change):
    """With every gradient above the bound only its direction counts: a loss times a million is the same step."""
    prepared(script, tmp_path, PAIRS["one token"])
    runs = {
        "as it is": lambda loss: loss, "times a million": lambda loss: loss * 1e6,
        "beyond float32": lambda loss: loss * 1e30,  # whose squares are not finite any more
        "nan behind a finite loss": lambda loss: loss + (loss * 0).sqrt(),
    }  # fmt: skip
    weights = {}
    for name, make in runs.items():
        change(make)
        out = name.replace(" ", "-")
        code, err = train(script, "optim.clip_norm=1e-3", f"out={out}")
        assert code == 0, err
        found = [load_encoder(tmp_path / out / "checkpoints" / f"step-000000{step}.ckpt") for step in (1, 2, 3)]
        weights[name] = [encoder.lm.state_dict() for encoder in found]
        assert min(column(tmp_path / out, "train/grad_norm")) > 1e-3
        assert column(tmp_path / out, "train/skipped") == ([0, 0, 0] if name in list(runs)[:2] else [0, 1, 1])
    for name, (first, second, third) in weights.items():
        skipped = name not in list(runs)[:2]
        for key, weight in first.items():
            assert torch.equal(weight, second[key]) or not skipped, (name, key)
            assert third[key].isfinite().all()
    for mine, exploded in zip(weights["as it is"], weights["times a million"], strict=True):
        for key, weight in mine.items():
            torch.testing.assert_close(exploded[key], weight, rtol=1e-4, atol=1e-6)
