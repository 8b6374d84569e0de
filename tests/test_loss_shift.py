"""One divisor for all e^S where a float's range allows it, the running maximum where not: the same sums either way."""

import pytest
import torch
from loss_oracle import close, loops, make, value_and_grads

from gte import loss as loss_module
from gte.loss import contrastive_loss, improved_contrastive_loss


def spied(monkeypatch, replaced=None):
    """The shifts that are chosen; with `replaced` they are not followed."""
    seen, own = [], loss_module._Scores.common_shift

    def common_shift(scores):
        seen.append(own(scores))
        return seen[-1] if replaced is None else replaced()

    monkeypatch.setattr(loss_module._Scores, "common_shift", common_shift)
    return seen


@pytest.mark.parametrize("widths", [None, [8, 5, 2]])
@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize(
    "directions",
    [
        ["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"],
        ["query_to_doc"],
        ["doc_to_query", "doc_to_doc"],
    ],
)
def test_one_divisor_and_the_running_maximum_give_the_same_loss_and_gradient(monkeypatch, directions, k, widths):
    batch = make(n=7, k=k)

    def mine(*b):
        return improved_contrastive_loss(*b, temperature=0.1, widths=widths, directions=directions, chunk_rows=3)

    with monkeypatch.context() as patched:
        seen = spied(patched)
        by_divisor = value_and_grads(mine, batch)
    assert len(seen) == 2 and seen[0] == seen[1] is not None  # forward and backward
    with monkeypatch.context() as patched:
        spied(patched, lambda: None)
        close(by_divisor, value_and_grads(mine, batch), 1e-11)


@pytest.mark.parametrize("cosine", [0.0, -0.2, -0.3, -0.4, -1.0])
@pytest.mark.parametrize("temperature", [0.5, 0.01, 0.003])
def test_no_power_that_counts_is_lost_in_float32_however_low_a_positive_scores(temperature, cosine):
    """Texts that are equal (all e^S at the most) beside a pair whose sums hold nothing but what is far below it."""
    e = torch.eye(4, dtype=torch.float64)
    q = torch.stack([e[2], e[2], (e[0] - 1.5 * e[2]) / 3.25**0.5, e[2]])
    d = q.clone()
    d[2] = cosine * q[2] + (1 - cosine**2) ** 0.5 * e[1]
    batch = [x.float().requires_grad_() for x in (q, d)]
    double = [x.detach().double().requires_grad_() for x in batch]
    theirs = value_and_grads(lambda q, d: loops("improved", q, d, temperature=temperature), double)
    for chunk_rows in (1, None):
        mine = value_and_grads(
            lambda q, d, rows=chunk_rows: improved_contrastive_loss(q, d, temperature=temperature, chunk_rows=rows),
            batch,
        )
        close(mine, theirs, 1e-5 + 1e-6 / temperature)


def test_a_low_positive_in_float32_at_the_papers_temperature_has_no_divisor(monkeypatch):
    seen, e = spied(monkeypatch), torch.eye(3)
    improved_contrastive_loss(e, e)
    improved_contrastive_loss(e, -e)
    improved_contrastive_loss(e.double(), -e.double())
    assert seen[0] is not None and seen[1] is None and seen[2] is not None


@pytest.mark.parametrize("product", ["oneDNN", "PyTorch's own"])
@pytest.mark.parametrize("options", [{}, {"widths": [8, 3]}, {"mask_margin": 0.0}, {"guide": True}], ids=str)
def test_a_backward_under_autocast_is_not_rounded(monkeypatch, options, product):
    if product != "oneDNN":
        monkeypatch.setattr(loss_module, "ONEDNN", None)
    batch = make(n=9, k=2, dtype=torch.float32)
    if options.get("guide"):
        guide = torch.randn(36, 5, generator=torch.Generator().manual_seed(3))
        options = {"mask_margin": 0.0, "guide": guide}
    value = improved_contrastive_loss(*batch, **options)
    plain = torch.autograd.grad(value, batch, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = torch.autograd.grad(value, batch)
    for grad, grad_ in zip(under, plain, strict=True):
        assert grad_.abs().max() > 0 and torch.equal(grad, grad_)


@pytest.mark.parametrize("loss", [improved_contrastive_loss, contrastive_loss])
@pytest.mark.parametrize("width", [24, 10])
def test_products_by_onednn_equal_those_of_pytorch(monkeypatch, width, loss):
    if loss_module.ONEDNN is None:
        pytest.skip("this PyTorch has no oneDNN")
    batch = make(n=48, width=24, k=1, noise=0.5, dtype=torch.float32)
    calls, onednn = [], loss_module.ONEDNN
    monkeypatch.setattr(loss_module, "ONEDNN", lambda *given: calls.append(given[1]) or onednn(*given))
    mine = value_and_grads(lambda *b: loss(*b, widths=[width], chunk_rows=20), batch)
    assert calls and all(y.is_contiguous() for y in calls)  # of cut columns oneDNN would take a thousand times as long
    monkeypatch.setattr(loss_module, "ONEDNN", None)
    close(mine, value_and_grads(lambda *b: loss(*b, widths=[width], chunk_rows=20), batch), 1e-4)
