"""Pushshift's Reddit dumps: posts by themselves, and comments joined with what they answer."""

import json
import random
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import zstandard
from conftest import pairs_of, reasons_of, records_of, shared_dir

from gte.data.records import Pair
from gte.data.sources import Source

POSTS = Source("p", "social", ("pretrain",), "pushshift_posts", query="title", document="selftext")
COMMENTS = Source("c", "social", ("pretrain",), "pushshift_comments", query="parent", document="body")
DELETED, MACHINE = "filtered: deleted comment", "filtered: comment by AutoModerator"


def write_dump(path: Path, rows: list, window: int = 21) -> Path:
    """A .zst as Pushshift's: one frame of a great window."""
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=window)
    with open(path, "wb") as file, zstandard.ZstdCompressor(compression_params=settings).stream_writer(file) as stream:
        stream.write(lines)
    return path


def comment(name: str, parent: str, body: str, author: str = "x") -> dict:
    return {"id": name, "parent_id": parent, "link_id": "t3_p", "body": body, "author": author, "score": 1}


def test_comments_answer_posts_and_comments_in_any_file(tmp_path):
    posts = [
        {"id": "p1", "title": "A link", "selftext": "", "url": "http://x"},
        {"id": "p2", "title": "Title", "selftext": "Text", "created_utc": "1420070400"},
        {"id": "p3", "title": "Title", "selftext": "[removed]"},
        {"id": "p4", "title": "Rules", "selftext": "Be kind", "author": "AutoModerator"},
        {"id": "p2", "title": "Title", "selftext": "Text"},
    ]
    first = [
        comment("c1", "t3_p1", "on a link"), comment("c2", "t1_c5", "on a later comment"),
        comment("c3", "t3_p3", "on a removed post"), comment("c4", "t3_p4", "on a machine's"),
        comment("c6", "t1_c9", "on a deleted comment"), comment("c7", "t3_zz", "on what is not there"),
    ]  # fmt: skip
    second = [
        comment("c5", "t3_p2", "on a post"), comment("c8", "t3_p2", "[deleted]"), comment("c9", "t3_p2", "[removed]"),
        comment("c10", "t3_p2", "I am a bot", "AutoModerator"), comment("c11", "t3_p2", "no author", "[deleted]"),
    ]  # fmt: skip
    files = [("RS_a.zst", posts), ("RC_a.zst", first), ("RC_b.zst", second)]
    found = records_of(COMMENTS, *(write_dump(tmp_path / name, rows) for name, rows in files))
    assert sorted(pairs_of(found)) == sorted([
        Pair("A link", "on a link", 1), Pair("on a post", "on a later comment", 2),
        Pair("Title\nText", "on a post", 1), Pair("Title\nText", "no author", 5),
    ])  # fmt: skip
    assert reasons_of(found) == {
        "filtered: deleted parent": [("RC_a.zst", 3), ("RC_a.zst", 5)],
        "filtered: parent by AutoModerator": [("RC_a.zst", 4)],
        "parent not in the files": [("RC_a.zst", 6)],
        DELETED: [("RC_b.zst", 2), ("RC_b.zst", 3)], MACHINE: [("RC_b.zst", 4)],
        "duplicate id": [("RS_a.zst", 5)],
    }  # fmt: skip


def test_parents_as_numbers_and_nulls_are_those_that_names_say(tmp_path):
    """As the API returned them from 2022 on; Python reads base 36 back."""
    rng = random.Random(0)
    names = [rng.choice("abcxyz19") + "".join(rng.choices("0123456789abcz", k=6)) for _ in range(40)]
    rows = [{"id": "p", "title": "Title"}]
    for n, name in enumerate(names):
        rows.append(comment(name, f"t1_{names[n - 1]}" if n % 3 else "t3_p", f"Body {n}"))
    other = []
    for row in rows:
        kind, _, name = row.get("parent_id", "").partition("_")
        changed = {"t3": {"parent_id": None}, "t1": {"parent_id": int(name, 36) if kind == "t1" else 0}}.get(kind, {})
        other.append(row | changed)
    named, numbered = (records_of(COMMENTS, write_dump(tmp_path / "R.zst", each)) for each in (rows, other))
    assert named == numbered and len(pairs_of(named)) == 40 and not reasons_of(named)
    assert sum(isinstance(row.get("parent_id"), int) for row in other) > 20 and any("z" in name for name in names)


def test_every_comment_is_a_pair_or_a_reason_as_a_dictionary_of_all_parents_has_it(tmp_path):
    rng = random.Random(1)
    texts = {f"t3_{n:x}": f"post {n}" for n in range(300)}
    posts = [{"id": name[3:], "title": text} for name, text in texts.items()]
    comments, expected, missing = [], [], 0
    for number in range(5_000):
        parent = rng.choice([*rng.choices(list(texts), k=3), "t1_gone"])
        comments.append(comment(f"{number:x}", parent, f"comment {number}"))
        texts[f"t1_{number:x}"] = f"comment {number}"
    rng.shuffle(comments)
    for row, value in enumerate(comments, 1):
        parent = texts.get(value["parent_id"])
        expected += [Pair(parent, value["body"], row)] if parent else []
        missing += parent is None
    files = (write_dump(tmp_path / name, rows) for name, rows in (("RC.zst", comments), ("RS.zst", posts)))
    found = records_of(COMMENTS, *files)
    assert sorted(pairs_of(found)) == sorted(expected) and missing > 100
    assert {reason: len(rows) for reason, rows in reasons_of(found).items()} == {"parent not in the files": missing}


def test_posts_with_a_text_of_their_own_are_pairs_by_the_published_filter(tmp_path):
    settings = {"min_query": 6, "max_document": 40, "options": {"longer_by": 5, "min_reactions": 3}}
    good = {"title": "Title A", "selftext": "a text of its own", "score": 1, "num_comments": 3}
    rows = [
        good, {**good, "num_comments": 0, "score": 3}, {**good, "num_comments": 2, "score": 2},
        {**good, "selftext": "short"}, {**good, "title": "T"}, {**good, "selftext": "x" * 41}, {**good, "selftext": ""},
        {**good, "selftext": "[deleted]"}, {**good, "title": "[deleted by user]"}, {**good, "author": "AutoModerator"},
        {**good, "selftext": 3}, {"selftext": "no title", "score": 5}, "[1]",
        {**good, "selftext": "x" * 12}, {**good, "selftext": "x" * 11},  # the title has 7
    ]  # fmt: skip
    path = write_dump(tmp_path / "RS.zst", rows)
    found = records_of(Source(**{**vars(POSTS), **settings}), path)
    kept = [("a text of its own", 1), ("a text of its own", 2), ("x" * 12, 14)]
    assert pairs_of(found) == [Pair("Title A", text, row) for text, row in kept]
    assert {reason: [row for _, row in where] for reason, where in reasons_of(found).items()} == {
        "filtered: under 3 comments and votes": [3], "filtered: text not 5 characters longer than its title": [4, 15],
        "filtered: query under 6 characters": [5], "filtered: document over 40 characters": [6],
        "filtered: post without a text": [7], "filtered: deleted post": [8, 9], "filtered: post by AutoModerator": [10],
        "wrong type of document": [11], "missing query": [12], "unknown shape of row": [13],
    }  # fmt: skip
    assert len(found) == len(rows)
    same = write_dump(tmp_path / "same.zst", [{**good, "title": "A title", "selftext": "as long"}])
    assert [pair.row for pair in pairs_of(records_of(POSTS, same))] == [1]  # by default a text may be as short


def test_texts_are_what_their_authors_wrote(tmp_path):
    """Oracle: the API's escaping, which is that of XML, undone by being done: every text is escaped once."""
    texts = ["a < b && b > c", "R&D", "typed &lt;b&gt; and &amp;amp;", "&#x200B; and &nbsp; of Markdown", "> quoted"]
    texts += ["".join(random.Random(n).choices("&<>;amplgt# ", k=30)) + "." for n in range(50)]
    posts = [
        {"id": f"{n}", "title": f"T {escape(text)}", "selftext": f"Text {escape(text)}"} for n, text in enumerate(texts)
    ]
    comments = [comment(f"c{n}", f"t3_{n}", f"C {escape(text)}") for n, text in enumerate(texts)]
    assert any("&amp;lt;" in row["body"] for row in comments)
    path = write_dump(tmp_path / "RS.zst", [{**post, "score": 9} for post in posts])
    found = pairs_of(records_of(POSTS, path))
    assert found == [Pair(f"T {text}".strip(), f"Text {text}".strip(), n) for n, text in enumerate(texts, 1)]
    found = pairs_of(records_of(COMMENTS, path, write_dump(tmp_path / "RC.zst", comments)))
    expected = [Pair(f"T {text}\nText {text}".strip(), f"C {text}".strip(), n) for n, text in enumerate(texts, 1)]
    assert sorted(found) == sorted(expected)


def test_the_length_of_a_post_is_that_of_what_was_written(tmp_path):
    source = Source(**{**vars(POSTS), "options": {"longer_by": 5}})
    rows = [{"title": "Title", "selftext": "&gt;&gt;&gt;" + "x" * size, "score": 1} for size in (6, 7)]
    assert [pair.row for pair in pairs_of(records_of(source, write_dump(tmp_path / "RS.zst", rows)))] == [2]


GONE = [
    "[deleted]", "[removed]", "[deleted by user]", " [removed]\n", "[unavailable]", "\\[removed\\]",
    "[ Removed by Reddit ]",
    "[ Removed by reddit in response to a copyright notice. ]", "[removed by reddit]",
    "[ Removed by Reddit on account of violating the [content policy](/help/contentpolicy). ]",
]  # fmt: skip
HERE = [
    "[removed] by whom?", "I was [deleted]", "removed", "deleted by user", "[link](http://x)", "[removed furniture]",
    "[ Removed by Reddit ] is what it says", "[deleted]\n[removed]", "[] [removed]",
]  # fmt: skip


@pytest.mark.parametrize("text", [*GONE, *HERE])
def test_what_stands_in_place_of_a_text_is_none(tmp_path, text):
    posts = [
        {"id": "p", "title": "Title", "selftext": text, "score": 1},
        {"id": "q", "title": text, "selftext": "a text", "score": 1},
    ]
    rows = [*posts, comment("a", "t3_p", "on p"), comment("b", "t3_q", "on q"), comment("c", "t1_a", text)]
    rows += [comment("d", "t1_c", "on c")]
    kept = [row for _, row in records_of(COMMENTS, write_dump(tmp_path / "R.zst", rows)) if isinstance(row, Pair)]
    assert len(kept) == (0 if text in GONE else 4)
    found = records_of(POSTS, write_dump(tmp_path / "RS.zst", posts))
    assert (reasons_of(found) == {"filtered: deleted post": [("RS.zst", 1), ("RS.zst", 2)]}) == (text in GONE)


FAULTS = [
    ('{"id": "x", "parent_id": "t3_p", "body": "b"', "invalid JSON"),
    ('{"id": 3, "parent_id": "t3_p", "body": "b"}', "wrong type of id"),
    ('{"id": "x", "parent_id": null, "body": "b"}', "missing parent_id"),
    ('{"id": "x", "parent_id": 12, "body": "b"}', "parent not in the files"),
    ('{"id": "x", "parent_id": 1.5, "body": "b"}', "wrong type of parent_id"),
    ('{"id": "x", "parent_id": true, "link_id": "t3_p", "body": "b"}', "wrong type of parent_id"),
    ('{"id": "x", "parent_id": null, "link_id": 7, "body": "b"}', "wrong type of link_id"),
    ('{"id": "x", "parent_id": "t3_p", "body": " "}', "empty body"),
    ('{"id": "x", "parent_id": "t3_p", "body": "\\ud800"}', "invalid UTF-8"),
    ('{"id": "x", "title": []}', "wrong type of title"),
    ('{"id": "x", "title": "T", "selftext": "\\ud800"}', "invalid UTF-8"),
    ("[]", "unknown shape of row"),
]


@pytest.mark.parametrize(("line", "reason"), FAULTS)
def test_a_faulty_row_is_counted_and_costs_no_other(tmp_path, line, reason):
    rows = [{"id": "p", "title": "Title"}, comment("a", "t3_p", "A"), line, comment("b", "t3_p", "B")]
    found = records_of(COMMENTS, write_dump(tmp_path / "R.zst", rows))
    assert pairs_of(found) == [Pair("Title", "A", 2), Pair("Title", "B", 4)]
    assert reasons_of(found) == {reason: [("R.zst", 3)]}


def test_a_dump_with_a_window_of_2_gib_is_read_and_a_cut_one_gives_what_was_before_the_cut(tmp_path):
    rows = [{"id": "p", "title": "Title"}]
    rows += [comment(f"{n}", "t3_p", random.Random(n).randbytes(60).hex()) for n in range(4_000)]
    whole = write_dump(tmp_path / "RC.zst", rows, window=31)
    with pytest.raises(zstandard.ZstdError):  # the window really is too great for a reader that does not ask for it
        zstandard.ZstdDecompressor().stream_reader(whole.read_bytes()).read()
    assert len(pairs_of(records_of(COMMENTS, whole))) == 4_000
    (tmp_path / "cut.zst").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = records_of(COMMENTS, tmp_path / "cut.zst")
    ((_, row),) = reasons_of(found)["damaged archive"]
    assert len(pairs_of(found)) == row - 1 > 1_000


def test_real_comments_are_understood():
    path = shared_dir("data/raw_samples/reddit_pushshift") / "RC_sample.ndjson"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = records_of(COMMENTS, path)
    assert reasons_of(found) == {"parent not in the files": [(path.name, row) for row in range(1, len(rows) + 1)]}


def test_real_comments_are_paired_with_posts_of_their_ids(tmp_path):
    path = shared_dir("data/raw_samples/reddit_pushshift") / "RC_sample.ndjson"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = [row["parent_id"] for row in rows]
    posts = [{"id": name[3:], "title": f"Post {name}"} for name in names if name.startswith("t3_")]
    found = records_of(COMMENTS, path, write_dump(tmp_path / "RS.zst", posts))
    assert sorted(pairs_of(found)) == sorted(
        Pair(f"Post {name}", row["body"].strip(), number)
        for number, (name, row) in enumerate(zip(names, rows, strict=True), 1)
        if name.startswith("t3_")
    )
    assert len(posts) == 2 and len(reasons_of(found)["parent not in the files"]) == 2
