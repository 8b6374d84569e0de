"""PairData: the stage's sources by weight, their epochs, and batches that carry what they are asked to."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from trainings import stage

from gte.data.module import PairData
from gte.data.records import text_hash
from gte.errors import UserError


def test_weights_by_name_are_the_probabilities_whatever_their_order_and_sum(prepared):
    weights = {"triples": 1, "colours": 5, "times": 2, "shapes": 2.0}
    data = PairData(prepared, stage(), alpha=0.5, seed=0, weights=weights)
    assert {name: facts["probability"] for name, facts in data.source_facts().items()} == {
        name: pytest.approx(weight / 10) for name, weight in weights.items()
    }
    some = PairData(prepared, stage(), alpha=0.5, seed=0, weights=weights, sources=["times", "colours"])
    np.testing.assert_allclose(some.mixture.probabilities, [2 / 7, 5 / 7])
    by_alpha = PairData(prepared, stage(), alpha=1.0, seed=0)
    np.testing.assert_allclose(by_alpha.mixture.probabilities, np.array([400, 150, 90, 64]) / 704)


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ({"colours": 1, "shapes": 1, "times": 1}, r"data.weights has no triples: it gives every source .* sources="),
        ({"colours": 1, "shapes": 0, "times": 1, "triples": 1}, r"data.weights.shapes=0 must be a number above 0"),
        ({"colours": 1, "shapes": "2", "times": 1, "triples": 1}, r"data.weights.shapes=2 must be a number above 0"),
        ({"colours": True, "shapes": 1, "times": 1, "triples": 1}, r"data.weights.colours=True must be a number"),
        ({"coulours": 1}, r"data.weights names 'coulours'; the sources in .* are colours, shapes, times, triples"),
        ({}, r"data.weights has no colours, shapes, times, triples: "),
    ],
)
def test_weights_that_cannot_be_meant_are_refused_in_one_line(prepared, weights, line):
    with pytest.raises(UserError, match=line) as error:
        PairData(prepared, stage(), alpha=0.5, seed=0, weights=weights)
    assert "\n" not in str(error.value)


def test_epochs_are_the_rows_drawn_over_the_rows_there(prepared):
    data = PairData(prepared, stage(), alpha=0.5, seed=0)
    drawn = np.bincount([data.mixture.batch(step)[0] for step in range(40)], minlength=4)
    assert data.epochs(40) == {
        name: pytest.approx(count * 32 / size)
        for name, count, size in zip(("colours", "shapes", "times", "triples"), drawn, (400, 150, 90, 64), strict=True)
    }
    assert set(data.epochs(0).values()) == {0.0}


def test_a_prepared_groups_hashes_are_those_of_its_texts(prepared):
    data = PairData(prepared, stage("finetune", group_size=4), alpha=0.5, seed=0, sources=["triples"])
    rows = pq.read_table(prepared / "pairs" / "triples.parquet").to_pylist()
    plain = data.steps()[3]
    hashed = PairData(prepared, data.stage, alpha=0.5, seed=0, sources=["triples"], text_hashes=True).steps()[3]
    assert plain.hashes_R is None and plain.checksum == data.mixture.checksum(3)
    hashes = hashed.hashes_R.numpy().view(np.uint64).tolist()
    chosen = [rows[row] for row in data.mixture.batch(3)[1]]
    assert hashes[:32] == [text_hash(row["query"]) for row in chosen]
    assert hashes[32:64] == [text_hash(row["document"]) for row in chosen]
    documents, own = {text_hash(row["document"]) for row in rows}, 0
    for i, row in enumerate(chosen):
        group, hard = hashes[64 + 3 * i : 67 + 3 * i], {text_hash(text) for text in row["negatives"] or []}
        own += len(hard & set(group))
        assert len(hard & set(group)) == min(len(hard), 3) and set(group) <= hard | documents
        assert text_hash(row["document"]) not in group
    assert 32 < own < 96  # hard negatives and random documents are really both there
