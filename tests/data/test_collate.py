"""Collate: ids end to end, cut and framed as the tokenizer would; negatives of the own row first, then random ones."""

import numpy as np
import pytest
import torch
from tables import ListTable, flatten, hash_texts, texts_of
from transformers import AutoTokenizer

from gte.data.collate import collate, frame
from gte.errors import UserError

PREFIX, SUFFIX = [101], [102]


def make_table(rows=40):
    """Row r has query [1000 + r] * ..., document [2000 + r] * ..., and r % 6 negatives that start with 3000 + r."""
    return ListTable(
        [[1000 + r] * (r % 7) for r in range(rows)],
        [[2000 + r] * (1 + r % 9) for r in range(rows)],
        [[[3000 + r, number] for number in range(r % 6)] for r in range(rows)],
    )


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


def test_every_text_carries_its_own_hash_where_asked_for():
    table, rows = make_table(), np.arange(40)
    options = dict(source=0, step=9, seed=1, max_length=64, group_size=5, prefix=PREFIX, suffix=SUFFIX)
    plain, hashed = collate(table, rows, **options), collate(table, rows, text_hashes=True, **options)
    assert plain.hashes_R is None and hashed.hashes_R.dtype == torch.int64
    assert texts_of(hashed) == texts_of(plain) and len(hashed.hashes_R) == len(texts_of(plain)) == 40 * 6
    expected = hash_texts(text[1:-1] for text in texts_of(hashed))
    assert hashed.hashes_R.numpy().view(np.uint64).tolist() == expected.tolist()
    assert (hashed.hashes_R < 0).any()  # all 64 bits are there
    pairs = collate(table, rows, text_hashes=True, **options | {"group_size": 1})
    assert pairs.hashes_R.tolist() == hashed.hashes_R[:80].tolist()


def test_no_random_negative_equals_its_rows_document_or_query():
    """Row r's document is one of two, and its query spells one of three: most draws must be made again."""
    rows = np.arange(30)
    table = ListTable([[r % 3] for r in rows], [[r % 2] for r in rows[:-2]] + [[7], [8]], [[] for _ in rows])
    counted = 0
    for step in range(20):
        batch = collate(table, rows, source=0, step=step, seed=1, max_length=9, group_size=4, prefix=[], suffix=[])
        texts = texts_of(batch)
        for row in rows:
            group = texts[60 + 3 * row : 63 + 3 * row]
            counted += sum(text[0] < 2 for text in group)
            assert table.columns["document"][row] not in group and table.columns["query"][row] not in group
    assert counted > 100


@pytest.mark.parametrize("documents", [[[7]], [[7], [7], [7]], [[7], [5], [7]]])
def test_a_source_without_another_document_is_refused_with_the_ways_out(documents):
    table = ListTable([[5]] * len(documents), documents, [[]] * len(documents))
    options = dict(source=0, step=0, seed=1, max_length=9, prefix=[], suffix=[])
    collate(table, np.array([0]), group_size=1, **options)
    with pytest.raises(UserError, match=r"lists: 1,000 documents.*sources=.*stage.group_size=1"):
        collate(table, np.array([0]), group_size=2, **options)
