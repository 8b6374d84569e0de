"""Eqs. 3 and 5-7 against the paper's sums written as loops in float64, gradients by autograd over the loops."""

from functools import partial
from math import log
from pathlib import Path

import pytest
import torch
from loss_oracle import LOSSES, close, loops, make, value_and_grads

from gte import loss as loss_module
from gte.benchmarks.loss import nested_variants, nested_widths, variants
from gte.benchmarks.loss import run as benchmark
from gte.benchmarks.measure import in_child
from gte.loss import contrastive_loss, improved_contrastive_loss

HALF = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 5, 7, None])
@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_equal_the_sums_written_as_loops(name, k, chunk_rows):
    batch = make(k=k)
    mine = value_and_grads(lambda *b: LOSSES[name](*b, temperature=0.1, chunk_rows=chunk_rows), batch)
    close(mine, value_and_grads(lambda *b: loops(name, *b, temperature=0.1), batch), 1e-10)
    others = [name_ for name_ in LOSSES if name_ != name]
    assert abs(mine[0] - loops(others[0], *batch, temperature=0.1)) > 1e-3  # the two losses really differ here


REPEATED = (
    ["a", "b", "c", "a", "e", "q"],  # pairs 0 and 3 share the query
    ["f", "g", "h", "i", "g", "a"],  # 1 and 4 the document; document 5 is query 0
    [["x", "f"], ["y", "h"], ["z", "c"], ["w", "w"], ["v", "b"], ["u", "t"]],  # 0: its own document as a negative
)


def text_hashes(texts) -> torch.Tensor:
    queries, documents, negatives = texts
    flat = [*queries, *documents, *sum(negatives, [])]
    return torch.tensor([ord(text) * 0x1234567 - 2**62 for text in flat])


@pytest.mark.parametrize("chunk_rows", [1, 4, None])
@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_texts_that_repeat_a_text_of_the_pair_do_not_compete_with_it(name, k, chunk_rows):
    batch, texts = make(n=6, k=k), (*REPEATED[:2], REPEATED[2] if k else [[]] * 6)
    options = dict(temperature=0.1, chunk_rows=chunk_rows)
    mine = value_and_grads(lambda *b: LOSSES[name](*b, **options, text_hashes=text_hashes(texts)), batch)
    close(mine, value_and_grads(lambda *b: loops(name, *b, temperature=0.1, texts=texts), batch), 1e-10)
    unmasked = LOSSES[name](*batch, **options)
    assert mine[0] < unmasked - 1e-4
    distinct = torch.arange(len(text_hashes(texts)))
    torch.testing.assert_close(LOSSES[name](*batch, **options, text_hashes=distinct), unmasked)


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_equals_finite_differences(name, k):
    batch = make(n=4, width=3, k=k, seed=1)
    assert torch.autograd.gradcheck(lambda *b: LOSSES[name](*b, temperature=0.3, chunk_rows=3), batch)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_follows_the_weight_of_the_loss_and_reaches_only_who_asks(name):
    q, d = make()
    _, (dq, dd) = value_and_grads(LOSSES[name], [q, d])
    (alone,) = torch.autograd.grad(-3 * LOSSES[name](q, d.detach()), [q])
    torch.testing.assert_close(alone, -3 * dq)
    (alone,) = torch.autograd.grad(LOSSES[name](q.detach(), d), [d])
    torch.testing.assert_close(alone, dd)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_sentence_transformers(name, k):
    st = pytest.importorskip("sentence_transformers.losses", reason="pip install sentence-transformers: second opinion")
    four = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    directions = {"improved": four, "vanilla": ("query_to_doc",)}[name]
    peer = st.MultipleNegativesRankingLoss(None, scale=100, directions=directions, partition_mode="joint")

    def theirs(q, d, n=None):
        return peer.compute_loss_from_embeddings([q, d, *([] if n is None else n.unbind(1))], None)

    batch = make(n=48, width=24, k=k, noise=0.5, dtype=torch.float32)
    mine = value_and_grads(lambda *b: LOSSES[name](*b, chunk_rows=20), batch)
    close(mine, value_and_grads(theirs, batch), 1e-4)  # logits of 100 in float32: 1e-5 each, a few of them a gradient
    double = [x.detach().double().requires_grad_() for x in batch]
    close(value_and_grads(LOSSES[name], double), value_and_grads(theirs, double), 1e-10)


@pytest.mark.parametrize(("name", "floor"), [("improved", log(2)), ("vanilla", 0.0)])
def test_perfect_orthogonal_pairs_cost_exactly_the_floor(name, floor):
    q = torch.eye(16, requires_grad=True)
    value, (grad,) = value_and_grads(lambda q: LOSSES[name](q, q.detach()), [q])
    assert value.item() == pytest.approx(floor, abs=2e-5)  # float32 next to logits of 100
    assert grad.abs().max() < 1e-5
    worse = LOSSES[name](q, q.detach() + 0.3 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    assert worse > value


@pytest.mark.parametrize("name", LOSSES)
def test_one_pair_alone_costs_the_floor_even_when_opposite(name):
    q = torch.randn(1, 8, requires_grad=True)
    value, grads = value_and_grads(lambda q: LOSSES[name](q, -q.detach()), [q])
    assert value.item() == pytest.approx({"improved": log(2), "vanilla": 0}[name], abs=2e-5)
    assert grads[0].abs().max() < 1e-3


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("chunk_rows", [1, 4, None])
def test_identical_texts_share_the_probability_evenly(dtype, chunk_rows):
    n = 9
    x = (3 * torch.ones(n, 8)).to(dtype).requires_grad_()
    improved = improved_contrastive_loss(x, x, chunk_rows=chunk_rows)
    assert improved.item() == pytest.approx(log(4 * n - 2), abs=2e-5)  # n + (n-1) + n + (n-1) equal terms in Z
    assert contrastive_loss(x, x, chunk_rows=chunk_rows).item() == pytest.approx(log(n), abs=2e-5)
    assert torch.autograd.grad(improved, x)[0].isfinite().all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("common", [0.0, 3.0])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_inputs_cost_no_precision_inside(name, dtype, common, autocast):
    batch = make(n=9, width=16, k=2, common=common, dtype=dtype)
    value, grads = loops(name, *batch).detach(), torch.autograd.grad(loops(name, *batch), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        mine = LOSSES[name](*batch, chunk_rows=4)
        mine_grads = torch.autograd.grad(mine, batch)
    assert mine.dtype == torch.float32 and mine.item() == pytest.approx(value.item(), abs=5e-5)
    for grad, grad_ in zip(mine_grads, grads, strict=True):  # both rounded to the inputs' dtype at the end
        assert grad.dtype == dtype
        worst = max(1e-4, 2 * torch.finfo(dtype).eps) * grad_.abs().max().double().item()
        torch.testing.assert_close(grad.double(), grad_.double(), rtol=0, atol=worst)


@pytest.mark.parametrize("chunk_rows", [1, 2, None])
def test_logits_from_minus_to_plus_100_in_one_tile(chunk_rows):
    """Row sums 200 nats apart: one shift for a whole tile would lose the small ones."""
    e = torch.eye(4)
    q = torch.stack([e[0], e[1], e[1], -e[0] + 0.1 * e[2]])
    d = torch.stack([-e[0], e[1], -e[1], e[3] - e[0]])
    for name, f in LOSSES.items():
        batch = [q.clone().requires_grad_(), d.clone().requires_grad_()]
        mine = value_and_grads(lambda q, d, f=f: f(q, d, chunk_rows=chunk_rows), batch)
        double = [x.detach().double().requires_grad_() for x in batch]
        close(mine, value_and_grads(lambda q, d, name=name: loops(name, q, d), double), 2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_scale_of_the_inputs_does_not_matter(name):
    batch = make(n=6, k=2, dtype=torch.float32)
    # up to 1e30, where a plain sum of squares in float32 overflows, and down to 1e-30, where it vanishes
    scales = [10.0 ** torch.linspace(-30, 30, x[..., :1].numel()).view(*x.shape[:-1], 1) for x in batch]
    value, grads = value_and_grads(LOSSES[name], batch)
    scaled = [(x.detach() * s).requires_grad_() for x, s in zip(batch, scales, strict=True)]
    value_, grads_ = value_and_grads(LOSSES[name], scaled)
    assert value_.item() == pytest.approx(value.item(), rel=1e-5)
    for grad, grad_, s in zip(grads, grads_, scales, strict=True):
        torch.testing.assert_close(grad_ * s, grad, rtol=1e-3, atol=1e-4 * grad.abs().max().item())


def test_largest_half_precision_numbers():
    x = torch.full((4, 64), 65504.0).half() * torch.randn(4, 64).sign().half()
    assert improved_contrastive_loss(x, x).item() == pytest.approx(loops("improved", x, x).item(), abs=5e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", LOSSES)
def test_zero_vectors_have_cosine_0_and_no_gradient(name, dtype):
    batch = make(k=2, dtype=dtype)
    with torch.no_grad():
        batch[0][1], batch[1][3], batch[2][0, 1] = 0, 0, 0
    value, grads = value_and_grads(LOSSES[name], batch)
    assert value.item() == pytest.approx(loops(name, *batch).item(), abs=5e-5)
    assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in grads)
    assert not grads[0][1].any() and not grads[1][3].any() and not grads[2][0, 1].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_embedding_makes_a_broken_loss(bad):
    q, d = make()
    q.data[2, 0] = bad
    assert improved_contrastive_loss(q, d).isnan() and contrastive_loss(q, d).isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_pairs_and_of_negatives_does_not_matter(name):
    batch = make(n=7, k=3)
    order, inner = torch.randperm(7), torch.tensor([2, 0, 1])
    q, d, n = [x.detach()[order] for x in batch]
    value, grads = value_and_grads(lambda *b: LOSSES[name](*b, chunk_rows=3), batch)
    moved = [x.requires_grad_() for x in (q, d, n[:, inner])]
    moved_value, moved_grads = value_and_grads(lambda *b: LOSSES[name](*b, chunk_rows=3), moved)
    torch.testing.assert_close(moved_value, value)
    torch.testing.assert_close(moved_grads[0], grads[0][order])
    torch.testing.assert_close(moved_grads[1], grads[1][order])
    torch.testing.assert_close(moved_grads[2], grads[2][order][:, inner])


def test_queries_and_documents_may_trade_places_in_the_improved_loss_only():
    q, d = make()
    torch.testing.assert_close(improved_contrastive_loss(q, d), improved_contrastive_loss(d, q))
    assert abs(contrastive_loss(q, d, temperature=0.1) - contrastive_loss(d, q, temperature=0.1)) > 1e-4


def test_no_negatives_and_0_negatives_are_the_same():
    q, d = make()
    assert improved_contrastive_loss(q, d, torch.zeros(5, 0, 8)) == improved_contrastive_loss(q, d)


def test_nothing_is_kept_for_backward_when_no_gradient_is_needed():
    def kept(*batch):
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: numbers.append(x.numel()) or x, lambda x: x):
            improved_contrastive_loss(*batch, chunk_rows=8)
        return sum(numbers)

    batch = make(n=32, k=2)
    rows = 32 * (2 + 2)
    assert rows * 8 <= kept(*batch) <= rows * (8 + 2)  # X, norms and log Z: nothing quadratic
    assert kept(*[x.detach() for x in batch]) == 0
    with torch.no_grad():
        assert kept(*batch) == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc: Linux")
def test_peak_memory_is_linear_in_the_number_of_pairs():
    def peak_mb(variant, n):
        return in_child("gte.benchmarks.loss", variant, n, 32, "cpu")["peak"] / 2**20

    block_mb = 2048**2 * 4 / 2**20
    assert peak_mb("dense", 2048) > 8 * block_mb  # guard: the measure sees four blocks and their gradients
    assert peak_mb("ours", 8192) < 64  # tiles of 2 to 32 MB; one block is 256 MB


@pytest.mark.parametrize("variant", variants() | nested_variants((8, 4)))
def test_the_benchmark_compares_like_with_like(variant):
    batch = make(n=20, width=12, dtype=torch.float32)
    loss, widths = {**variants(), **nested_variants(nested_widths(12))}[variant](), None
    if variant.endswith("nested"):
        widths = nested_widths(12)
        assert widths == (12, 8, 4, 2)
    value = loss(*batch)
    if value.requires_grad:
        value.backward()
    mine = value.detach(), [x.grad for x in batch]
    close(mine, value_and_grads(partial(improved_contrastive_loss, widths=widths), batch), 1e-4)


def test_the_benchmark_reports_each_variant_against_ours():
    *times, memory = benchmark(n=32, width=8, rounds=2, memory_of=(("ours", 64, 8),))
    assert [row["variant"] for row in times] == [*variants(), *nested_variants((8, 5))]
    assert times[0]["variant"] == "ours" and times[0]["ratio_min"] == times[0]["ratio_max"] == 1
    assert all(0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"] for row in times)
    assert memory["n"] == 64 and memory["peak_mb"] >= 0


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ((torch.ones(3, 4), torch.ones(2, 4)), {}, r"queries \[3, 4\] and documents \[2, 4\] do not agree"),
        ((torch.ones(3, 4), torch.ones(3, 5)), {}, r"queries \[3, 4\] and documents \[3, 5\] do not agree"),
        ((torch.ones(3), torch.ones(3)), {}, r"must be \[pairs, width\]"),
        ((torch.ones(0, 4), torch.ones(0, 4)), {}, "hold 0 pairs"),
        ((torch.ones(3, 4), torch.ones(3, 4), torch.ones(3, 4)), {}, r"negatives \[3, 4\] must be \[3, any"),
        ((torch.ones(3, 4), torch.ones(3, 4), torch.ones(2, 7, 4)), {}, r"negatives \[2, 7, 4\] must be \[3, any"),
        ((torch.ones(3, 4), torch.ones(3, 4)), {"temperature": 0.0}, "temperature 0.0 must be above 0"),
        ((torch.ones(3, 4), torch.ones(3, 4)), {"temperature": float("nan")}, "temperature nan must be above 0"),
        ((torch.ones(3, 4), torch.ones(3, 4)), {"chunk_rows": 0}, "chunk_rows 0 must be at least 1"),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_what_cannot_be_meant_is_refused_in_one_line_with_the_numbers(name, batch, options, message):
    with pytest.raises(ValueError, match=message) as error:
        LOSSES[name](*batch, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("free", "rows"), [(2**20, 256), (256 * 2**20, 4096), (64 * 2**20, 2048), (80 * 2**30, 4096)])
def test_tiles_on_cuda_take_at_most_half_of_the_free_memory(monkeypatch, free, rows):
    """The driver's answer is replaced; a machine with a GPU runs the loss itself in `src/bench.py benchmark=loss`."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free // 2, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: free)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: free - free // 2)

    class OnCuda:
        device = torch.device("cuda", 0)

        def element_size(self):
            return 4

    assert loss_module._chunk_rows(OnCuda(), 2) == rows
    assert 2 * 4 * rows**2 <= free / 2 or rows == 256


@pytest.mark.parametrize("set_before", ["ieee", "tf32"])
@pytest.mark.parametrize("asked", [False, True])
def test_products_are_rounded_where_that_is_asked_for_and_nowhere_else(monkeypatch, set_before, asked):
    cublas, seen = torch.backends.cuda.matmul, []
    tiles = loss_module._tiles

    def spy(*given, **options):
        seen.append(cublas.fp32_precision)
        return tiles(*given, **options)

    monkeypatch.setattr(loss_module, "_tiles", spy)
    q_ND, d_ND = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    cublas.fp32_precision = set_before
    try:
        improved_contrastive_loss(q_ND, d_ND, tf32=asked).backward()
        assert seen == ["tf32" if asked else "ieee"] * 2 and cublas.fp32_precision == set_before
    finally:
        cublas.fp32_precision = "none"
