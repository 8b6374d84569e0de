"""Stack Exchange's Posts.xml: questions with their bodies, questions with the best answer."""

import gzip
import random
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from conftest import pairs_of, reasons_of, records_of, shared_dir

from gte.data.formats.html import depth, plain_text
from gte.data.pairs import make_pairs
from gte.data.records import Pair
from gte.data.sources import Raw, Source
from gte.errors import UserError

QUESTIONS = Source("q", "community_qa", ("pretrain",), "stackexchange_questions", query="title", document="body")
ANSWERS = Source("a", "community_qa", ("pretrain",), "stackexchange_answers", query="title_body", document="answer")
NO_QUESTION, NOT_CHOSEN = "filtered: no question", "filtered: answer not chosen"


def post(**attributes) -> str:
    return f"  <row {' '.join(f'{key}={quoteattr(str(value))}' for key, value in attributes.items())} />"


def write_posts(path: Path, rows: list[str], end: str = "</posts>\n") -> Path:
    text = '\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(row + "\n" for row in rows) + end
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def question(number: int, **more) -> str:
    usual = {"Score": 3, "Title": f"Title {number}?", "Body": f"<p>Body <b>{number}</b></p>"}
    return post(Id=number, PostTypeId=1, **{**usual, **more})


def answer(number: int, parent: int, score: int, **more) -> str:
    return post(Id=number, PostTypeId=2, ParentId=parent, Score=score, **{"Body": f"<p>Answer {number}</p>", **more})


class Words(HTMLParser):
    """What HTML shows, by the standard library: every character but white space."""

    def __init__(self, html: str):
        super().__init__()
        self.shown = ""
        self.feed(html)
        self.close()

    def handle_data(self, data: str) -> None:
        self.shown += "".join(data.split())


def test_questions_are_rows_of_title_and_body_and_all_else_is_counted(tmp_path):
    rows = [
        question(1, Title="A < B & \"C\" é", Body="<p>One</p>\n<pre><code>if a &lt; b:\n    c()</code></pre>"),
        answer(2, 1, 5),
        question(3, Score=-1),
        question(4, Title=""),
        post(Id=5, PostTypeId=5, Body="wiki"),
        post(Id=6, PostTypeId=1, Score="many", Title="t", Body="b"),
        post(Id=7, PostTypeId=1, Score=1, Body="no title"),
        question(8, Body="<p> </p>"),
    ]  # fmt: skip
    source = Source(**{**vars(QUESTIONS), "options": {"min_score": 0}})
    found = records_of(source, write_posts(tmp_path / "Posts.xml", rows))
    assert pairs_of(found) == [Pair('A < B & "C" é', "One\n\nif a < b:\n    c()", 3)]
    lines = {reason: [row for _, row in where] for reason, where in reasons_of(found).items()}
    assert lines == {
        NO_QUESTION: [4, 7], "filtered: score under 0": [5], "empty query": [6], "wrong type of score": [8],
        "missing query": [9], "empty document": [10],
    }  # fmt: skip
    assert len(found) == len(rows)


@pytest.mark.parametrize("prefer", ["score", "accepted"])
def test_a_question_gets_its_best_answer_wherever_both_stand(tmp_path, prefer):
    """Oracle: a scan of all posts for each question."""
    rng = random.Random(0)
    posts = [{"Id": n, "PostTypeId": 1, "Score": 0, "Title": f"t{n}", "Body": f"b{n}"} for n in range(60)]
    for number in range(60, 240):
        parent, points = rng.randrange(50), rng.randint(-2, 4)
        posts.append({"Id": number, "PostTypeId": 2, "ParentId": parent, "Score": points, "Body": f"a{number}"})
        if rng.random() < 0.2:
            posts[parent]["AcceptedAnswerId"] = number
    rng.shuffle(posts)
    expected, unanswered, low = [], 0, 0
    for asked in (row for row in posts if row["PostTypeId"] == 1):
        given = [row for row in posts if row["PostTypeId"] == 2 and row["ParentId"] == asked["Id"]]
        best = max(given, key=lambda row: row["Score"], default=None)  # the first of equals
        if prefer == "accepted":
            best = next((row for row in given if row["Id"] == asked.get("AcceptedAnswerId")), best)
        unanswered, low = unanswered + (best is None), low + (best is not None and best["Score"] < 1)
        if best is not None and best["Score"] >= 1:
            expected.append(Pair(f"{asked['Title']}\n{asked['Body']}", best["Body"], posts.index(asked) + 3))
    source = Source(**{**vars(ANSWERS), "options": {"min_score": 1, "prefer": prefer}})
    found = records_of(source, write_posts(tmp_path / "Posts.xml", [post(**row) for row in posts]))
    assert sorted(pairs_of(found)) == sorted(expected) and unanswered and low and len(expected) > 20
    counts = {reason: len(where) for reason, where in reasons_of(found).items()}
    assert counts == {
        "filtered: question without an answer": unanswered, "filtered: score under 1": low,
        NOT_CHOSEN: 180 - len(expected),
    }  # fmt: skip


def test_a_question_stands_before_answers_of_any_score_where_its_rows_are_joined_on_the_disk(tmp_path):
    path = tmp_path / "raw" / "Posts.xml"
    path.parent.mkdir()
    write_posts(path, [answer(2, 1, 2**31 - 1), question(1), answer(3, 1, 1 - 2**31), answer(4, 5, 1), question(5)])
    tally = make_pairs(ANSWERS, [Raw(path.name, path)], tmp_path / "a.parquet", tmp_path / "work", max_rejected=0.1)
    assert (tally.read, tally.kept, tally.rejected) == (3, 2, {NOT_CHOSEN: 1})


def test_sites_share_no_ids_and_lost_and_repeated_posts_are_counted(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write_posts(tmp_path / "a" / "Posts.xml", [question(1), answer(2, 1, 1), answer(3, 9, 1), question(1)])
    second = write_posts(tmp_path / "b" / "Posts.xml", [question(1, Title="Other"), answer(2, 1, 1, Body="Yes")])
    found = records_of(ANSWERS, first, second)
    assert pairs_of(found) == [Pair("Title 1?\nBody 1", "Answer 2", 3), Pair("Other\nBody 1", "Yes", 3)]
    assert reasons_of(found) == {
        "answer without its question": [("Posts.xml", 5)], "duplicate id": [("Posts.xml", 6)],
    }  # fmt: skip


BOMB = '<!DOCTYPE posts [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FAULTS = [
    ("  <row Id='1' PostTypeId='1' Title='t'", "malformed XML"),
    ("  <row Id='1' Id='2' PostTypeId='1' />", "malformed XML"),
    ("  <row Id='1' PostTypeId='1' Score='1' Title='&b;' Body='b' />", "entity refused"),
    ("  <row Id='1' PostTypeId='1' Score='1' Title='\udcff' Body='b' />", "invalid UTF-8"),
    ("  <row Id='1' PostTypeId='1' Score='1' Title='&#1;' Body='b' />", "malformed XML"),
    ("  <!-- <row /> -->", "malformed XML"),
    (BOMB, "malformed XML"),
    ("<posts><row Id='1' /></posts>", "malformed XML"),
    (f"  <row Title='{'x' * (17 * 2**20)}' />", "line over 16,777,216 bytes"),
]


@pytest.mark.parametrize("source", [QUESTIONS, ANSWERS])
@pytest.mark.parametrize(("line", "reason"), FAULTS)
def test_a_faulty_line_is_counted_and_costs_no_other(tmp_path, source, line, reason):
    rows = [question(1), answer(2, 1, 1), line, question(3), answer(4, 3, 1)]
    found = records_of(source, write_posts(tmp_path / "Posts.xml", rows))
    assert len(pairs_of(found)) == 2 and reasons_of(found)[reason] == [("Posts.xml", 5)]


@pytest.mark.parametrize("score", ["", "many", "9" * 25, "1.5"])
def test_a_score_that_is_none_is_counted(tmp_path, score):
    rows = [question(1), answer(2, 1, score), answer(3, 1, 1)]
    found = records_of(ANSWERS, write_posts(tmp_path / "Posts.xml", rows))
    assert pairs_of(found) == [Pair("Title 1?\nBody 1", "Answer 3", 3)]
    assert reasons_of(found) == {"wrong type of score": [("Posts.xml", 4)]}


def test_a_file_that_ends_early_is_told_even_between_rows(tmp_path):
    found = records_of(QUESTIONS, write_posts(tmp_path / "Posts.xml", [question(1)], end=""))
    assert len(pairs_of(found)) == 1 and reasons_of(found) == {"truncated file": [("Posts.xml", 3)]}


def test_an_unknown_choice_of_answer_is_refused(tmp_path):
    source = Source(**{**vars(ANSWERS), "options": {"prefer": "longest"}})
    with pytest.raises(UserError, match="prefer of stackexchange_answers is 'longest'; known: score, accepted"):
        records_of(source, write_posts(tmp_path / "Posts.xml", []))


def test_a_real_site_gives_every_question_and_each_best_answer():
    path = shared_dir("data/raw_samples/stackexchange_posts_xml") / "coffee.Posts.xml"
    posts = ElementTree.fromstring(path.read_bytes()).findall("row")
    asked = {row.get("Id"): row for row in posts if row.get("PostTypeId") == "1"}
    found = records_of(QUESTIONS, path)
    assert len(found) == len(posts) and len(reasons_of(found)[NO_QUESTION]) == len(posts) - len(asked)
    assert [pair.query for pair in pairs_of(found)] == [row.get("Title").strip() for row in asked.values()]
    for pair, row in zip(pairs_of(found), asked.values(), strict=True):
        assert "".join(pair.document.split()) == Words(row.get("Body")).shown
    scores = {
        number: [
            int(row.get("Score")) for row in posts if row.get("ParentId") == number and row.get("PostTypeId") == "2"
        ]
        for number in asked
    }
    found = records_of(ANSWERS, path)
    assert len(pairs_of(found)) == sum(map(bool, scores.values())) > 100
    assert len(reasons_of(found)[NOT_CHOSEN]) == sum(max(0, len(given) - 1) for given in scores.values())
    assert len(found) + len(pairs_of(found)) == len(posts)  # a pair is made of two posts


def test_html_becomes_the_text_that_a_reader_sees():
    html = (
        "<p>One <a href='u'>two</a></p><ul><li>three</li></ul><script>x()</script><!-- c --><p>4&nbsp;&lt; 5<br>six</p>"
    )
    assert plain_text(html).split() == ["One", "two", "three", "4", "<", "5", "six"]
    assert plain_text("<div>" * 3_000 + "deep") == "deep"


def test_elements_without_depth_and_closings_of_nothing_do_not_count_as_depth():
    assert depth("<br><p>" * 100 + "<b><i></i></b>") == 2
    assert depth("</b>" * 5 + "<b>" * 3) == 3 and depth("<b></b>" * 9) == 1
    assert plain_text("<p>a<br>" * 4_000).count("a") == 4_000


def test_a_damaged_archive_is_said_once_and_a_long_line_is_no_end(tmp_path, monkeypatch):
    rows = [post(Id=n, PostTypeId=1, Score=1, Title=f"title {n} {'x' * n}", Body=f"body {n}") for n in range(300)]
    whole = gzip.compress(write_posts(tmp_path / "Posts.xml", rows).read_bytes())
    (tmp_path / "Posts.xml.gz").write_bytes(whole[: len(whole) // 2])
    assert set(reasons_of(records_of(QUESTIONS, tmp_path / "Posts.xml.gz"))) == {"damaged archive"}
    monkeypatch.setattr("gte.data.formats.stackexchange.MAX_LINE", 200)
    path = write_posts(tmp_path / "Posts.xml", [post(Id=1, PostTypeId=1, Title="x" * 300)], end="")
    assert {reason: len(rows) for reason, rows in reasons_of(records_of(QUESTIONS, path)).items()} == {
        "line over 200 bytes": 1, "truncated file": 1,
    }  # fmt: skip
