"""Metadata of preprints: bioRxiv's and medRxiv's API pages, arXiv's snapshot."""

import json
import random
from pathlib import Path

import pytest
from conftest import pairs_of, reasons_of, records_of, shared_dir

from gte.data.formats.preprints import folded
from gte.data.reasons import Reason, Unfit
from gte.data.records import Pair
from gte.data.sources import load_source

BIORXIV, ARXIV = load_source("biorxiv"), load_source("arxiv")


def preprint(doi: str, version, title="Title", abstract="Abstract", **more) -> dict:
    return {"doi": doi, "version": version, "title": title, "abstract": abstract, "server": "bioRxiv", **more}


def write_page(path: Path, collection, **more) -> Path:
    messages = [{"status": "ok", "cursor": 0, "count": 100, "total": "57"}]
    path.write_text(json.dumps({"messages": messages, "collection": collection, **more}, indent=1))
    return path


def test_the_last_version_of_a_preprint_is_kept_whatever_page_it_is_on(tmp_path):
    """Oracle: a dictionary of the greatest version."""
    rng = random.Random(0)
    rows = [preprint(f"10.1101/{n}", str(v), f"T{n}", f"A{n} v{v}") for n in range(200) for v in range(1, n % 12 + 2)]
    last = {row["doi"]: row for row in sorted(rows, key=lambda row: int(row["version"]))}
    rng.shuffle(rows)
    pages = [write_page(tmp_path / f"{n:03}.json", rows[100 * n : 100 * n + 100]) for n in range(-(-len(rows) // 100))]
    found = records_of(BIORXIV, *pages)
    assert sorted((pair.query, pair.document) for pair in pairs_of(found)) == sorted(
        (row["title"], row["abstract"]) for row in last.values()
    )
    where = {(f"{n // 100:03}.json", n % 100 + 1): row for n, row in enumerate(rows)}
    older = reasons_of(found)["filtered: superseded version"]
    assert all(int(where[place]["version"]) < int(last[where[place]["doi"]]["version"]) for place in older)
    assert len(older) + 200 == len(found) == len(rows) and any(row["version"] == "12" for row in rows)


def test_a_faulty_preprint_is_counted_and_costs_no_other(tmp_path):
    rows = [
        preprint("10.1/a", "1", "Two\n  lines", "Of  text"), preprint("10.1/b", 2), preprint("10.1/B", "1"),
        preprint(None, "1"), preprint("10.1/c", "one"), preprint("10.1/d", "9" * 25),
        preprint("10.1/e", "1", abstract=""), preprint("10.1/f", "1", title=["T"]), "text",
        preprint("10.1/g", "1", "\ud800"),
        preprint("10.1/h", "1"), preprint("10.1/h", "2", abstract="This article has been withdrawn by its authors."),
    ]  # fmt: skip
    found = records_of(BIORXIV, write_page(tmp_path / "a.json", rows))
    assert sorted(pairs_of(found)) == [Pair("Title", "Abstract", 2), Pair("Two lines", "Of text", 1)]
    assert {reason: [row for _, row in where] for reason, where in reasons_of(found).items()} == {
        "filtered: superseded version": [3, 11], "missing doi": [4], "wrong type of version": [5, 6],
        "empty document": [7], "wrong type of query": [8], "unknown shape of row": [9], "invalid UTF-8": [10],
        "filtered: withdrawn": [12],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"messages": [], "collection": [', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"collection": ["\xff"]}', "invalid UTF-8"),
        (b'{"messages": [{"status": "error"}]}', "page without a collection"),
        (b'{"collection": {}}', "page without a collection"),
        (b"[]", "page without a collection"),
        (b"", "invalid JSON"),
        (b"[" + (b"1," * 500 + b"\n") * 18_000 + b"1]", "page over 16,777,216 bytes"),
    ],
)
def test_a_faulty_page_is_one_rejection(tmp_path, text, reason):
    (tmp_path / "a.json").write_bytes(text)
    assert records_of(BIORXIV, tmp_path / "a.json") == [("a.json", (reason, 0))]
    assert records_of(BIORXIV, write_page(tmp_path / "b.json", [])) == []


@pytest.mark.parametrize(
    ("abstract", "gone"),
    [
        ("Withdrawn.", True), ("  withdrawn", True), ("[WITHDRAWN] We study money.", True), ("Paper withdrawn.", True),
        ("Withdrawn by the authors due to an error in\n Lemma 3.", True), ("Withdrawn by arXiv administrators", True),
        ("Withdrawn because of an error", True), ("This paper has been temporarily withdrawn", True),
        ("The authors have withdrawn this manuscript because of a gap.", True),
        ("Withdrawal Statement: The author has withdrawn their article.", True),
        ("The present paper was withdrawn", True), ("This letter is withdrawn", True),
        ("Paper has been withdrawn.", True), ("Article is being withdrawn", True), ("Withdrawn for revision", True),
        ("arXiv admin note: This article has been withdrawn by arXiv administrators due to its content", True),
        ("[arXiv admin note: this submission was withdrawn]", True), ("- Paper withdrawn by the author -", True),
        ("bioRxiv has withdrawn this article after a request.", True), ("medRxiv has withdrawn this preprint", True),
        ("The corresponding author has withdrawn this manuscript.", True), ("We withdraw this submission", True),
        ("Withdrawal StatementThe authors have withdrawn their manuscript.", True),
        ("AbstractThe authors have withdrawn this manuscript.", True), ("All authors have withdrawn the paper", True),
        ("arXiv admin note: text overlap with arXiv:1801.00001", False), ("Work is withdrawn from a bath.", False),
        ("We have withdrawn samples from this study.", False), ("Papers are withdrawn by their journals.", False),
        ("The author has withdrawn from public life.", False), ("bioRxiv has grown since 2013.", False),
        ("The drug was withdrawn from the market in 2004.", False), ("The COX-2 drugs were withdrawn.", False),
        ("Withdrawn money is spent.", False), ("Withdrawn, shy children play alone.", False),
        ("Withdrawn by banks in a crisis, deposits are cash.", False), ("Withdrawal of a drug is studied.", False),
        ("The authors have withdrawn blood from mice.", False), ("We study what was withdrawn.", False), ("", False),
    ],
)  # fmt: skip
def test_an_abstract_is_withdrawn_by_what_it_begins_with(abstract, gone):
    for paper in ({"title": "t", "abstract": abstract}, {"title": abstract, "abstract": "a"}):
        if not gone:
            assert folded(paper) == paper
            continue
        with pytest.raises(Unfit) as unfit:
            folded(paper)
        assert unfit.value.reason == Reason.WITHDRAWN


def test_a_title_that_says_so_withdraws_a_preprint_and_a_text_that_stands_for_none_is_none(tmp_path):
    rows = [
        preprint("10.1/a", 1, "WITHDRAWN: A title"), preprint("10.1/b", 1, "Withdrawn children at play"),
        preprint("10.1/c", 1, abstract="NA"), preprint("10.1/d", 1, "NA"), preprint("10.1/e", 1, abstract="NA-free"),
        preprint("10.1/f", 1, abstract="O_ST_ABSWithdrawal StatementC_ST_ABSThe authors have withdrawn this preprint."),
    ]  # fmt: skip
    found = records_of(BIORXIV, write_page(tmp_path / "a.json", rows))
    assert [pair.row for pair in pairs_of(found)] == [2, 5]
    assert {reason: [row for _, row in where] for reason, where in reasons_of(found).items()} == {
        "filtered: withdrawn": [1, 6], "filtered: article without an abstract": [3],
        "filtered: article without a title": [4],
    }  # fmt: skip


def test_markup_is_taken_out_of_biorxivs_texts_and_not_out_of_arxivs(tmp_path):
    title, abstract = "The {beta}-test of O_SCPLOWMUSEC_SCPLOW", "O_ST_ABSAimC_ST_ABSTo see it.\n\nResultsIt [&ge;] 5."
    (pair,) = pairs_of(records_of(BIORXIV, write_page(tmp_path / "a.json", [preprint("10.1/a", 1, title, abstract)])))
    assert pair[:2] == ("The β-test of MUSE", "Aim: To see it. Results: It ≥ 5.")
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "title": title, "abstract": abstract}))
    (pair,) = pairs_of(records_of(ARXIV, tmp_path / "a.jsonl"))
    assert pair[:2] == (title, " ".join(abstract.split()))


def test_arxiv_texts_are_folded_and_withdrawn_papers_left_out(tmp_path):
    def paper(title, abstract) -> dict:
        return {"id": "0704.0001", "title": title, "abstract": abstract, "categories": "hep-ph"}

    rows = [
        paper("A title\n  on two lines", "  An abstract\nof lines.\n"),
        paper("Gone", "  This paper has been withdrawn by the author.\n"),
        paper("Kept", "We study how withdrawn money has been spent."),
        paper("Title", None), paper(" ", "Text"), paper("Title", 3), [],
    ]  # fmt: skip
    path = tmp_path / "arxiv-metadata-oai-snapshot.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = records_of(ARXIV, path)
    assert pairs_of(found) == [
        Pair("A title on two lines", "An abstract of lines.", 1),
        Pair("Kept", "We study how withdrawn money has been spent.", 3),
    ]  # fmt: skip
    assert {reason: [row for _, row in where] for reason, where in reasons_of(found).items()} == {
        "filtered: withdrawn": [2], "missing document": [4], "empty query": [5], "wrong type of document": [6],
        "unknown shape of row": [7],
    }  # fmt: skip


def test_real_metadata_is_read_whole():
    path = shared_dir("data/raw_samples/arxiv_dataset") / "raw/1.1.0/arxiv-metadata-oai-snapshot.json"
    papers = [json.loads(line) for line in path.read_text().splitlines()]
    found = pairs_of(records_of(ARXIV, path))
    assert [pair.query.split() for pair in found] == [paper["title"].split() for paper in papers]
    assert [pair.document.split() for pair in found] == [paper["abstract"].split() for paper in papers]
    assert not any("\n" in text for pair in found for text in pair[:2])


def test_a_real_api_page_is_read():
    path = shared_dir("data/raw_samples/biorxiv_api") / "details_page.json"
    (row,) = json.loads(path.read_text())["collection"]
    assert records_of(BIORXIV, path) == [(path.name, Pair(row["title"], row["abstract"], 1))]
