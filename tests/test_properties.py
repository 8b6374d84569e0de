"""What holds of the loss, the mixture and the batches whatever their sizes, which hypothesis draws."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_oracle import LOSSES, loops, make, value_and_grads
from tables import ListTable, flatten, texts_of

from gte.data.collate import collate, frame
from gte.data.mixture import Mixture, permute

BOUNDED = settings(max_examples=25, deadline=None, derandomize=True, database=None)
MODERATE = 0.2  # a temperature at which float64 agrees to 1e-9


@st.composite
def batches(draw, least: int = 1, most: int = 7) -> list[torch.Tensor]:
    """Queries, documents, and mostly negatives; some vectors are zero, some equal."""
    n, k = draw(st.integers(least, most)), draw(st.integers(0, 3))
    batch = make(n, draw(st.integers(2, 6)), k, seed=draw(st.integers(0, 2**16)), common=draw(st.sampled_from([0, 3])))
    with torch.no_grad():
        for x in draw(st.lists(st.sampled_from(batch), max_size=2)):
            x.view(-1, x.shape[-1])[draw(st.integers(0, x[..., 0].numel() - 1))] = draw(st.sampled_from([0.0, 1.0]))
    return batch


def agree(mine, theirs) -> None:
    """Of two (value, gradients)."""
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-9, atol=1e-9)
    for grad, grad_ in zip(mine[1], theirs[1], strict=True):
        torch.testing.assert_close(grad, grad_, rtol=1e-7, atol=1e-8)


def lose(name: str, batch, **options):
    return value_and_grads(lambda *b: LOSSES[name](*b, temperature=MODERATE, **options), batch)


def copies(batch) -> list[torch.Tensor]:
    return [x.detach().clone().requires_grad_() for x in batch]


@pytest.mark.parametrize("name", LOSSES)
@given(batch=batches(most=5), rows=st.integers(1, 9), data=st.data())
@settings(BOUNDED, max_examples=20)
def test_loss_equals_the_loops_whatever_the_tiles_and_the_texts_that_repeat(name, batch, rows, data):
    n, k = len(batch[0]), batch[2].shape[1] if len(batch) > 2 else 0
    mine = lose(name, batch, chunk_rows=rows)

    def summed(*b, texts=None):
        return loops(name, *b, temperature=MODERATE, texts=texts) + 0 * sum(x.sum() for x in b)  # some may be left out

    agree(mine, value_and_grads(summed, batch))
    texts = data.draw(st.lists(st.integers(0, 5), min_size=n * (2 + k), max_size=n * (2 + k)))
    named = texts[:n], texts[n : 2 * n], [texts[2 * n + k * i : 2 * n + k * (i + 1)] for i in range(n)]
    masked = lose(name, batch, chunk_rows=rows, text_hashes=torch.tensor(texts))
    agree(masked, value_and_grads(lambda *b: summed(*b, texts=named), batch))
    assert masked[0] <= mine[0] + 1e-9


@pytest.mark.parametrize("name", LOSSES)
@given(batch=batches(), order=st.randoms(use_true_random=False))
@BOUNDED
def test_pairs_in_another_order_give_the_same_loss_and_gradients_in_that_order(name, batch, order):
    moved = order.sample(range(len(batch[0])), len(batch[0]))
    value, grads = lose(name, batch)
    agree(lose(name, [x.detach()[moved].requires_grad_() for x in batch]), (value, [grad[moved] for grad in grads]))


@pytest.mark.parametrize("name", LOSSES)
@given(batch=batches(), exponents=st.lists(st.integers(-200, 200), min_size=40, max_size=40), seed=st.integers(0, 99))
@BOUNDED
def test_neither_lengths_nor_a_common_rotation_change_the_loss(name, batch, exponents, seed):
    """Eq. 7 divides by the norms; a gradient shrinks as its vector grows, and turns with it."""
    value, grads = lose(name, batch)
    scales = [2.0 ** torch.tensor(exponents[: x[..., 0].numel()]).double().view(*x.shape[:-1], 1) for x in batch]
    scaled = lose(name, [(x.detach() * s).requires_grad_() for x, s in zip(batch, scales, strict=True)])
    agree((scaled[0], [grad * s for grad, s in zip(scaled[1], scales, strict=True)]), (value, grads))
    width = batch[0].shape[1]
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())[0]
    agree(lose(name, [(x.detach() @ turn).requires_grad_() for x in batch]), (value, [grad @ turn for grad in grads]))


@pytest.mark.parametrize("name", LOSSES)
@given(batch=batches())
@settings(BOUNDED, max_examples=20)
def test_gradient_is_the_slope(name, batch):
    """Central differences along the gradient's own direction, where no vector is zero: there it has no slope."""
    with torch.no_grad():
        for x in batch:
            x[~x.any(-1)] = 0.5
    _, grads = lose(name, batch)
    norm = torch.sqrt(sum((grad**2).sum() for grad in grads)) + 1e-12
    step = 1e-5
    ends = [LOSSES[name](*(x + s * g / norm for x, g in zip(batch, grads, strict=True)), temperature=MODERATE)
            for s in (step, -step)]  # fmt: skip
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), norm, rtol=1e-4, atol=1e-6)


class Threads:
    """Ranks that are threads of this process: all_gather waits for all of them."""

    def __init__(self, rank: int, meeting: threading.Barrier, table: list):
        self.rank, self.world_size, self.meeting, self.table = rank, meeting.parties, meeting, table

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        self.table[self.rank] = x.detach()
        self.meeting.wait(30)
        gathered = torch.cat(self.table)
        self.meeting.wait(30)
        return gathered


@pytest.mark.parametrize("name", LOSSES)
@given(
    world=st.integers(1, 4), batch=batches(12, 12), rows=st.integers(1, 9),
    texts=st.lists(st.integers(0, 30), min_size=60, max_size=60),
)  # fmt: skip
@settings(BOUNDED, max_examples=12)
def test_any_split_over_ranks_gives_the_loss_and_the_averaged_gradient_of_one(name, world, batch, rows, texts):
    k, n = batch[2].shape[1] if len(batch) > 2 else 0, 12 // world
    texts = torch.tensor(texts[: 12 * (2 + k)])
    whole = lose(name, batch, text_hashes=texts)
    meeting, table, found = threading.Barrier(world), [None] * world, [None] * world
    kinds = texts[:12], texts[12:24], texts[24:].view(12, k)

    def work(rank: int) -> None:
        own = slice(rank * n, (rank + 1) * n)
        hashes = torch.cat([kind[own].flatten() for kind in kinds])
        part = copies([x[own] for x in batch])
        found[rank] = lose(name, part, chunk_rows=rows, text_hashes=hashes, ranks=Threads(rank, meeting, table))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(value, found[0][0]) for value, _ in found)
    averaged = [torch.cat(parts) / world for parts in zip(*(grads for _, grads in found), strict=True)]
    agree((found[0][0], averaged), whole)


SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**70)


@given(sizes=SIZES, seed=SEEDS, data=st.data(), alpha=st.floats(0, 1), step=st.integers(0, 300))
@BOUNDED
def test_a_batch_is_a_function_of_seed_and_step_and_of_no_number_of_ranks(sizes, seed, data, alpha, step):
    world = data.draw(st.integers(1, 8))
    batch = world * data.draw(st.integers(1, 6))
    sizes = [size + batch for size in sizes]
    settings_ = {"alpha": alpha, "seed": seed, "global_batch": batch}
    source, rows = Mixture(sizes, **settings_).batch(step)
    used = Mixture(sizes, **settings_)
    for other in data.draw(st.lists(st.integers(0, 300), max_size=4)):
        used.batch(other)
    parts = [used.batch(step, rank, world) for rank in range(world)]
    assert {part[0] for part in parts} == {source} and all(len(part[1]) == batch // world for part in parts)
    assert np.concatenate([part[1] for part in parts]).tolist() == rows.tolist()
    assert len(set(rows.tolist())) == batch and rows.min() >= 0 and rows.max() < sizes[source]
    assert used.checksum(step) == Mixture(sizes, **settings_).checksum(step)


def test_great_and_negative_seeds_differ_as_small_ones_do():
    seeds = [0, 1, -1, -2, -3, 2**63, 2**63 + 1, 2**63 + 2]
    drawn = {tuple(Mixture([64] * 9, alpha=0.5, seed=seed, global_batch=64).draw(step)[0] for step in range(40))
             for seed in seeds}  # fmt: skip
    assert len(drawn) == len(seeds)


@given(sizes=SIZES, seed=SEEDS, batch=st.integers(1, 40))
@BOUNDED
def test_an_epoch_of_a_source_has_every_row_once_but_for_those_that_fill_no_batch(sizes, seed, batch):
    sizes = [size + batch for size in sizes]
    mixture = Mixture(sizes, alpha=0.5, seed=seed, global_batch=batch)
    drawn: dict[int, list[np.ndarray]] = {source: [] for source in range(len(sizes))}
    for step in range(3 * sum(size // batch for size in sizes)):
        source, rows = mixture.batch(step)
        drawn[source].append(rows)
    whole = 0
    for source, windows in drawn.items():
        epoch = sizes[source] // batch
        for start in range(0, len(windows) - epoch + 1, epoch):
            rows = np.concatenate(windows[start : start + epoch])
            assert len(np.unique(rows)) == len(rows) == epoch * batch
            whole += 1
    assert whole


@given(size=st.integers(1, 5_000), key=st.integers(0, 2**64 - 1))
@BOUNDED
def test_permuted_positions_are_all_positions(size, key):
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


IDS = st.lists(st.integers(0, 65_000), max_size=12)
ROW = st.tuples(IDS, IDS, st.lists(IDS, max_size=4))


@given(
    texts=st.lists(IDS, max_size=8), prefix=st.lists(st.integers(0, 9), max_size=2), data=st.data(),
    suffix=st.lists(st.integers(0, 9), max_size=2),
)  # fmt: skip
@BOUNDED
def test_framed_texts_are_their_beginnings_between_the_special_tokens(texts, prefix, suffix, data):
    longest = data.draw(st.integers(len(prefix) + len(suffix), 16))
    flat, lengths = frame(*flatten(texts), longest, prefix, suffix)
    expected = [prefix + text[: longest - len(prefix) - len(suffix)] + suffix for text in texts]
    assert flat.tolist() == sum(expected, []) and lengths.tolist() == [len(text) for text in expected]


@given(rows=st.lists(ROW, min_size=3, max_size=12), seed=st.integers(0, 99), group=st.integers(1, 5), data=st.data())
@BOUNDED
def test_a_batch_holds_the_texts_of_its_rows_and_of_each_rows_own_negatives_first(rows, seed, group, data):
    queries, documents, negatives = map(list, zip(*rows, strict=True))
    documents = [[number, *text] for number, text in enumerate(documents)]  # all differ
    queries = [[60_000, *text] for text in queries]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6, unique=True))
    table = ListTable(queries, documents, negatives)
    options = {"source": 0, "step": seed, "seed": seed, "max_length": 99, "prefix": [], "suffix": []}
    batch = collate(table, np.array(chosen), group_size=group, **options)
    texts, n = texts_of(batch), len(chosen)
    assert texts[:n] == [queries[row] for row in chosen] and texts[n : 2 * n] == [documents[row] for row in chosen]
    for place, row in enumerate(chosen):
        group_texts = texts[2 * n + place * (group - 1) : 2 * n + (place + 1) * (group - 1)]
        own = min(len(negatives[row]), group - 1)
        assert len(group_texts) == group - 1
        assert all(group_texts.count(text) <= negatives[row].count(text) for text in group_texts[:own])
        assert all(text in documents and text != documents[row] for text in group_texts[own:])
    alone = texts_of(collate(table, np.array(chosen[-1:]), group_size=group, **options))
    assert alone[2:] == texts[len(texts) - (group - 1) :]
