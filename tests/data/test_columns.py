"""A user's files: every column is stated, of a known layout, or asked for; nothing is guessed in silence."""

import csv
import json
import random
import re
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_files import read, texts_of

from gte.data.columns import Wanted
from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.own_tables import find_delimiter
from gte.data.preview import describe, preview
from gte.data.records import Pair, Rejected, Triple
from gte.errors import UserError
from gte.overrides import read_arguments

TEXTS = [f"What does river number {n} do?" for n in range(6)]
OTHERS = [f"It flows through town {n}, past a mill." for n in range(6)]
THIRD = [f"Nothing is known of bridge {n}." for n in range(6)]


def write_table(path, rows: list[list], delimiter: str = ",") -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


PAIRS = list(zip(TEXTS, OTHERS, strict=True))
PASSAGES = [[{"docid": str(n), "title": "t", "text": text}] for n, text in enumerate(OTHERS)]
LAYOUTS = {
    "squad": ({"id": "5x", "title": "Rivers", "context": OTHERS, "question": TEXTS}, ("question", "context")),
    "squad on the hub": ({"id": "5x", "title": "R", "context": OTHERS, "question": TEXTS, "answers": {"text": ["a b"]}},
                         ("question", "context")),
    "tevatron": ({"query_id": "1", "query": TEXTS, "positive_passages": PASSAGES, "negative_passages": []},
                 ("query", "positive_passages", "negative_passages")),
    "bge": ({"query": TEXTS, "pos": [[text] for text in OTHERS], "neg": [[text] for text in THIRD], "type": "x"},
            ("query", "pos", "neg")),
    "n-tuples": ({"anchor": TEXTS, "positive": OTHERS, "negative_1": THIRD, "negative_2": "A third one."},
                 ("anchor", "positive", "negative_1", "negative_2")),
    "triplets": ({"anchor": TEXTS, "positive": OTHERS, "negative": THIRD}, ("anchor", "positive", "negative")),
    "title and body": ({"id": 7, "title": TEXTS, "body": OTHERS}, ("title", "body")),
    "upper case and blanks": ({"Query": TEXTS, " Document ": OTHERS}, ("Query", " Document ")),
    "two columns of unknown names": ({"id": "a1b2", "left side": TEXTS, "right": OTHERS}, ("left side", "right")),
}  # fmt: skip


def rows_of(columns: dict) -> list[dict]:
    return [{name: v[n] if isinstance(v, list) and len(v) == 6 else v for name, v in columns.items()} for n in range(6)]


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet", "csv", "semicolon", "tsv"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_of_the_field_is_recognised_whole_in_every_format(tmp_path, name, format):
    columns, roles = LAYOUTS[name]
    rows = rows_of(columns)
    if format == "jsonl":
        (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif format == "json":
        (tmp_path / "faq.json").write_text(json.dumps(rows, indent=1))
    elif format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "faq.parquet")
    elif any(isinstance(value, list | dict) for row in rows for value in row.values()):
        pytest.skip("a table's cells hold no lists")
    else:
        kind = "csv" if format == "semicolon" else format
        delimiter = {"csv": ",", "semicolon": ";", "tsv": "\t"}[format]
        write_table(tmp_path / f"faq.{kind}", [list(rows[0]), *(list(row.values()) for row in rows)], delimiter)
    expected = list(PAIRS)
    if name == "tevatron":
        expected = [(query, f"t: {text}") for query, text in PAIRS]
    if "negative" in "".join(roles[2:3]) and name != "tevatron":
        expected = [
            (*pair, *[text for text in (row.get(r) for r in roles[2:])]) for pair, row in zip(PAIRS, rows, strict=True)
        ]
    if name == "bge":
        expected = [(*pair, text) for pair, text in zip(PAIRS, THIRD, strict=True)]
    assert texts_of(read(tmp_path)) == expected


REFUSED = {
    "several unknown": ({"id": "x1", "subject": TEXTS, "resolution": OTHERS, "agent": ["ann", "bob"] * 3},
                        r"which columns are query and document\? It has: id, subject, resolution, agent"),
    "half a layout": ({"question": TEXTS, "reply": OTHERS}, "only 'question' is of a known layout"),
    "instruction": ({"instruction": "Find it.", "query": TEXTS, "pos": OTHERS}, "has the column 'instruction' beside"),
    "scores": ({"sentence1": TEXTS, "sentence2": OTHERS, "score": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]},
               r"the column 'score' \(0 to 5\): which pairs belong together\? data.min_score=NUMBER"),
    "one text": ({"id": "x", "text": TEXTS, "n": 1}, "a query and a document are needed"),
}  # fmt: skip


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_told_apart_is_refused_with_a_line_that_works_when_typed(tmp_path, name, format):
    columns, line = REFUSED[name]
    rows = rows_of(columns)
    if format == "jsonl":
        (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "faq.parquet")
    else:
        write_table(tmp_path / "faq.csv", [list(rows[0]), *(list(row.values()) for row in rows)])
    with pytest.raises(UserError, match=line) as error:
        read(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path / "faq.") in str(error.value)
    for typed in re.findall(r"'data\.columns=\{query[^']*'", str(error.value)):
        (override,) = read_arguments("prepare", shlex.split(typed))
        from gte.overrides import parsed

        found = read(tmp_path, Wanted(columns=parsed(override).value()))
        assert [record.document for record in found] == OTHERS and all(TEXTS[n] in found[n].query for n in range(6))


def test_stated_columns_are_taken_per_file_whatever_their_case_and_place(tmp_path):
    rows = zip("123456", TEXTS, OTHERS, THIRD, THIRD, strict=True)
    write_table(tmp_path / "a.csv", [["No", "Subject", "Resolution", "b1", "b2"], *rows])
    write_table(tmp_path / "b.tsv", [["x1", text, other, "z z"] for text, other in PAIRS], "\t")
    stated = {"a": {"query": "subject", "pos": "resolution", "neg": ["b1", "b2"]}, "b": {"query": 2, "pos": 1}}
    a, b = infer_sources(tmp_path, Wanted(columns=stated))
    by_position, _ = infer_sources(tmp_path, Wanted(columns=stated | {"a": {"query": "subject", "pos": 4}}))
    assert texts_of(by_position.read(locate(a, tmp_path)[0])) == list(zip(TEXTS, THIRD, strict=True))
    assert texts_of(a.read(locate(a, tmp_path)[0])) == [
        (q, d, n, n) for q, d, n in zip(TEXTS, OTHERS, THIRD, strict=True)
    ]
    assert texts_of(b.read(locate(b, tmp_path)[0])) == [(d, q) for q, d in PAIRS]
    for wrong, line in (
        ({"a": {"query": "subjct", "pos": "resolution"}}, "no column 'subjct', did you mean Subject"),
        ({"a": {"qery": "subject", "pos": "resolution"}}, "data.columns.a.qery is no role, did you mean query"),
        ({"faq": {"query": "subject"}}, r"data.columns.faq: neither a role .* nor a file of .* \(a, b\)"),
        ({"a": {"query": "subject"}}, "names only one of query and pos"),
        ({"a": {"query": "subject", "pos": 5}}, "no column '5'"),
        ({"a": {"query": "subject", "pos": -1}}, "no column '-1'"),
    ):
        with pytest.raises(UserError, match=line):
            infer_sources(tmp_path, Wanted(columns=wrong))


def test_scores_and_values_choose_the_rows_and_the_others_are_counted(tmp_path):
    scored = [[*pair, score] for pair, score in zip(PAIRS, ["0", "5", "4.5", "", "x", "4"], strict=True)]
    write_table(tmp_path / "a.csv", [["sentence1", "sentence2", "score"], *scored])
    found = read(tmp_path, Wanted(min_score=4))
    assert texts_of([record for record in found if isinstance(record, Pair)]) == [PAIRS[1], PAIRS[2], PAIRS[5]]
    assert [record.reason for record in found if isinstance(record, Rejected)] == [
        "filtered: score under 4", "missing score", "wrong type of score",
    ]  # fmt: skip
    assert len(read(tmp_path, Wanted(score=False))) == 6
    kept = read(tmp_path, Wanted(columns={"keep": {"score": [5, "x"]}}))
    assert texts_of([record for record in kept if isinstance(record, Pair)]) == [PAIRS[1], PAIRS[4]]
    named = {"query": "sentence1", "pos": "sentence2", "score": "score"}
    assert read(tmp_path, Wanted(columns=named, min_score=4)) == found
    with pytest.raises(UserError, match=r"the column 'score' needs the least score of a pair: data.min_score=NUMBER"):
        read(tmp_path, Wanted(columns=named))
    for wrong in (Wanted(min_score="4"), Wanted(min_score=True), Wanted(min_score=4, score=False)):
        with pytest.raises(UserError, match=r"data.min_score=\w+ needs a number and data.score=COLUMN"):
            read(tmp_path, wanted=wrong)
    with pytest.raises(UserError, match=r"data.score=score needs the least score"):
        read(tmp_path, Wanted(score="score"))
    write_table(tmp_path / "a.csv", [["sentence1", "sentence2"], *PAIRS])
    with pytest.raises(UserError, match=r"data.min_score=4: no file of .* has a column of scores"):
        read(tmp_path, Wanted(min_score=4))


@pytest.mark.parametrize("header", [["subject", "resolution"], ["Query", "Document"], ["id", "frage text", "antwort"]])
def test_a_header_is_never_a_pair_and_a_file_without_one_loses_none(tmp_path, header):
    rows = [[str(n), *pair][-len(header) :] for n, pair in enumerate(PAIRS)]
    write_table(tmp_path / "a.csv", [header, *rows])
    assert texts_of(read(tmp_path)) == PAIRS
    write_table(tmp_path / "a.csv", rows)
    assert texts_of(read(tmp_path)) == PAIRS


def test_delimiters_are_found_and_can_be_stated(tmp_path):
    for delimiter in ";|\t,":
        lines = [delimiter.join(pair) for pair in [("query", "document"), *PAIRS]]  # the texts hold commas
        if delimiter != ",":
            assert find_delimiter(lines, ",") == delimiter
    (tmp_path / "a.csv").write_text("\n".join(["query~document", *map("~".join, PAIRS)]))
    with pytest.raises(UserError, match=r"has one column.*delimiter"):
        read(tmp_path)
    assert texts_of(read(tmp_path, Wanted(delimiter="~"))) == PAIRS


def test_files_that_are_not_read_are_named_with_what_to_do(tmp_path):
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    (tmp_path / "config.json").write_text('{\n "a": 1\n}')
    with pytest.raises(UserError, match=r"it holds book.xlsx \(save it as CSV\), config.json \(no array"):
        read(tmp_path)
    write_table(tmp_path / "a.csv", [["query", "pos"], *PAIRS])
    assert texts_of(read(tmp_path)) == PAIRS == texts_of(read(tmp_path / "a.csv"))


def seen(tmp_path, pairs: list) -> str:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (source,) = infer_sources(tmp_path)
    return "\n".join(describe(source.name, "a.jsonl", preview(source, locate(source, tmp_path))))


def test_what_looks_wrong_is_said_and_what_looks_right_is_not(tmp_path):
    rng = random.Random(0)
    good = [{"query": f"q {n} {rng.random()}", "pos": f"document {n} with some words", "x": 1} for n in range(40)]
    told = seen(tmp_path, good)
    assert "query = query, document = pos; not used: x" in told and "warning" not in told
    assert told.count("  ->  ") == 2 and "q 0" in told and "q 1" in told
    for change, line in (
        (lambda n: {"query": f"n{n} {n}" if n < 10 else str(n)}, "30 of 40 queries are numbers"),
        (
            lambda n: {"pos": f"q {n} x", "query": f"q {n} x"} if n == 3 else {},
            "1 of 40 pairs are of two equal texts, first row 4",
        ),
        (lambda n: {"pos": "long " * 2_000} if n == 7 else {}, "1 of the documents have over 100 times the median"),
        (lambda n: {"pos": "one and the same"} if n % 4 else {}, "30 of 40 documents are the same: 'one and the same'"),
        (lambda n: {"pos": ""} if n == 5 else {}, "1 of the first 40 rows are rejected: empty document, first row 6"),
    ):
        told = seen(tmp_path, [row | change(n) for n, row in enumerate(good)])
        assert told.count("warning") == 1 and line in told, told
    for change in (  # half of them are not most
        lambda n: {"query": str(n)} if n < 20 else {},
        lambda n: {"pos": "one and the same"} if n < 20 else {},
        lambda n: {"pos": f"{n:<{99 if n else 9_999}}."},  # the longest has 100 times the median
    ):
        assert "warning" not in seen(tmp_path, [row | change(n) for n, row in enumerate(good)])


def test_a_list_of_rows_and_sets_keeps_its_shape(tmp_path):
    rows = [*map(list, PAIRS), {"set": [TEXTS[0], TEXTS[1]]}, {"query": TEXTS[0], "pos": OTHERS[0], "neg": [THIRD[0]]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path)
    assert len(found) == 8 and isinstance(found[-1], Triple)


def test_a_cell_of_any_length_and_a_stray_carriage_return_leave_the_delimiter_to_be_found():
    csv.field_size_limit(131_072)  # as a new process has it
    assert find_delimiter(["a;b;c"], ",") == ";"  # a file of one line
    assert find_delimiter(["a;b\n", f"one;{'x' * 200_000}\n"], ",") == ";"
    assert find_delimiter(["a;b\rone;two\rthree;four\r"], ",") == ","


def test_columns_of_ids_alone_are_taken_by_the_setting_that_the_refusal_names(script, tmp_path):
    rows = [json.dumps({"query": f"q{n}", "document": f"d{n}"}) for n in range(9)]
    (tmp_path / "ids.jsonl").write_text("\n".join(rows))
    line = script.refused("prepare", "data=local", "data.path=ids.jsonl", "dry_run=true")
    assert "hold no text; if two do, say it: 'data.columns={query: query, pos: document}'" in line
    stated = "data.columns={query: query, pos: document}"
    assert script("prepare", "data=local", "data.path=ids.jsonl", stated, "dry_run=true")[0] == 0


def test_two_folders_for_the_same_data_are_refused(script, tmp_path):
    line = script.refused("prepare", "data=local", "data.path=a.jsonl", "data.dir=one", "out=two", "dry_run=true")
    assert "are two folders for the same data; give one of them" in line


TWICE = [("query", "query", "document"), ("Query", "document", "query"), ("question", "context", "context")]


@pytest.mark.parametrize("format", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("names", TWICE)
def test_two_columns_of_one_name_are_refused_by_both_unless_none_is_used(tmp_path, names, format):
    def save(names: tuple, columns: list) -> None:
        if format == "parquet":
            pq.write_table(pa.table([pa.array(column) for column in columns], names=names), tmp_path / "a.parquet")
        else:
            write_table(tmp_path / f"a.{format}", [names, *zip(*columns, strict=True)], ",\t"[format == "tsv"])

    save(names, [TEXTS, OTHERS, THIRD])
    first, second = (place for place, name in enumerate(names) if [n.lower() for n in names].count(name.lower()) == 2)
    with pytest.raises(UserError) as told:
        read(tmp_path)
    assert f"a.{format} has two columns of one name, '{names[first]}' (column {first + 1}) and" in str(told.value)
    assert f"'{names[second]}' (column {second + 1}); rename or remove one" in str(told.value)
    assert "\n" not in str(told.value)
    save(("query", "tag", "document", "tag"), [TEXTS, THIRD, OTHERS, THIRD])
    assert texts_of(read(tmp_path)) == PAIRS


def test_what_is_found_is_shown_with_the_score_from_which_pairs_belong_together():
    shown = {"query": "a", "document": 2, "score": "s", "unused": ["x"], "examples": [("q", "d")], "warnings": ["w"]}
    line = "name (a.csv): query = a, document = column 3, score = s"
    assert describe("name", "a.csv", shown) == [f"{line}; not used: x", "    q  ->  d", "    warning: w"]
    long = describe("name", "a.csv", shown | {"examples": [("q" * 60, "d" * 61)]})
    assert long[1] == f"    {'q' * 60}  ->  {'d' * 56} ..."  # of 60 characters at most
    assert describe("name", "a.csv", shown | {"min_score": 0.5})[0] == f"{line} from 0.5 on; not used: x"
    assert describe("name", "a.csv", shown | {"min_score": 0})[0] == f"{line} from 0 on; not used: x"
