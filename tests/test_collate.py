"""Collate: ids end to end, cut and framed as the tokenizer would; negatives of the own row first, then random ones."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from gte.data.collate import collate, frame

PREFIX, SUFFIX = [101], [102]


class ListTable:
    """A TokenTable over Python lists."""

    def __init__(self, queries, documents, negatives):
        self.columns = {"query": queries, "document": documents}
        self.negatives = negatives

    def __len__(self):
        return len(self.columns["query"])

    def gather(self, column, rows):
        return flatten([self.columns[column][row] for row in rows])

    def gather_negatives(self, rows):
        chosen = [self.negatives[row] for row in rows]
        flat, lengths = flatten([text for texts in chosen for text in texts])
        return flat, lengths, np.array([len(texts) for texts in chosen], dtype=np.int64)


def flatten(texts):
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return np.array([token for text in texts for token in text], dtype=np.uint16), lengths


def make_table(rows=40):
    """Row r has query [1000 + r] * ..., document [2000 + r] * ..., and r % 6 negatives that start with 3000 + r."""
    return ListTable(
        [[1000 + r] * (r % 7) for r in range(rows)],
        [[2000 + r] * (1 + r % 9) for r in range(rows)],
        [[[3000 + r, number] for number in range(r % 6)] for r in range(rows)],
    )


def texts_of(batch):
    ends = batch.lengths_R.cumsum(0).tolist()
    return [
        batch.ids_T[end - length : end].tolist() for end, length in zip(ends, batch.lengths_R.tolist(), strict=True)
    ]


def test_queries_then_documents_each_between_special_tokens_and_cut():
    table, rows = make_table(), np.array([8, 3, 39])
    batch = collate(table, rows, source=2, step=5, seed=0, max_length=6, group_size=1, prefix=PREFIX, suffix=SUFFIX)
    expected = [PREFIX + table.columns[c][r][:4] + SUFFIX for c in ("query", "document") for r in rows]
    assert texts_of(batch) == expected
    assert any(len(text) == 6 for text in expected) and any(len(text) < 6 for text in expected)
    assert (batch.pairs, batch.negatives, batch.source, batch.step) == (3, 0, 2, 5)


def test_a_group_holds_the_rows_own_negatives_and_random_documents_of_other_rows():
    table, rows = make_table(), np.arange(40)
    batch = collate(table, rows, source=0, step=9, seed=1, max_length=64, group_size=5, prefix=PREFIX, suffix=SUFFIX)
    groups = [texts_of(batch)[80 + 4 * r : 84 + 4 * r] for r in rows]
    for row, group in zip(rows, groups, strict=True):
        own = [tuple(text[1:-1]) for text in group if text[1] == 3000 + row]
        others = [text[1:-1] for text in group if text[1] != 3000 + row]
        assert len(own) == len(set(own)) == min(row % 6, 4)
        assert len(own) + len(others) == 4
        assert all(text in table.columns["document"] and text != table.columns["document"][row] for text in others)
    chosen_of_five = {tuple(sorted(text[2] for text in groups[row])) for row in rows if row % 6 == 5}
    assert len(chosen_of_five) > 1  # not always the same four of five


def test_negatives_are_a_function_of_seed_step_and_row_alone():
    table = make_table()
    options = dict(source=0, seed=1, max_length=64, group_size=5, prefix=PREFIX, suffix=SUFFIX)
    whole = texts_of(collate(table, np.arange(40), step=9, **options))[80:]
    part = texts_of(collate(table, np.arange(20, 40), step=9, **options))[40:]
    assert part == whole[80:] and any(text[1] < 3000 for text in part)
    other_step = texts_of(collate(table, np.arange(40), step=10, **options))[80:]
    assert other_step != whole


@pytest.mark.parametrize("max_length", [3, 8, 128])
def test_framed_ids_equal_the_tokenizers_own_truncation(max_length, small_model):
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    texts = ["", "one", "many words in a row, and then some more of them " * 5]
    flat, lengths = flatten([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    framed, framed_lengths = frame(flat, lengths, max_length, [tokenizer.cls_token_id], [tokenizer.sep_token_id])
    expected = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    assert framed.tolist() == sum(expected, [])
    assert framed_lengths.tolist() == [len(ids) for ids in expected]
