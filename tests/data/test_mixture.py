"""Mixture: Eq. 4, one source a batch, a pure function of (seed, step), elastic over ranks."""

import subprocess
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT
from scipy.stats import chisquare

from gte.data.mixture import BLOCK, Mixture, permute
from gte.data.sources import load_source

SIZES = [5_000, 1_003, 64, 640]


def test_probabilities_are_equation_4():
    for alpha in (0.0, 0.3, 0.5, 1.0):
        by_hand = np.array([size**alpha for size in SIZES])
        mixture = Mixture(SIZES, alpha=alpha, seed=0, global_batch=64)
        np.testing.assert_allclose(mixture.probabilities, by_hand / by_hand.sum(), rtol=1e-12)


def test_weights_take_the_place_of_equation_4():
    weights = [1, 0.25, 3, 0.75]
    mixture = Mixture(SIZES, alpha=0.5, seed=0, global_batch=64, weights=weights)
    np.testing.assert_allclose(mixture.probabilities, [0.2, 0.05, 0.6, 0.15], rtol=1e-12)
    for bad in ([1, 1, 1], [1, 1, 1, 0], [1, 1, 1, -1], [1, 1, 1, float("nan")], [1, 1, 1, float("inf")]):
        with pytest.raises(ValueError, match=r"weights .* must be a positive number for each of 4 sources"):
            Mixture(SIZES, alpha=0.5, seed=0, global_batch=64, weights=bad)


@pytest.mark.parametrize("options", [{"alpha": 0.5}, {"alpha": 1.0}, {"alpha": 0.5, "weights": [0.6, 0.1, 0.25, 0.05]}])
def test_sources_are_drawn_with_these_probabilities(options):
    mixture = Mixture(SIZES, seed=3, global_batch=64, **options)
    steps = 20_000
    drawn = np.bincount([mixture.draw(step)[0] for step in range(steps)], minlength=len(SIZES))
    assert chisquare(drawn, mixture.probabilities * steps).pvalue > 0.01
    assert chisquare(drawn, np.roll(mixture.probabilities, 1) * steps).pvalue < 1e-6  # the test can tell


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_global_batch_is_the_same_at_any_number_of_ranks(world_size):
    for step in (0, 1, 77, BLOCK + 5):
        source, rows = Mixture(SIZES, alpha=0.5, seed=1, global_batch=64).batch(step)
        parts = [
            Mixture(SIZES, alpha=0.5, seed=1, global_batch=64).batch(step, r, world_size) for r in range(world_size)
        ]
        assert {part[0] for part in parts} == {source}
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), rows)
        assert rows.dtype == np.int64 and len(rows) == 64


def test_the_checksum_tells_batches_apart_and_equal_ones_not():
    numbers = [Mixture(SIZES, alpha=0.5, seed=1, global_batch=64).checksum(step) for step in range(200)]
    assert len(set(numbers)) == 200 and 0 <= min(numbers) < max(numbers) < 2**32
    again = Mixture(SIZES, alpha=0.5, seed=1, global_batch=64)
    assert [again.checksum(step) for step in range(200)] == numbers
    assert Mixture(SIZES, alpha=0.5, seed=2, global_batch=64).checksum(0) != numbers[0]


def test_a_batch_does_not_depend_on_what_was_asked_before():
    asked_in_order = Mixture(SIZES, alpha=0.5, seed=1, global_batch=64)
    in_order = [asked_in_order.batch(step) for step in range(300)]
    for step in (299, 5, 150):
        source, rows = Mixture(SIZES, alpha=0.5, seed=1, global_batch=64).batch(step)
        assert source == in_order[step][0]
        np.testing.assert_array_equal(rows, in_order[step][1])


def test_no_row_comes_twice_within_an_epoch_of_its_source():
    mixture = Mixture(SIZES, alpha=0.5, seed=7, global_batch=64)
    seen = {source: [] for source in range(len(SIZES))}
    for step in range(400):
        source, rows = mixture.batch(step)
        assert rows.min() >= 0 and rows.max() < SIZES[source]
        seen[source].append(rows)
    for source, batches in seen.items():
        windows = SIZES[source] // 64
        assert len(batches) > 2 * windows or source == 0  # the small sources really go through several epochs
        for start in range(0, len(batches) - windows + 1, windows):
            rows = np.concatenate(batches[start : start + windows])
            assert len(np.unique(rows)) == len(rows) == windows * 64
    first, second = (np.concatenate(seen[1][start : start + 15]) for start in (0, 15))
    assert not np.array_equal(first, second)  # another order, and other left-over rows, in the next epoch


def test_epochs_count_what_was_drawn():
    mixture = Mixture(SIZES, alpha=0.5, seed=7, global_batch=64)
    drawn = np.bincount([mixture.draw(step)[0] for step in range(250)], minlength=len(SIZES))
    np.testing.assert_allclose(mixture.epochs(250), drawn * 64 / np.array(SIZES))


def test_the_batches_of_a_seed_are_those_of_every_version():
    """A run of another day goes on with them; PyTorch, NumPy and this code may change, these numbers may not."""
    mixture = Mixture([1_000, 5_000, 37], alpha=0.5, seed=7, global_batch=32)
    steps = (0, 1, BLOCK, 3 * BLOCK + 5)
    assert [mixture.checksum(step) for step in steps] == [1255697918, 1986789459, 3524586688, 1413138499]
    assert mixture.batch(3)[0] == 1 and mixture.batch(3)[1][:4].tolist() == [371, 2298, 3787, 2611]
    assert permute(np.arange(10), 10, 3).tolist() == [0, 2, 1, 6, 4, 3, 9, 8, 5, 7]


def test_a_sources_steps_are_counted_on_over_the_blocks_in_which_sources_are_drawn(monkeypatch):
    monkeypatch.setattr("gte.data.mixture.BLOCK", 8)
    mixture, drawn = Mixture(SIZES, alpha=0.5, seed=3, global_batch=64), [0] * len(SIZES)
    for step in range(50):
        source, earlier = mixture.draw(step)
        assert earlier == drawn[source], step
        drawn[source] += 1
    assert min(drawn) > 0


def test_another_seed_gives_other_sources_and_rows():
    one, two = (Mixture([4096], alpha=0.5, seed=seed, global_batch=64) for seed in (0, 1))
    assert not np.array_equal(one.batch(0)[1], two.batch(0)[1])
    one, two = (Mixture(SIZES, alpha=0.0, seed=seed, global_batch=64) for seed in (0, 1))
    assert [one.draw(s)[0] for s in range(50)] != [two.draw(s)[0] for s in range(50)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1_000, 4_097])
def test_permute_is_a_permutation(size):
    for key in (0, 1, 2**64 - 1):
        assert sorted(permute(np.arange(size), size, key)) == list(range(size))


def test_permuted_rows_look_independent_of_their_position():
    rows = permute(np.arange(100_003), 100_003, 5)
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.02
    assert abs(np.corrcoef(rows[1:], rows[:-1])[0, 1]) < 0.02


def megabytes(program: str) -> float:
    """By how much the resident peak of a process of its own grows while it runs a program over gte.data.mixture."""
    frame = (
        "import re\n"
        "from gte.data.mixture import Mixture\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) / 1024\n"
        f"before = peak()\n{program}\nprint(peak() - before)\n"
    )
    command, environment = [sys.executable, "-c", frame], {"PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(result.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status, which only Linux has")
def test_788_million_rows_cost_nothing_to_mix():
    """The paper's scale, by the sizes of its 33 sources: a Mixture and a step's batch in under 50 MB."""
    names = yaml.safe_load((ROOT / "conf" / "data" / "pretrain.yaml").read_text())["sources"]
    sizes = [load_source(name).pairs for name in names]
    assert 780e6 < sum(sizes) < 800e6 and len(sizes) == 33
    mixed = f"Mixture({sizes}, alpha=0.5, seed=0, global_batch=16_384).batch(49_999)"
    assert megabytes(mixed) < 50
    assert megabytes(f"list(range({sum(sizes) // 100}))") > 200  # what a hundredth of the rows in a list takes


def test_a_source_smaller_than_the_batch_is_refused_with_the_ways_out():
    with pytest.raises(ValueError, match=r"source 1 has 63 rows.*64.*lower global_batch"):
        Mixture([100, 63], alpha=0.5, seed=0, global_batch=64)


def test_a_batch_that_does_not_divide_over_the_ranks_is_refused_with_numbers():
    with pytest.raises(ValueError, match=r"64 does not divide over 3 ranks; try 66 or 63"):
        Mixture([100], alpha=0.5, seed=0, global_batch=64).batch(0, 0, 3)
