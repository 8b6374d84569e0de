"""Packed texts give what padded ones give, forward and backward, whatever kernel does it."""

import copy

import cuda_on_cpu
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
def test_packed_embeddings_and_gradients_equal_padded_ones(request, small_model, kind):
    packed, padded = encoders(request.getfixturevalue(kind), small_model)
    for one, other in zip(embeddings_and_gradients(packed), embeddings_and_gradients(padded), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_what_a_gpu_is_given_packed_equals_padded(request, small_model, monkeypatch, kind, kernel):
    packed, padded = encoders(request.getfixturevalue(kind), small_model)
    expected = embeddings_and_gradients(padded)
    monkeypatch.setattr(attention, "flash_fits", lambda device, dtype, width: kernel == "flash")
    with cuda_on_cpu.pretended(monkeypatch):
        found = embeddings_and_gradients(packed)
        assert cuda_on_cpu.calls == 4 * [(kernel, None)]  # 84 tokens in two chunks, through two layers
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_a_gpu_draws_the_same_dropout_in_what_it_recomputes(small_model, monkeypatch, fraction):
    lm = AutoModel.from_pretrained(small_model)  # its files ask for dropout of 0.1
    encoder = Encoder(lm, AutoTokenizer.from_pretrained(small_model), 32, padding_free=True).train()
    ids, results = torch.randint(5, 50, (int(LENGTHS.sum()),)), []
    with cuda_on_cpu.pretended(monkeypatch):
        for share, seed in ((0.0, 1), (fraction, 1), (fraction, 2)):
            encoder.zero_grad()
            torch.manual_seed(seed)
            x_ND = encoder(ids, LENGTHS, encoder.plan(LENGTHS.numpy(), 32), share)
            (x_ND * torch.arange(encoder.width)).sum().backward()
            results.append([x_ND.detach(), *(p.grad for p in encoder.lm.parameters())])
    kept, again, other = results
    for one, same in zip(kept, again, strict=True):
        torch.testing.assert_close(one, same)
    assert not torch.allclose(again[0], other[0], rtol=1e-3)


def test_a_window_reaches_the_kernel_and_only_flash_has_one(monkeypatch):
    qkv, offsets = random_qkv(12, torch.float32), torch.tensor([0, 5, 12], dtype=torch.int32)
    with cuda_on_cpu.pretended(monkeypatch):
        with pytest.raises(ValueError, match="no kernel with a window"):
            attention.attend_varlen(*qkv, offsets, 7, 0.0, None, window=2)
        half = [x.to(torch.float16) for x in qkv]
        found = attention.attend_varlen(*half, offsets, 7, 0.0, None, window=2)
        assert cuda_on_cpu.calls == [("flash", 2)]
    place = torch.arange(7)
    near = (place[:, None] - place).abs() <= 2
    for start, end in ((0, 5), (5, 12)):
        q, k, v = (x[start:end].transpose(0, 1) for x in qkv)
        seen = near[: end - start, : end - start]
        exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1)
        torch.testing.assert_close(found[start:end].float(), exact, rtol=0.01, atol=0.005)


@pytest.mark.parametrize(
    ("weights", "autocast", "packed"),
    [
        (torch.float32, None, False),
        (torch.float32, torch.float16, True),
        (torch.float32, torch.bfloat16, True),
        (torch.bfloat16, None, True),
        (torch.float16, None, True),
    ],
)
def test_a_gpu_packs_in_half_precision_whether_by_autocast_or_by_weights(
    bert, small_model, monkeypatch, weights, autocast, packed
):
    encoder = Encoder(bert, AutoTokenizer.from_pretrained(small_model), 32).to(weights)
    monkeypatch.setattr(attention, "has_flash", lambda device: device == torch.device("cuda"))
    monkeypatch.setattr(Encoder, "device", torch.device("cuda"))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda" and autocast is not None)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: autocast)
    assert encoder.plan(LENGTHS.numpy(), 64).packed == packed
    monkeypatch.setattr(attention, "has_flash", lambda device: False)
    assert not encoder.plan(LENGTHS.numpy(), 64).packed
    encoder.padding_free = True
    assert encoder.plan(LENGTHS.numpy(), 64).packed


def test_flash_takes_heads_of_up_to_256_in_eights_and_half_precision(monkeypatch):
    monkeypatch.setattr(attention, "has_flash", lambda device: True)
    fits = {width for width in range(4, 300, 4) if attention.flash_fits(None, torch.bfloat16, width)}
    assert fits == set(range(8, 257, 8))
    assert not attention.flash_fits(None, torch.float32, 64)


def test_a_padded_batch_is_masked_without_a_question_to_the_device(small_model, monkeypatch):
    _, padded = encoders(AutoModel.from_pretrained(small_model), small_model)
    expected = embeddings_and_gradients(padded)

    def asked(*given, **named):
        raise AssertionError("transformers looks at the mask's values")

    monkeypatch.setattr("transformers.masking_utils._ignore_bidirectional_mask_sdpa", asked)
    for one, other in zip(embeddings_and_gradients(padded), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_an_encoder_leaves_no_attention_to_cudnn(bert, small_model):
    torch.backends.cuda.enable_cudnn_sdp(True)
    Encoder(bert, AutoTokenizer.from_pretrained(small_model), 32)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


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
