"""Web pages as JSON lines: CCNet's of Common Crawl, ClueWeb22's."""

import gzip
import json
from pathlib import Path

from conftest import pairs_of, reasons_of, records_of, shared_dir

from gte.data.records import Pair
from gte.data.sources import load_source

CCNET, CLUEWEB22 = load_source("commoncrawl_ccnet2019"), load_source("clueweb")


def write_pages(path: Path, rows: list) -> Path:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\r\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode(errors="surrogateescape")))
    return path


def rows_of(found: list[tuple]) -> dict[str, list[int]]:
    return {reason: [row for _, row in where] for reason, where in reasons_of(found).items()}


def test_a_ccnet_page_loses_the_title_that_its_text_begins_with_and_nothing_else(tmp_path):
    def page(title, text, language="en") -> dict:
        return {"url": "http://x", "title": title, "raw_content": text, "language": language, "bucket": "head"}

    rows = [
        page("Title", " Title \nOne\nTwo\n"), page("Title", "One\nTitle\nTwo"), page("Title", "Title of all\nOne"),
        page("Title", "Title\nTitle\nOne"), page("Titel", "Eins", "de"), page("", "One"), page("Title", "Title\n"),
        page("Title", None), page(3, "One"), {"url": "x", "language": "en", "raw_content": "One"}, "[]", "{",
        '{"title": "\udcff", "raw_content": "One", "language": "en"}',
    ]  # fmt: skip
    found = records_of(CCNET, write_pages(tmp_path / "a.json.gz", rows))
    assert pairs_of(found) == [
        Pair("Title", "One\nTwo", 1), Pair("Title", "One\nTitle\nTwo", 2), Pair("Title", "Title of all\nOne", 3),
        Pair("Title", "Title\nOne", 4),
    ]  # fmt: skip
    assert rows_of(found) == {
        "filtered: language is not 'en'": [5], "unknown shape of row": [11], "filtered: page without a title": [6],
        "filtered: page without a text": [7], "missing document": [8], "wrong type of query": [9],
        "missing query": [10], "invalid JSON": [12], "invalid UTF-8": [13],
    }  # fmt: skip
    assert len(found) == len(rows)


def test_the_first_line_of_a_clueweb22_page_is_its_title(tmp_path):
    def page(text, language="en") -> dict:
        return {"URL": "http://x\n", "URL-hash": "AB", "Language": language, "ClueWeb22-ID": "c", "Clean-Text": text}

    rows = [page("Title\nOne\nTwo"), page("\n Title \n\nOne\n"), page("Titel\nEins", "de"), page("Title"), page(""),
            page(None), page(["Title"])]  # fmt: skip
    found = records_of(CLUEWEB22, write_pages(tmp_path / "en0000-00.json.gz", rows))
    assert pairs_of(found) == [Pair("Title", "One\nTwo", 1), Pair("Title", "One", 2)]
    assert rows_of(found) == {
        "filtered: Language is not 'en'": [3], "filtered: page without a text": [4], "empty Clean-Text": [5],
        "missing Clean-Text": [6], "wrong type of Clean-Text": [7],
    }  # fmt: skip


def test_a_cut_archive_gives_the_pages_before_the_cut(tmp_path):
    rows = [{"title": f"T{n}", "raw_content": f"{n:x}" * 50, "language": "en"} for n in range(5_000)]
    whole = write_pages(tmp_path / "a.json.gz", rows).read_bytes()
    (tmp_path / "a.json.gz").write_bytes(whole[: len(whole) // 2])
    found = records_of(CCNET, tmp_path / "a.json.gz")
    assert [pair.query for pair in pairs_of(found)] == [f"T{n}" for n in range(len(found) - 1)] and len(found) > 1_000
    assert rows_of(found) == {"damaged archive": [len(found) - 1]}


def test_real_clueweb22_pages_of_one_line_have_no_text():
    path = shared_dir("data/raw_samples/clueweb") / "anserini_en0000-30.json.gz"
    assert rows_of(records_of(CLUEWEB22, path)) == {"filtered: page without a text": [1, 2]}
