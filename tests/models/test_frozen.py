"""Layers laid out for inference on a CPU: their vectors are the model's own, in every precision and in any batch."""

import numpy as np
import pytest
import torch
from conftest import shared_dir
from scipy.stats import spearmanr
from transformers import AutoModel

from gte.data.task_folder import FIELDS, Folder
from gte.encoder import Encoder
from gte.errors import UserError
from gte.evaluation.model import choose_precision
from gte.models import frozen

WORDS = ["graph", "colour", "of", "a", "planar", "map", "is", "found", "by", "search", "in", "the", "tree", "that"]
TEXTS = [" ".join(WORDS[n % 7 : n % 7 + n * 5 % 17] * (1 + n % 4)) for n in range(60)] + ["", "map " * 600]
needs_int8 = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="needs a processor with AVX-512 VNNI")
needs_bf16 = pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="needs a processor with bf16")


def padded_by_transformers(folder, encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Unit means of each text alone by transformers' own eager attention, in float64."""
    lm = AutoModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    with torch.inference_mode():
        means = [lm(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in encoder.tokenize(texts)]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1).float().numpy()


def cosines(a_ND: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    return (a_ND * b_ND).sum(1)


def test_frozen_layers_give_the_vectors_of_transformers_in_float64(minilm):
    encoder = Encoder.from_pretrained(minilm)
    expected = padded_by_transformers(minilm, encoder, TEXTS)
    found = encoder.encode(TEXTS)
    assert encoder.frozen is not None and encoder.frozen.precision == "fp32"
    assert len({len(ids) for ids in encoder.tokenize(TEXTS)}) > 15
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("precision", "mean", "least"),
    [
        pytest.param("bf16", 0.9999, 0.9998, marks=needs_bf16),
        pytest.param("int8", 0.997, 0.99, marks=needs_int8),
    ],
)
def test_narrow_precisions_keep_the_direction(minilm, precision, mean, least):
    encoder = Encoder.from_pretrained(minilm)
    exact, found = encoder.encode(TEXTS), encoder.encode(TEXTS, precision=precision)
    kept = cosines(exact, found)
    assert encoder.frozen.precision == precision and not np.array_equal(exact, found)
    assert kept.mean() > mean and kept.min() > least


@pytest.mark.parametrize(
    ("precision", "least"),
    [
        ("fp32", 1 - 1e-6),
        pytest.param("bf16", 0.9999, marks=needs_bf16),
        pytest.param("int8", 0.9999, marks=needs_int8),
    ],
)
def test_a_text_has_one_vector_alone_and_in_any_batch(minilm, precision, least):
    encoder = Encoder.from_pretrained(minilm)
    together = encoder.encode(TEXTS, precision=precision)
    alone = np.concatenate([encoder.encode([text], precision=precision) for text in TEXTS[::6]])
    small = encoder.encode(TEXTS[::-1], precision=precision, batch_tokens=512)[::-1]
    assert cosines(together[::6], alone).min() > least and cosines(together, small).min() > least


@needs_int8
def test_int8_ranks_sentences_as_float32_does(minilm):
    rows = Folder(shared_dir("data/eval/STSBenchmark"))
    rows = rows.rows(rows.require("test"), FIELDS["STS"])[:500]
    encoder = Encoder.from_pretrained(minilm)

    def spearman(precision: str) -> float:
        a, b = (encoder.encode([row[side] for row in rows], precision=precision) for side in ("sentence1", "sentence2"))
        return 100 * spearmanr(cosines(a, b), [row["score"] for row in rows]).statistic

    assert abs(spearman("int8") - spearman("fp32")) < 0.3


def test_scores_beyond_what_powers_can_hold_are_taken_relative_to_the_largest():
    torch.manual_seed(0)
    runs = [(3, 11), (2, 9)]
    qkv = torch.randn(51, 3 * 16)
    qkv[:, :32] *= 40  # scores of thousands
    context = frozen.attend(qkv, frozen.in_groups(runs), heads=2)
    start = 0
    for texts, length in runs:
        for _ in range(texts):
            q, k, v = qkv[start : start + length].double().view(length, 3, 2, 8).permute(1, 2, 0, 3)
            assert (q @ k.transpose(1, 2)).abs().max() > 1000
            expected = torch.softmax((q @ k.transpose(1, 2)) * np.log(2), -1) @ v
            found = context[start : start + length].view(length, 2, 8).transpose(0, 1)
            torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
            start += length


def test_long_texts_take_the_kernel_that_keeps_no_scores(monkeypatch):
    torch.manual_seed(0)
    qkv = torch.randn(60, 3 * 16)
    by_steps = frozen.attend(qkv, frozen.in_groups([(2, 30)]), heads=2)
    monkeypatch.setattr(frozen, "LONGEST", 20)
    monkeypatch.setattr(torch, "bmm", None)
    torch.testing.assert_close(frozen.attend(qkv, frozen.in_groups([(2, 30)]), heads=2), by_steps)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=needs_int8)])
def test_weights_that_change_are_frozen_anew(small_model, precision):
    encoder = Encoder.from_pretrained(small_model)
    encoder.encode(TEXTS[:5], precision=precision)
    first = encoder.frozen
    encoder.encode(TEXTS[:5], precision=precision)
    assert encoder.frozen is first
    for change in (lambda p: p.mul_(1.5), lambda p: p.data.mul_(1.5)):
        with torch.no_grad():
            change(encoder.lm.encoder.layer[0].output.dense.weight)
        fresh = Encoder(encoder.lm, encoder.tokenizer, settings=encoder.settings)
        found = encoder.encode(TEXTS, precision=precision)
        assert encoder.frozen is not first
        np.testing.assert_allclose(found, fresh.encode(TEXTS, precision=precision), atol=1e-6)
        first = encoder.frozen


@needs_int8
def test_int8_is_refused_in_one_line_where_it_cannot_be(small_model):
    encoder = Encoder.from_pretrained(small_model)
    handle = encoder.lm.encoder.layer[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="precision=int8 cannot be: it has hooks; choose fp32 or bf16"):
        encoder.encode(["a"], precision="int8")
    handle.remove()
    with pytest.raises(UserError, match="precision=int8 cannot be: its weights are not in float32"):
        Encoder.from_pretrained(small_model).double().encode(["a"], precision="int8")
    with pytest.raises(UserError, match="precision=int8 is for a CPU"):
        choose_precision("int8", "cuda")


def test_two_threads_take_a_chunk_each_and_give_the_same_vectors(small_model):
    encoder = Encoder.from_pretrained(small_model)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = encoder.encode(TEXTS, batch_tokens=512)
        torch.set_num_threads(2)
        found = encoder.encode(TEXTS, batch_tokens=512)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_next_training_step_drops_the_copy_of_the_weights(small_model):
    encoder = Encoder.from_pretrained(small_model)
    encoder.encode(TEXTS[:4])
    kept = encoder.frozen
    assert kept is not None
    encoder.encode(TEXTS[4:8])
    assert encoder.frozen is kept  # evaluation and search encode call after call
    (ids,) = encoder.tokenize(["red blue"])
    lengths = np.array([len(ids)])
    encoder(torch.tensor(ids, dtype=torch.int32), torch.from_numpy(lengths), encoder.plan(lengths, 64))
    assert encoder.frozen is None
