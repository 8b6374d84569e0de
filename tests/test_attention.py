"""Packed texts give what padded ones give, forward and backward, whatever kernel does it."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

from gte import attention
from gte.encoder import Encoder

LENGTHS = torch.tensor([3, 9, 9, 4, 17, 3, 9, 30])


def encoders(lm, folder) -> tuple[Encoder, Encoder]:
    """The same model over packed and over padded chunks."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tuple(Encoder(copy.deepcopy(lm), tokenizer, 32, padding_free=choice).eval() for choice in (True, False))


def embeddings_and_gradients(encoder: Encoder, budget: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (int(LENGTHS.sum()),), generator=generator)
    plan = encoder.plan(LENGTHS.numpy(), budget)
    assert (plan.padding == 0) == encoder.packed
    x_ND = encoder(ids, LENGTHS, plan)
    (x_ND * torch.randn(x_ND.shape, generator=generator)).sum().backward()
    return [x_ND.detach(), *(p.grad for p in encoder.lm.parameters())]


@pytest.fixture
def bert(small_model):
    return AutoModel.from_pretrained(small_model)


@pytest.fixture
def roberta():
    """Its positions begin after the padding id."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    return RobertaModel(RobertaConfig(vocab_size=120, max_position_embeddings=40, pad_token_id=1, **sizes))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("kernel", ["attend_each", "attend_jagged"])
def test_packed_embeddings_and_gradients_equal_padded_ones(request, small_model, monkeypatch, kind, kernel):
    packed, padded = encoders(request.getfixturevalue(kind), small_model)
    called = []
    chosen = getattr(attention, kernel)
    monkeypatch.setattr(attention, "attend_each", lambda *given: called.append(kernel) or chosen(*given[:6]))
    for one, other in zip(embeddings_and_gradients(packed), embeddings_and_gradients(padded), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6)
    assert len(called) == 4  # 84 tokens in two chunks, through two layers


def test_a_text_does_not_see_its_neighbours(bert, small_model):
    packed, _ = encoders(bert, small_model)
    alone = packed.encode(["red"])
    np.testing.assert_allclose(packed.encode(["red", "blue " * 20, "green"])[:1], alone, atol=2e-6)


def random_qkv(tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, 2, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def test_the_fused_and_the_plain_kernel_of_a_run_agree():
    qkv, runs = random_qkv(280, torch.bfloat16), [(1, 200), (2, 40)]
    fused = attention.attend_each(*qkv, runs, 0.0, None)
    plain = attention.attend_each(*qkv, runs, 0.0, None, eager=128)
    assert not torch.equal(plain[200:], fused[200:]) and torch.equal(plain[:200], fused[:200])  # really two kernels
    torch.testing.assert_close(plain, fused, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(("dtype", "eager"), [(torch.float32, 0), (torch.bfloat16, 128)])
def test_dropout_of_attention_changes_no_mean(dtype, eager):
    qkv, runs = random_qkv(12, dtype), [(3, 4)]
    exact = attention.attend_each(*qkv, runs, 0.0, None, eager).detach()
    torch.manual_seed(0)
    dropped = torch.stack([attention.attend_each(*qkv, runs, 0.5, None, eager).detach() for _ in range(2000)])
    assert exact.abs().max() > 1 and not torch.equal(dropped[0], dropped[1])
    torch.testing.assert_close(dropped.float().mean(0), exact.float(), atol=0.12, rtol=0)


def test_a_saved_model_does_not_name_our_attention(bert, small_model, tmp_path):
    packed, _ = encoders(bert, small_model)
    packed.save(tmp_path)
    assert attention.ATTENTION not in (tmp_path / "config.json").read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: pytest tests/test_attention.py there")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_cuda_packed_equals_padded_in_half_precision(bert, small_model, dtype):
    results = []
    for encoder in encoders(bert, small_model):
        with torch.autocast("cuda", dtype):
            results.append(embeddings_and_gradients(encoder.cuda()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)
