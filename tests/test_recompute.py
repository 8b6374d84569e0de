"""Chunks that run again give the gradients of one run over all texts, and leave the generators alone."""

import numpy as np
import pytest
import torch

from gte import memory
from gte.encoder import Encoder
from gte.recompute import run_again

TEXTS = [" ".join(["one", "two", "many", "words"][: 1 + n % 4] * (1 + n % 3)) for n in range(256)]


def gradients(encoder: Encoder, batch_tokens: int, fraction: float, autocast=None) -> torch.Tensor:
    """Of the matrices in the layers, end to end in float64."""
    ids = [torch.tensor(text) for text in encoder.tokenize(TEXTS)]
    lengths_N = torch.tensor([len(text) for text in ids])
    plan = encoder.plan(lengths_N.numpy(), batch_tokens)
    assert len(plan.chunks) > 100 or batch_tokens > 10_000
    target_ND = torch.randn(len(ids), encoder.width, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        x_ND = encoder(torch.cat(ids), lengths_N, plan, fraction)
    (x_ND.float() * (2 + target_ND)).sum().backward()
    matrices = [p for name, p in encoder.named_parameters() if "layer." in name and p.ndim == 2]
    found = torch.cat([p.grad.double().flatten() for p in matrices])
    encoder.zero_grad()
    return found


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_many_chunks_in_bf16_are_as_exact_as_one(small_model, fraction):
    encoder = Encoder.from_pretrained(small_model, 32).eval()
    exact = gradients(encoder, 10**6, 0.0)
    one = error(gradients(encoder, 10**6, 0.0, torch.bfloat16), exact)
    many = error(gradients(encoder, 16, fraction, torch.bfloat16), exact)
    assert 0 < many < 1.5 * one, (many, one)


def test_weights_in_half_precision_get_sums_made_in_float32(small_model):
    encoder = Encoder.from_pretrained(small_model, 32).bfloat16().eval()
    exact = gradients(encoder.double(), 10**6, 0.0)
    encoder.bfloat16()
    one, again, remembered = (
        error(gradients(encoder, tokens, fraction), exact) for tokens, fraction in ((10**6, 0.0), (16, 1.0), (16, 0.0))
    )
    assert again < 1.5 * one and remembered > 2 * one, (one, again, remembered)


def test_the_second_run_draws_what_the_first_drew_and_the_generator_goes_on_from_where_it_was():
    weight = torch.ones(4, requires_grad=True)
    drawn = []

    def run(rows):
        drawn.append(torch.rand(len(rows), 4))
        return weight * drawn[-1]

    torch.manual_seed(0)
    result = run_again(run, [torch.arange(3), torch.arange(2)], [weight], torch.device("cpu"))
    after = torch.get_rng_state()
    torch.rand(5)
    moved = torch.get_rng_state()
    assert not torch.equal(after, moved)
    result.sum().backward()
    assert len(drawn) == 4 and torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert torch.equal(result, torch.cat(drawn[:2])) and torch.equal(torch.get_rng_state(), moved)
    np.testing.assert_allclose(weight.grad, torch.cat(drawn[:2]).sum(0))


def test_free_memory_is_given_back_where_the_process_has_grown_by_a_tenth(monkeypatch):
    trimmed, sizes = [], iter([100, 105, 110, 111, 109, 120])
    monkeypatch.setattr(memory, "TRIM", lambda pad: trimmed.append(pad))
    monkeypatch.setattr(memory, "resident_memory", lambda: next(sizes))
    even = memory.EvenMemory()
    counts = []
    for _ in range(6):
        even()
        counts.append(len(trimmed))
    assert counts == [1, 1, 1, 2, 2, 3]


def test_what_does_not_take_part_gets_no_gradient():
    used, unused = (torch.ones(4, requires_grad=True) for _ in range(2))
    run_again(
        lambda rows: used * torch.ones(len(rows), 1), [[0, 1]], [unused, used], torch.device("cpu")
    ).sum().backward()
    assert unused.grad is None and used.grad.tolist() == [2] * 4
