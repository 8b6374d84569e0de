"""Nested widths, directions, masked candidates and a learnt temperature, against sums written as loops in float64."""

import threading
from itertools import product

import pytest
import torch

from gte.loss import DIRECTIONS, contrastive_loss, improved_contrastive_loss

FOUR = tuple(DIRECTIONS)
PAIRS, WIDTH, K, GUIDE = 6, 9, 2, 4
WIDTHS, WEIGHTS = [9, 6, 2], [1.0, 0.5, 2.0]


def cosine(a, b):
    if not a.any() or not b.any():
        return (a @ b) * 0
    return (a @ b) / (a.norm() * b.norm())


def loops(q, d, n=None, *, temperature=0.1, widths=None, weights=None, directions=FOUR, margin=None, guide=None):
    """-1/n Σ log(e^{s(q_i,d_i)/τ} / Z), the terms of Z one by one; (loss, candidates, masked) of the first width.

    guide: its queries, documents and negatives as [N, G], [N, G], [N, K, G].
    """
    pairs, negatives = range(len(q)), range(0 if n is None else n.shape[1])
    total, candidates, masked = 0, 0, 0
    for number, width in enumerate(widths or [q.shape[1]]):
        cut = [None if x is None else x[..., :width] for x in (q, d, n)]
        judge = cut if guide is None else guide
        for i in pairs:

            def vector(batch, kind, j, k):
                return batch[kind][j] if kind < 2 else batch[2][j, k]

            own = {"query_to_doc": 0, "query_to_query": 0, "doc_to_query": 1, "doc_to_doc": 1}
            terms = []
            for direction in directions:
                side = own[direction]
                other = 1 if direction.endswith("doc") else 0
                within = side != other
                listed = [(other, j, 0) for j in pairs if within or j != i]
                if other == 1:
                    listed += [(2, j, k) for j in pairs for k in negatives if side == 0 or j != i]
                for kind, j, k in listed:
                    candidates += number == 0
                    if margin is not None and not (kind < 2 and kind != side and j == i):
                        with torch.no_grad():
                            bound = cosine(judge[0][i], judge[1][i]) + margin
                            if cosine(judge[side][i], vector(judge, kind, j, k)) > bound:
                                masked += number == 0
                                continue
                    terms.append(cosine(cut[side][i], vector(cut, kind, j, k)) / temperature)
            value = torch.stack(terms).logsumexp(0) - cosine(cut[0][i], cut[1][i]) / temperature
            total = total + (1 if weights is None else weights[number]) * value / len(q)
    return total, candidates, masked


def make(k=K, seed=0, pairs=PAIRS, width=WIDTH):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(pairs, width, generator=g, dtype=torch.float64)
    batch = [q, q + torch.randn(pairs, width, generator=g, dtype=torch.float64)]
    if k:
        batch.append(q[:, None] + torch.randn(pairs, k, width, generator=g, dtype=torch.float64))
    return [x.requires_grad_() for x in batch]


def make_guide(k=K, pairs=PAIRS):
    g = torch.Generator().manual_seed(7)
    query, document = (torch.randn(pairs, GUIDE, generator=g, dtype=torch.float64) for _ in range(2))
    document += query
    return query, document, torch.randn(pairs, k, GUIDE, generator=g, dtype=torch.float64) + query[:, None]


def flat(guide):
    return torch.cat([x.reshape(-1, GUIDE) for x in guide])


def same(mine, theirs, tolerance=1e-10):
    torch.testing.assert_close(mine[0], theirs[0], rtol=tolerance, atol=tolerance)
    for grad, grad_ in zip(mine[1], theirs[1], strict=True):
        assert grad_.abs().max() > 0
        torch.testing.assert_close(grad, grad_, rtol=0, atol=tolerance * grad_.abs().max().item())


def value_and_grads(value, batch):
    return value.detach(), torch.autograd.grad(value, batch)


@pytest.mark.parametrize("chunk_rows", [1, 4, None])
@pytest.mark.parametrize("k", [0, K])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_nested_widths_are_the_sum_of_the_losses_of_the_cut_vectors(weights, k, chunk_rows):
    batch = make(k)
    mine = improved_contrastive_loss(
        *batch, temperature=0.1, chunk_rows=chunk_rows, widths=WIDTHS, width_weights=weights
    )
    theirs = loops(*batch, widths=WIDTHS, weights=weights)[0]
    mine, theirs = value_and_grads(mine, batch), value_and_grads(theirs, batch)
    same(mine, theirs)
    assert abs(mine[0] - improved_contrastive_loss(*batch, temperature=0.1)) > 0.1


@pytest.mark.parametrize("loss", [improved_contrastive_loss, contrastive_loss])
def test_nested_widths_equal_one_loss_a_width(loss):
    """Also where the largest is not the encoder's, and where a cut vector is zero."""
    batch = make()
    with torch.no_grad():
        batch[0][1, :2], batch[1][2] = 0, 0
    widths = [7, 2]
    mine = value_and_grads(loss(*batch, temperature=0.1, widths=widths), batch)
    parts = sum(loss(*[x[..., :width] for x in batch], temperature=0.1) for width in widths)
    same(mine, value_and_grads(parts, batch))
    assert not mine[1][0][:, 7:].any()


def test_one_width_is_the_loss_of_the_cut_vectors():
    batch = make()
    assert improved_contrastive_loss(*batch, widths=[WIDTH]) == improved_contrastive_loss(*batch)
    cut = improved_contrastive_loss(*[x[..., :4] for x in batch], temperature=0.1)
    torch.testing.assert_close(improved_contrastive_loss(*batch, temperature=0.1, widths=[4]), cut)


CHOICES = [c for c in product([False, True], repeat=4) if c[0] or c[2]]


@pytest.mark.parametrize("chunk_rows", [2, None])
@pytest.mark.parametrize("k", [0, K])
@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_directions_are_the_terms_of_the_denominator(chosen, k, chunk_rows):
    batch = make(k)
    directions = [name for name, taken in zip(FOUR, chosen, strict=True) if taken]
    mine = improved_contrastive_loss(*batch, temperature=0.1, chunk_rows=chunk_rows, directions=directions)
    theirs = loops(*batch, directions=directions)[0]
    reached = batch[: 2 + (k > 0 and (chosen[0] or chosen[3]))]
    same(value_and_grads(mine, reached), value_and_grads(theirs, reached))


@pytest.mark.parametrize("k", [0, K])
@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_directions_are_those_of_sentence_transformers(chosen, k):
    st = pytest.importorskip("sentence_transformers.losses", reason="pip install sentence-transformers: second opinion")
    batch = make(k, pairs=12)
    directions = tuple(name for name, taken in zip(FOUR, chosen, strict=True) if taken)
    if "query_to_doc" not in directions:
        pytest.skip("sentence-transformers wants query_to_doc among them")
    peer = st.MultipleNegativesRankingLoss(None, scale=10, directions=directions, partition_mode="joint")
    theirs = peer.compute_loss_from_embeddings([*batch[:2], *(batch[2].unbind(1) if k else [])], None)
    mine = improved_contrastive_loss(*batch, temperature=0.1, directions=directions)
    same(value_and_grads(mine, batch), value_and_grads(theirs, batch))


@pytest.mark.parametrize("chunk_rows", [1, 4, None])
@pytest.mark.parametrize("k", [0, K])
@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.1])
@pytest.mark.parametrize("widths", [None, WIDTHS])
@pytest.mark.parametrize("guided", [False, True])
def test_candidates_above_the_positive_are_left_out(guided, widths, margin, k, chunk_rows):
    batch, guide = make(k), make_guide(k) if guided else None
    theirs, candidates, masked = loops(*batch, widths=widths, margin=margin, guide=guide)
    counts = {}
    mine = improved_contrastive_loss(
        *batch,
        temperature=0.1,
        chunk_rows=chunk_rows,
        widths=widths,
        mask_margin=margin,
        guide=flat(guide) if guided else None,
        counts=counts,
    )
    same(value_and_grads(mine, batch), value_and_grads(theirs, batch))
    assert 0 < masked < candidates
    assert counts["masked"] == masked and counts["candidates"] == candidates


def test_a_margin_that_nothing_reaches_changes_nothing():
    batch, counts = make(), {}
    unmasked = improved_contrastive_loss(*batch, temperature=0.1)
    mine = improved_contrastive_loss(*batch, temperature=0.1, mask_margin=1.9, counts=counts)
    torch.testing.assert_close(mine, unmasked, rtol=1e-14, atol=0)  # two ways to the same sums
    assert counts["masked"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_positive_is_never_masked_however_it_is_rounded(dtype):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 33, generator=g).to(dtype)
    counts = {}
    improved_contrastive_loss(x, x, mask_margin=0.0, counts=counts)
    assert counts["masked"] == 0  # a positive has cosine 1: nothing scores above it, and no positive above itself


def test_self_guided_masks_equal_those_of_the_gist_loss():
    """GISTEmbedLoss sums query_to_doc, query_to_query, doc_to_doc, and masks what its guide scores above the pair."""
    losses = pytest.importorskip("sentence_transformers.losses", reason="pip install sentence-transformers")
    batch, guide = make(0, pairs=12), make_guide(0, pairs=12)[:2]

    class Lookup(torch.nn.Module):
        def __init__(self, vectors):
            super().__init__()
            self.vectors = vectors
            self.tokenizer = None

        def __call__(self, features):
            return {"sentence_embedding": self.vectors[features["side"]]}

    peer = losses.GISTEmbedLoss.__new__(losses.GISTEmbedLoss)
    torch.nn.Module.__init__(peer)
    peer.model, peer.guide, peer.temperature = Lookup(batch), Lookup(guide), 0.1
    peer.must_retokenize, peer.similarity_fct = False, torch.nn.CosineSimilarity(dim=-1)
    peer.margin_strategy, peer.margin, peer.gather_across_devices = "absolute", 0.0, False
    peer.contrast_anchors = peer.contrast_positives = True
    peer.cross_entropy_loss = torch.nn.CrossEntropyLoss()
    theirs = peer([{"side": 0}, {"side": 1}], torch.zeros(12))
    three = ("query_to_doc", "query_to_query", "doc_to_doc")
    options = dict(temperature=0.1, directions=three, mask_margin=0.0)
    mine = improved_contrastive_loss(*batch, **options, guide=torch.cat(guide))
    same(value_and_grads(mine, batch), value_and_grads(theirs, batch))


@pytest.mark.parametrize("widths", [None, WIDTHS])
@pytest.mark.parametrize("margin", [None, 0.0])
@pytest.mark.parametrize("k", [0, K])
def test_the_gradient_of_the_temperature_is_that_of_the_loops(k, margin, widths):
    batch = make(k)
    mine, theirs = (torch.tensor(0.1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    value = improved_contrastive_loss(*batch, temperature=mine, widths=widths, mask_margin=margin, chunk_rows=4)
    value_ = loops(*batch, temperature=theirs, widths=widths, margin=margin)[0]
    same(value_and_grads(value, [*batch, mine]), value_and_grads(value_, [*batch, theirs]))


class Thread:
    """Ranks that are threads of this process."""

    def __init__(self, rank, world, shared, meet):
        self.rank, self.world_size, self.shared, self.meet = rank, world, shared, meet

    def all_gather(self, x):
        self.shared[self.rank] = x.detach().clone()
        self.meet.wait()
        gathered = torch.cat([self.shared[rank] for rank in range(self.world_size)])
        self.meet.wait()
        return gathered


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("k", [0, K])
@pytest.mark.parametrize(
    "options",
    [
        {"widths": WIDTHS, "width_weights": WEIGHTS},
        {"mask_margin": 0.0},
        {"mask_margin": 0.0, "guided": True, "widths": WIDTHS},
        {"directions": ["query_to_doc", "doc_to_doc"]},
    ],
    ids=str,
)
def test_ranks_together_have_the_value_and_gradient_of_one_process(options, k, world):
    options = dict(options)
    guide = make_guide(k) if options.pop("guided", False) else None
    tau = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    batch, counts = make(k), {}
    whole = improved_contrastive_loss(
        *batch, temperature=tau, **options, guide=None if guide is None else flat(guide), counts=counts
    )
    value, grads = value_and_grads(whole, [*batch, tau])
    shared, meet, found = {}, threading.Barrier(world), {}
    own = [slice(rank * PAIRS // world, (rank + 1) * PAIRS // world) for rank in range(world)]

    def work(rank):
        part = [x.detach()[own[rank]].requires_grad_() for x in batch]
        tau_ = tau.detach().clone().requires_grad_()
        mine, seen = None if guide is None else flat([x[own[rank]] for x in guide]), {}
        ranks = Thread(rank, world, shared, meet)
        loss = improved_contrastive_loss(
            *part, temperature=tau_, chunk_rows=3, ranks=ranks, **options, guide=mine, counts=seen
        )
        found[rank] = loss.detach(), torch.autograd.grad(loss, [*part, tau_]), seen

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(world):
        torch.testing.assert_close(found[rank][0], value, rtol=1e-10, atol=0)
    for position in range(len(batch)):
        joined = torch.cat([found[rank][1][position] for rank in range(world)]) / world  # DDP averages
        torch.testing.assert_close(joined, grads[position], rtol=0, atol=1e-10 * grads[position].abs().max().item())
    averaged = sum(found[rank][1][-1] for rank in range(world)) / world
    torch.testing.assert_close(averaged, grads[-1], rtol=1e-9, atol=0)
    assert sum(found[rank][2]["masked"] for rank in range(world)) == counts["masked"]


def test_float32_has_no_bias_against_float64():
    """The mean difference over many batches is within its own error: constants are rounded alike in both terms."""
    differences = []
    for seed in range(40):
        q, d = make(0, seed, pairs=64, width=32)
        exact = improved_contrastive_loss(q, d)
        differences.append((improved_contrastive_loss(q.float(), d.float()).double() - exact).item())
    mean, deviation = torch.tensor(differences).mean(), torch.tensor(differences).std()
    assert abs(mean) < 3 * deviation / len(differences) ** 0.5 and deviation < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, r"widths \[\] must be positive and falling"),
        ({"widths": [2, 9]}, r"widths \[2, 9\] must be positive and falling"),
        ({"widths": [9, 9]}, r"widths \[9, 9\] must be positive and falling"),
        ({"widths": [9, 0]}, r"widths \[9, 0\] must be positive and falling"),
        ({"widths": [12, 3]}, r"widths \[12, 3\] must be at most the encoder's width, 9"),
        ({"widths": [9, 3], "width_weights": [1.0]}, r"width_weights \[1.0\] must be 2 positive numbers"),
        ({"widths": [9, 3], "width_weights": [1, 0]}, r"must be 2 positive numbers"),
        ({"width_weights": [1.0]}, "belong to widths, which are not given"),
        ({"directions": ["query_to_dog"]}, "unknown direction query_to_dog; known: query_to_doc"),
        ({"directions": ["query_to_query"]}, "sum no positive"),
        ({"directions": []}, "sum no positive"),
        ({"mask_margin": -1.0}, "mask_margin -1.0 is a difference of cosines"),
        ({"mask_margin": float("nan")}, "mask_margin nan is a difference of cosines"),
        ({"guide": torch.ones(12, 3)}, "what mask_margin masks, which is None"),
        ({"guide": torch.ones(5, 3), "mask_margin": 0.0}, r"guide \[5, 3\] must be \[12, width\]"),
        ({"temperature": torch.tensor(0.0)}, "temperature 0.0 must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        improved_contrastive_loss(*make(0), **options)
    assert "\n" not in str(error.value)
