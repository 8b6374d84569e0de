"""Pooling by the mean, first or last token: as sentence-transformers does, packed and padded, with gradients."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from gte.encoder import Encoder
from gte.errors import UserError

TEXTS = [f"{'number ' * (n * 7 % 29)}{n}" for n in range(30)] + ["", "one"]
POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
CHUNKS = pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
EVERY = pytest.mark.parametrize("pooling", POOLINGS)


def peer(folder, pooling: str, include_prompt: bool = True):
    """The model directory as sentence-transformers runs it."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Pooling, Transformer

    lm = Transformer(str(folder))
    pool = Pooling(lm.get_embedding_dimension(), POOLINGS[pooling], include_prompt=include_prompt)
    return sentence_transformers.SentenceTransformer(modules=[lm, pool], device="cpu")


def forward(encoder: Encoder, texts: list[str], recompute_fraction: float = 0.0, skip=None) -> torch.Tensor:
    ids = encoder.tokenize(texts)
    lengths = torch.tensor([len(text) for text in ids])
    skip_N = None if skip is None else torch.tensor(skip)
    return encoder(
        torch.tensor(sum(ids, [])), lengths, encoder.plan(lengths.numpy(), 96), recompute_fraction, skip_N=skip_N
    )


@EVERY
@CHUNKS
def test_vectors_are_those_of_sentence_transformers(small_model, pooling, packed):
    encoder = Encoder.from_pretrained(small_model, pooling=pooling, padding_free=packed)
    assert encoder.packed == packed
    expected = peer(small_model, pooling).encode(TEXTS)
    assert np.abs(encoder.encode(TEXTS, batch_tokens=96, normalize=False) - expected).max() < 1e-5
    others = [
        Encoder.from_pretrained(small_model, pooling=other).encode(TEXTS) for other in POOLINGS if other != pooling
    ]
    assert all(np.abs(encoder.encode(TEXTS) - other).max() > 0.1 for other in others)


@EVERY
@CHUNKS
def test_a_prompt_that_is_not_pooled_is_left_out_as_sentence_transformers_does(small_model, pooling, packed):
    encoder = Encoder.from_pretrained(small_model, pooling=pooling, padding_free=packed).eval()
    expected = peer(small_model, pooling, include_prompt=False).encode(TEXTS, prompt="a query about ")
    skip = len(encoder.tokenize(["a query about "])[0]) - 1  # [SEP] comes after the text
    prompted = ["a query about " + text for text in TEXTS]
    found = forward(encoder, prompted, skip=[skip] * len(TEXTS)).detach()
    assert np.abs(found.numpy() - expected).max() < 1e-5
    changed = np.abs(found.numpy() - forward(encoder, prompted).detach().numpy()).max() > 0.01
    assert changed == (pooling != "last")


@CHUNKS
def test_each_text_has_its_own_number_of_tokens_left_out(small_model, packed):
    encoder = Encoder.from_pretrained(small_model, padding_free=packed).eval()
    lm, tokenizer = AutoModel.from_pretrained(small_model).eval(), AutoTokenizer.from_pretrained(small_model)
    texts, skip = ["one two many words", "a row of them", "text", "number"], [3, 0, 1, 99]
    found = forward(encoder, texts, skip=skip)
    for text, left_out, vector in zip(texts, skip, found, strict=True):
        hidden = lm(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, left_out:]
        torch.testing.assert_close(vector, hidden.mean(0) if len(hidden) else torch.zeros(32), atol=1e-5, rtol=0)


def gradients(encoder: Encoder, recompute_fraction: float = 0.0, skip=None) -> list[torch.Tensor]:
    torch.manual_seed(1)
    encoder.zero_grad()
    x_ND = forward(encoder, TEXTS, recompute_fraction, skip)
    (x_ND * torch.randn(x_ND.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return [x_ND.detach(), *(p.grad.clone() for p in encoder.lm.parameters())]


@EVERY
@pytest.mark.parametrize("skip", [None, [n % 3 for n in range(len(TEXTS))]], ids=["all", "part"])
def test_gradients_are_the_same_packed_padded_and_recomputed(small_model, pooling, skip):
    packed, padded = (Encoder.from_pretrained(small_model, pooling=pooling, padding_free=c) for c in (True, False))
    for one, other in zip(gradients(packed.eval(), 0, skip), gradients(padded.eval(), 0, skip), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for encoder in (packed.train(), padded.train()):
        kept = gradients(encoder, 0.0, skip)
        for one, other in zip(kept, gradients(encoder, 0.5, skip), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(kept[0], gradients(encoder.eval(), 0, skip)[0], atol=0.01)  # dropout was on


@EVERY
def test_bf16_vectors_are_pooled_in_float32(small_model, pooling):
    encoder = Encoder.from_pretrained(small_model, pooling=pooling).eval()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = forward(encoder, TEXTS)
    assert rounded.dtype == torch.float32
    assert torch.cosine_similarity(rounded, forward(encoder, TEXTS)).min() > 0.999


def test_an_encoder_from_scratch_takes_a_pooling(small_model):
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    assert Encoder.from_scratch(tokenizer, **sizes).settings.pooling == "mean"
    assert Encoder.from_scratch(tokenizer, **sizes, pooling="cls").settings.pooling == "cls"


def test_an_unknown_pooling_is_refused_with_the_choices(small_model):
    with pytest.raises(UserError, match=r"^pooling=max is not known; choose one of: mean, cls, last$"):
        Encoder.from_pretrained(small_model, pooling="max")
