"""AnchorDR's anchors of ClueWeb22, joined with the pages that they link to."""

import json
import random
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import pairs_of, reasons_of, records_of, shared_dir

from gte.data.records import Pair, text_hash
from gte.data.sources import Source, load_source

ANCHORS = load_source("clueweb_anchors")


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def page(name: str, title="Title", text="Text", **more) -> dict:
    return {"Url": f"http://{name}.org/", "UrlHash": name, "Language": "en", "Primary": text, "Title": title, **more}


def links(name: str, *anchors, language="en", url=None) -> dict:
    return {"url": url or f"http://{name}.org/x", "urlhash": name, "language": language, "anchors": list(anchors)}


def link(text: str, url="http://from.org/", frame="", language="en") -> list[str]:
    return [url, "F" * 32, text, frame, language]


def test_an_anchor_is_paired_with_title_and_text_of_its_page(tmp_path):
    pages = write_rows(tmp_path / "web_corpus.tsv", [
        page("B", "Title B", "Title B\nText B"), page("C", None, "Text C"), page("A", "Title A", "Text A"),
    ])  # fmt: skip
    anchors = write_rows(tmp_path / "anchor.tsv", [
        links("A", link("to a"), link(" to a too ", frame="0")), links("B", link("to b")), links("C", link("to c")),
    ])  # fmt: skip
    expected = [
        Pair("to a", "Title A\nText A", 1), Pair("to a too", "Title A\nText A", 1), Pair("to b", "Title B\nText B", 2),
        Pair("to c", "Text C", 3),
    ]  # fmt: skip
    for files in ((pages, anchors), (anchors, pages)):
        found = records_of(ANCHORS, *files)
        assert sorted(pairs_of(found)) == expected and len(found) == 4


LEFT_OUT = [
    (links("A", link("")), "filtered: empty anchor"),
    (links("A", link("to a", frame="1")), "filtered: anchor in a header or footer"),
    (links("A", link("zu a", language="de")), "filtered: anchor in another language"),
    (links("A", link("to a"), language="de"), "filtered: anchor in another language"),
    (links("A", link("to a", url="https://www.A.org/y")), "filtered: anchor from the same site"),
    (links("A", link("Read more »")), "filtered: functional anchor"),
    (links("Z", link("to z")), "page not in the files"),
    (links("A", ["http://x", "text"]), "wrong type of anchor"),
    (links("A", [1, 2, 3, 4, 5]), "wrong type of anchor"),
    (links("A", link("half \ud800")), "invalid UTF-8"),
    (links("A", link("to a", url="http://[x")), "malformed url"),
    ({**links("A"), "anchors": "to a"}, "wrong type of anchors"),
    ({**links("A"), "urlhash": None}, "missing urlhash"),
    (page("A", "Again"), "duplicate id"),
    (page("D", text=""), "empty Primary"),
    (page("D", "\ud800"), "invalid UTF-8"),
    (page("D", ["T"]), "wrong type of Title"),
    ({"Url": "http://x"}, "missing UrlHash"),
    ("{", "invalid JSON"),
    ("3", "unknown shape of row"),
]


@pytest.mark.parametrize(("row", "reason"), LEFT_OUT)
def test_what_is_left_out_is_counted_with_its_row(tmp_path, row, reason):
    rows = [page("A"), links("A", link("good")), row]
    found = records_of(ANCHORS, write_rows(tmp_path / "all.tsv", rows))
    assert pairs_of(found) == [Pair("good", "Title\nText", 2)]
    assert reasons_of(found) == {reason: [("all.tsv", 3)]}


def test_a_page_keeps_the_same_few_of_its_texts_in_any_order(tmp_path):
    """Oracle: all texts of a page by their hash."""
    rng = random.Random(0)
    rows = [
        links(name, *(link(f"anchor {rng.randrange(12)}") for _ in range(4))) for name in "ABCDEF" for _ in range(5)
    ]
    texts = defaultdict(list)
    for row in rows:
        texts[row["urlhash"]] += [one[2] for one in row["anchors"]]
    kept = {name: sorted(set(all_of), key=text_hash)[:3] for name, all_of in texts.items()}
    expected = sorted(
        (text, f"T{name}\nText") for name, all_of in texts.items() for text in all_of if text in kept[name]
    )
    source = Source(**{**vars(ANCHORS), "options": {"max_anchors": 3}})
    pages = [page(name, f"T{name}") for name in "ABCDEF"]
    for _ in range(3):
        rng.shuffle(rows)
        found = records_of(source, write_rows(tmp_path / "a.tsv", rows), write_rows(tmp_path / "w.tsv", pages))
        assert sorted((pair.query, pair.document) for pair in pairs_of(found)) == expected
        over = reasons_of(found)["filtered: more than 3 anchors of a page"]
        assert len(over) + len(expected) == len(found) == 120 and len(over) > 20


def test_real_rows_are_understood(tmp_path):
    folder = shared_dir("data/raw_samples/clueweb_anchors")
    corpus = json.loads((folder / "web_corpus.tsv").read_text())
    linked = {**json.loads((folder / "anchor.tsv").read_text()), "urlhash": corpus["UrlHash"], "url": corpus["Url"]}
    (tmp_path / "anchor.tsv").write_text(json.dumps(linked))
    found = records_of(ANCHORS, folder / "web_corpus.tsv", tmp_path / "anchor.tsv")
    assert {(pair.query, pair.document) for pair in pairs_of(found)} == {
        (text, corpus["Primary"].strip()) for text in ("Estonia-20", "May 14, 2017")
    }
    assert set(reasons_of(found)) == {"filtered: empty anchor"}
    alone = records_of(ANCHORS, folder / "web_corpus.tsv", folder / "anchor.tsv")
    assert {reason: len(rows) for reason, rows in reasons_of(alone).items()} == {
        "filtered: empty anchor": 1, "filtered: anchor from the same site": 2,
    }  # fmt: skip
