"""Chunks in threads: the same embeddings and gradients as one after the other, the same each time, no dropout lost."""

import pytest
import torch

from gte.encoder import Encoder
from gte.side_by_side import in_threads, shares

TEXTS = ["red blue", "green", "many words in a row and then some more", "a " * 17, "a " * 11, "one two three"] * 8
BUDGET = 40  # tokens of a chunk


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def outcome(encoder, recompute=0.0, autocast=False):
    encoder.zero_grad()
    ids = encoder.tokenize(TEXTS)
    lengths = torch.tensor([len(one) for one in ids])
    plan = encoder.plan(lengths.numpy(), BUDGET)
    assert len(plan.chunks) > 8
    flat = torch.tensor(sum(ids, []), dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        x_ND = encoder(flat, lengths, plan, recompute)
    (x_ND * torch.linspace(-1, 1, x_ND.numel(), dtype=x_ND.dtype).view_as(x_ND)).sum().backward()
    return x_ND.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("recompute", [0.0, 0.5])
def test_threads_change_neither_embeddings_nor_gradients(small_model, threads, padding_free, recompute, monkeypatch):
    encoder = Encoder.from_pretrained(small_model, padding_free=padding_free).double().train()
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    monkeypatch.setattr("gte.side_by_side.has_dropout", lambda lm: False)
    threads(1)
    x_ND, grads = outcome(encoder, recompute)
    calls = []
    real = Encoder.embed
    monkeypatch.setattr(Encoder, "embed", lambda *given: calls.append(torch.get_num_threads()) or real(*given))
    threads(3)
    y_ND, found = outcome(encoder, recompute)
    assert 1 in calls and torch.get_num_threads() == 3  # the threads had one each, this one has all again
    torch.testing.assert_close(y_ND, x_ND, rtol=0, atol=1e-12)
    assert found.keys() == grads.keys() and len(grads) > 10
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_step_is_the_same_bits_each_time(small_model, threads, autocast, monkeypatch):
    encoder = Encoder.from_pretrained(small_model).eval()
    threads(2)
    (x_ND, grads), (y_ND, again) = outcome(encoder, autocast=autocast), outcome(encoder, autocast=autocast)
    assert torch.equal(x_ND, y_ND) and all(torch.equal(grad, again[name]) for name, grad in grads.items())
    threads(1)
    z_ND, alone = outcome(encoder, autocast=autocast)
    tolerance = 0.02 if autocast else 1e-5
    torch.testing.assert_close(x_ND, z_ND, rtol=0, atol=tolerance)
    for name, grad in alone.items():
        torch.testing.assert_close(grads[name], grad, rtol=0, atol=tolerance * grad.abs().max().item(), msg=name)


def test_dropout_few_chunks_one_thread_and_no_gradient_keep_a_step_in_one_thread(small_model, threads):
    encoder, cpu = Encoder.from_pretrained(small_model), torch.device("cpu")
    threads(2)
    assert shares(4, cpu, encoder.lm.eval()) == 2 and shares(3, cpu, encoder.lm) == 1
    assert shares(4, torch.device("cuda"), encoder.lm) == 1
    with torch.no_grad():
        assert shares(4, cpu, encoder.lm) == 1
    assert encoder.lm.config.hidden_dropout_prob > 0 and shares(4, cpu, encoder.lm.train()) == 1
    threads(1)
    assert shares(4, cpu, encoder.lm.eval()) == 1


def test_an_error_of_a_thread_is_raised_and_the_threads_are_back(threads):
    threads(2)

    def work(share):
        if share.start:
            raise ValueError("of the second thread")

    with pytest.raises(ValueError, match="of the second thread"):
        in_threads(work, [range(0, 4, 2), range(1, 4, 2)])
    assert torch.get_num_threads() == 2
