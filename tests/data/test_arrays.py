"""JSON arrays and SQuAD's nested form: one bad byte costs its own row, and every row is told."""

import json
import re

import pytest
import zstandard

from gte.data.columns import FIND_OUT
from gte.data.formats import arrays
from gte.data.formats.arrays import Window, json_rows
from gte.data.formats.squad import question_rows
from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.reasons import Reason
from gte.data.records import Pair, Rejected
from gte.errors import UserError

STYLES = {"one line": (None, ", "), "a line a row": (None, ",\n"), "indented": (2, ",\n  ")}
ROWS = [{"query": f"what [is] {n}?", "pos": f"doc {n} {{x}}", "neg": [f"no {n}", "a, b"]} for n in range(5)]
LISTS = [[f"q [{n}]", f"d, {n}"] for n in range(5)]
NESTED = [{"query": f"q{n}", "pos": [{"query": "t", "text": f"x{n}"}, {"query": "u", "text": "y"}]} for n in range(5)]
FAULTS = {
    "quote put in": lambda row: re.sub(r"(?=\d)", '"', row, count=1),
    "quote left out": lambda row: re.sub(r'"(?=[,\]]|: )', "", row, count=1),
    "last quote left out": lambda row: row[::-1].replace('"', "", 1)[::-1],
    "line end in a text": lambda row: row.replace("q", "q\n", 1).replace("d", "d\n", 1),
    "backslash": lambda row: row.replace('"', '\\"', 1),
    "comma at the end": lambda row: row[:-1] + "," + row[-1],
    "bracket closed in between": lambda row: row.replace("?", '"]', 1).replace("]", ']"]', 1),
}  # fmt: skip


def array(rows: list, style: str, bad: int, fault) -> str:
    indent, between = STYLES[style]
    texts = [json.dumps(row, indent=indent) for row in rows]
    damaged = fault(texts[bad])
    assert damaged != texts[bad]
    return "[" + between.join(damaged if n == bad else text for n, text in enumerate(texts)) + "]\n"


@pytest.mark.parametrize("bad", [0, 2, 4])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("style", STYLES)
def test_a_malformed_item_of_an_array_costs_itself_and_is_named(tmp_path, style, fault, bad):
    for rows in (ROWS, LISTS, NESTED):
        path = tmp_path / "a.json"
        path.write_text(array(rows, style, bad, FAULTS[fault]))
        found = list(json_rows(path, 10_000))
        kept = [row[1] for row in found if not isinstance(row, Rejected)]
        told = [row for row in found if isinstance(row, Rejected)]
        assert [row for row in kept if row in rows] == [row for n, row in enumerate(rows) if n != bad], found
        assert told and told[0].row == bad + 1, found


def test_a_stray_quote_costs_one_row_of_thousands_and_bytes_that_are_no_text_their_own(tmp_path):
    rows = [json.dumps({"query": f"q{n}", "pos": "text " * 9}).encode() for n in range(3_000)]
    rows[10] = rows[10].replace(b"text", b'te"xt', 1)
    rows[20] = rows[20].replace(b"text", b"te\xffxt", 1)
    rows[30] = rows[30][:-1]
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b", ".join(rows) + b"]")
    found = [row for row in json_rows(path, 10_000) if isinstance(row, Rejected)]
    assert found == [Rejected("invalid JSON", 11), Rejected("invalid UTF-8", 21), Rejected("invalid JSON", 31)]
    assert sum(1 for _ in json_rows(path, 10_000)) == 3_000


def test_a_bracket_too_many_does_not_end_the_array(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS[:2]) + ", " + json.dumps(ROWS[2:])[1:])
    found = list(json_rows(path, 10_000))
    assert [row[1] for row in found if isinstance(row, tuple) and not isinstance(row, Rejected)] == ROWS[:2] + ROWS[2:]
    assert Rejected("text after the array", 3) in found


def test_an_array_of_malformed_items_is_read_once_through(tmp_path, monkeypatch):
    """Not once an item: characters looked at, not seconds, are counted."""
    path = tmp_path / "a.json"
    path.write_text("[" + ", ".join(f"{{'query': 'q{n}', 'pos': 'd'}}" for n in range(2_000)) + "]")
    looked, peek = [], Window.peek
    monkeypatch.setattr(Window, "peek", lambda self, at: looked.append(at) or peek(self, at))
    assert list(json_rows(path, 10_000)) == [Rejected("invalid JSON", n) for n in range(1, 2_001)]
    assert len(looked) <= 2 * 2_000


@pytest.mark.parametrize("piece", [1, 7, 50])
def test_the_rows_are_those_of_one_piece_whatever_the_size_of_the_pieces(tmp_path, monkeypatch, piece):
    path = tmp_path / "a.json"
    texts = [array(rows, style, 2, FAULTS[fault]) for rows in (ROWS, LISTS) for style in STYLES for fault in FAULTS]
    for read_rows, text in [*((json_rows, text) for text in texts), (question_rows, json.dumps(SQUAD))]:
        path.write_text(text)
        monkeypatch.undo()
        expected = list(read_rows(path, 10_000))
        monkeypatch.setattr(arrays, "PIECE", piece)
        assert list(read_rows(path, 10_000)) == expected and len(expected) > 3


def test_an_item_of_the_limit_is_taken_and_one_of_a_character_more_is_not(tmp_path, monkeypatch):
    rows = [{"query": "q"}, {"query": "x" * 3_000}, {"query": "r"}]
    path, longest = tmp_path / "a.json", len(json.dumps(rows[1]))
    path.write_text(json.dumps(rows))
    for piece in range(longest, longest + 40):  # with one of them the item alone is held
        monkeypatch.setattr(arrays, "PIECE", piece)
        assert list(json_rows(path, longest)) == list(enumerate(rows, 1))
        told = Rejected(Reason.LONG_ITEM.of(longest - 1), 2)
        assert list(json_rows(path, longest - 1)) == [(1, rows[0]), told, (3, rows[2])]


def test_an_item_without_an_end_is_not_held_far_beyond_the_limit(tmp_path, monkeypatch):
    path, held, more = tmp_path / "a.json", [], Window.more
    path.write_text(json.dumps(ROWS[:1])[:-1] + ', {"query": "' + "x" * 200_000)
    monkeypatch.setattr(arrays, "PIECE", 1_000)
    monkeypatch.setattr(Window, "more", lambda self: (more(self), held.append(len(self.text)))[0])
    cut = [Rejected(Reason.LONG_ITEM.of(5_000), 2), Rejected(Reason.UNENDED_ARRAY, 3)]
    assert list(json_rows(path, 5_000)) == [(1, ROWS[0]), *cut]
    assert max(held) < 4 * 5_000


def test_a_malformed_item_of_several_pieces_ends_by_its_brackets_and_a_longer_one_where_a_row_begins(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(arrays, "PIECE", 2_000)
    path = tmp_path / "a.json"
    path.write_text('[{"query": "a" "b", "pos": ["' + "d" * 5_000 + '"]}, {"other": "key"}]')  # no row is known before
    assert list(json_rows(path, 10_000)) == [Rejected("invalid JSON", 1), (2, {"other": "key"})]
    nested = ", ".join(["[1, 2]"] * 3_000)
    path.write_text(f'[["q", "d"], ["q" "e", [{nested}]], ["r", "d"]]')
    assert list(json_rows(path, 4_000)) == [(1, ["q", "d"]), Rejected("invalid JSON", 2), (3, ["r", "d"])]


def test_a_bracket_within_a_malformed_item_ends_neither_it_nor_the_array(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[["q", "d"], ["r" "s"], "d"], ["t", "d"]]')
    assert list(json_rows(path, 10_000)) == [(1, ["q", "d"]), Rejected("invalid JSON", 2), (3, ["t", "d"])]


def read(folder) -> list:
    (source,) = infer_sources(folder, FIND_OUT)
    return [record for raw in locate(source, folder) for record in source.read(raw)]


def question(text: str, answers: list, **more) -> dict:
    return {"question": text, "id": text, "answers": [{"text": one, "answer_start": 0} for one in answers], **more}


SQUAD = {
    "version": "v2.0",
    "data": [
        {"title": "A [b] {c", "paragraphs": [
            {"context": "The mill stands here.", "qas": [question("what stands?", ["mill"]), question("when?", [])]},
            {"qas": [question("who?", [], is_impossible=True)], "context": "Nobody knows \"paragraphs\": [."},
        ]},
        {"title": "B", "paragraphs": [{"context": "Second article.", "qas": [question("which?", ["Second"])]}]},
    ],
}  # fmt: skip
READ = [
    Pair("what stands?", "The mill stands here.", 1), Rejected("filtered: answers is empty", 2),
    Rejected("filtered: is_impossible is True", 3), Pair("which?", "Second article.", 4),
]  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["train.json", "train.json.zst"])
def test_squad_is_read_as_it_is_published_and_questions_without_an_answer_are_counted(tmp_path, name, indent):
    for order in (SQUAD, dict(reversed(SQUAD.items()))):
        data = json.dumps(order, indent=indent).encode()
        (tmp_path / name).write_bytes(zstandard.compress(data) if name.endswith("zst") else data)
        found = read(tmp_path)
        assert [(record[0], record[-1]) if isinstance(record, Rejected) else record for record in found] == READ


def test_a_paragraph_of_squad_that_cannot_be_read_costs_itself_and_a_cut_file_is_told(tmp_path):
    text = json.dumps(SQUAD)
    (tmp_path / "a.json").write_text(text.replace("The mill", 'The "mill'))
    rows = list(question_rows(tmp_path / "a.json", 10_000))
    assert rows[0] == Rejected("invalid JSON", 1) and [row[1]["question"] for row in rows[1:]] == ["who?", "which?"]
    (tmp_path / "a.json").write_text(text.replace("Nobody", '"Nobody'))  # the last of its array
    (*_, bad, last) = question_rows(tmp_path / "a.json", 10_000)
    assert bad == Rejected("invalid JSON", 3) and (last[0], last[1]["question"]) == (4, "which?")
    for cut in (5, 60, 200):
        (tmp_path / "a.json").write_text(text[:-cut])
        *found, last = question_rows(tmp_path / "a.json", 10_000)
        assert last == Rejected("array without an end", len(found) + 1)


def test_the_answers_of_flat_squad_are_looked_at_too(tmp_path):
    rows = [
        {"question": f"q{n}", "context": "c", "answers": {"text": ["a"] * n, "answer_start": [0] * n}} for n in (0, 1)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path) == [Rejected("filtered: answers is empty", 1), Pair("q1", "c", 2)]


LINES = '{"query": "a b", "pos": "c"}\n' * 3
WRONG_NAMES = [
    ("a.jsonl", json.dumps(ROWS), r"a\.jsonl is one JSON array, .* rename it to a\.json$"),
    ("a.JSONL.zst", json.dumps(ROWS, indent=1), r"rename it to a\.json\.zst$"),
    ("a.json", json.dumps({"rows": ROWS, "n": 5}), r"is one object whose 'rows' is an array"),
    ("a.json", '["a", "b"]', "its array holds neither objects nor lists"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line"), WRONG_NAMES)
def test_rows_that_are_not_where_the_name_says_are_answered_with_what_to_do(tmp_path, name, text, line):
    (tmp_path / name).write_bytes(zstandard.compress(text.encode()) if name.endswith("zst") else text.encode())
    with pytest.raises(UserError, match=line) as told:
        read(tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", [LINES, '["a b", "c"]\n' * 3])
def test_json_lines_in_a_json_file_are_read_as_such(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert [record[:2] for record in read(tmp_path)] == [("a b", "c")] * 3
