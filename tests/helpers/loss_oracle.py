"""Oracle of the losses: the paper's sums written as loops in float64, and batches to compute them of."""

import torch

from gte.loss import contrastive_loss, improved_contrastive_loss

LOSSES = {"improved": improved_contrastive_loss, "vanilla": contrastive_loss}


def loops(name, q, d, n=None, temperature=0.01, texts=None):
    """-1/n Σ log(e^{s(q_i,d_i)/τ} / Z): Eq. 3 or 5, negatives as further documents; a zero vector has s = 0.

    `texts` (of queries, documents, and of a list of negatives each): who repeats a text of the other's pair is out.
    """
    q, d, n = [None if x is None else x.double() for x in (q, d, n)]
    pairs, negatives = range(len(q)), range(0 if n is None else n.shape[1])

    def s(a, b):
        if not a.any() or not b.any():
            return (a @ b) * 0
        return (a @ b) / (a.norm() * b.norm()) / temperature

    def other(kind, i, kind_, j, k=0):
        if texts is None or (i == j and kind_ < 2):
            return True
        pair, pair_ = ([texts[0][m], texts[1][m]] for m in (i, j))
        if kind_ == 2:
            pair_ = [texts[2][j][k]]
        text_ = texts[kind_][j][k] if kind_ == 2 else texts[kind_][j]
        return texts[kind][i] not in pair_ and text_ not in pair

    total = 0
    for i in pairs:
        terms = [s(q[i], d[j]) for j in pairs if other(0, i, 1, j)]
        terms += [s(q[i], n[j, k]) for j in pairs for k in negatives if other(0, i, 2, j, k)]
        if name == "improved":
            terms += [s(q[i], q[j]) for j in pairs if j != i and other(0, i, 0, j)]
            terms += [s(q[j], d[i]) for j in pairs if other(1, i, 0, j)]
            terms += [s(d[j], d[i]) for j in pairs if j != i and other(1, i, 1, j)]
            terms += [s(d[i], n[j, k]) for j in pairs if j != i for k in negatives if other(1, i, 2, j, k)]
        total = total + torch.stack(terms).logsumexp(0) - s(q[i], d[i])
    return total / len(q)


def make(n=5, width=8, k=0, seed=0, noise=1.0, common=0.0, dtype=torch.float64):
    """Related pairs; `common` moves all texts to one side, as real encoders do, so that all cosines are high."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    q = randn(n, width) + common * randn(width)
    d = q + noise * randn(n, width)
    batch = [q, d] + ([q[:, None] + 2 * noise * randn(n, k, width)] if k else [])
    return [x.to(dtype).requires_grad_() for x in batch]


def value_and_grads(f, batch):
    value = f(*batch)
    return value.detach(), torch.autograd.grad(value, batch)


def close(mine, theirs, tolerance):
    """Values within the tolerance, gradients within it times the largest entry."""
    (value, grads), (value_, grads_) = mine, theirs
    torch.testing.assert_close(value.double(), value_.double(), rtol=tolerance, atol=tolerance)
    for grad, grad_ in zip(grads, grads_, strict=True):
        assert grad.shape == grad_.shape and grad_.abs().max() > 0
        torch.testing.assert_close(grad.double(), grad_.double(), rtol=0, atol=tolerance * grad_.abs().max().item())
