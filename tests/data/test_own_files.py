"""Users' files as the field's tools write them: pairs are found in all of them or asked for, never lost in silence."""

import csv
import gzip
import json
import random

import pandas as pd
import pytest
from own_files import read, texts_of

from gte.data.columns import Wanted
from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.preview import describe, preview
from gte.data.records import Rejected
from gte.errors import UserError

QUESTIONS = [f"What does river number {n} do?" for n in range(40)]
ANSWERS = [f"It flows through town {n}, past a mill." for n in range(40)]
WRONG = [f"Nothing is known of bridge {n}." for n in range(40)]
PAIRS = list(zip(QUESTIONS, ANSWERS, strict=True))
FRAME = pd.DataFrame({"answer": ANSWERS, "question": QUESTIONS})


def shown(folder) -> str:
    """The lines that tell a user how the one file of a folder is read."""
    (source,) = infer_sources(folder)
    return "\n".join(describe(source.name, source.files, preview(source, locate(source, folder))))


def test_a_column_without_a_name_leaves_the_first_line_a_header(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv")  # pandas' index
    assert (tmp_path / "a.csv").read_text().startswith(",answer,question\n")
    assert texts_of(read(tmp_path)) == PAIRS
    assert "not used: (no name)" in shown(tmp_path) and "warning" not in shown(tmp_path)
    for header, row in (
        ("query,pos,", "{},{},"), (",frage,antwort", '"7",{},{}'), ('"","question","answer"', '"7",{},{}'),
        ("question,answer,votes (up)", "{},{},7"), ("query,pos,,", "{},{},,"),
    ):  # fmt: skip
        lines = [row.format(query, document.replace(",", "")) for query, document in PAIRS]
        (tmp_path / "a.csv").write_text("\n".join([header, *lines]))
        assert [record.query for record in read(tmp_path)] == QUESTIONS, header


def test_a_first_line_that_is_taken_as_a_pair_is_said_unless_the_user_said_it(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Customer's question", "Our answer (EN)"), *PAIRS])
    assert "warning: its first line is taken as a pair; data.header=true if it is names" in shown(tmp_path)
    assert texts_of(read(tmp_path, Wanted(header=True))) == PAIRS
    (source,) = infer_sources(tmp_path, Wanted(header=False))
    assert "notes" not in source.columns and len(read(tmp_path, Wanted(header=False))) == 41
    named = Wanted(columns={"query": 0, "pos": 1})
    assert "is taken as a pair" in infer_sources(tmp_path, named)[0].columns["notes"][0]


QUOTED = [
    document + "\nand a second line" * (n % 7 == 0) + ' he said "no"' * (n % 3 == 1) + "\tor a tab" * (n % 5 == 2)
    for n, document in enumerate(ANSWERS)
]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("documents", [QUOTED, ANSWERS], ids=["with quotes and line feeds", "plain"])
def test_a_tsv_file_that_pandas_wrote_gives_the_frames_texts(tmp_path, quoting, documents):
    frame = pd.DataFrame({"id": range(40), "question": QUESTIONS, "answer": documents})
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False, quoting=quoting)
    assert texts_of(read(tmp_path)) == list(zip(QUESTIONS, documents, strict=True))
    assert "warning" not in shown(tmp_path)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_quotes_that_begin_late_in_a_tsv_file_are_seen(tmp_path, packed):
    frame = pd.DataFrame({"question": QUESTIONS * 100, "answer": ANSWERS * 60 + QUOTED * 40})
    frame.to_csv(tmp_path / f"a.tsv{packed}", sep="\t", index=False)
    assert texts_of(read(tmp_path)) == list(frame.itertuples(index=False, name=None))


STRAY = [
    'what is "rba"', '"what is" rba', '"the who"', '5" pipe', 'he said ""no""', '"', '"""', 'ends with one"', '"begins',
    "plain", '"a" and "b"', "it's",
]  # fmt: skip


def test_quotes_that_are_text_stay_text_between_tabs(tmp_path):
    rng = random.Random(0)
    for _ in range(30):
        pairs = [(rng.choice(STRAY) + f" {n}" * (n % 2), f"{rng.choice(STRAY)} {n}") for n in range(200)]
        (tmp_path / "a.tsv").write_text("".join("\t".join(pair) + "\n" for pair in pairs))
        assert texts_of(read(tmp_path)) == pairs


def test_quoting_can_be_said_and_is_asked_about_where_rows_are_of_both_kinds(tmp_path, script):
    rows = ['"one ""two"" three"\tfour', 'five "six"\tseven', '"eight ""nine"""\tten']
    (tmp_path / "a.tsv").write_text("\n".join(rows))
    plain, quoted = [tuple(row.split("\t")) for row in rows], [('one "two" three', "four"), ('five "six"', "seven")]
    quoted.append(('eight "nine"', "ten"))
    assert texts_of(read(tmp_path)) == quoted == texts_of(read(tmp_path, Wanted(quoting="minimal")))
    assert texts_of(read(tmp_path, Wanted(quoting="none"))) == plain
    assert "warning: 2 of the rows looked at are quoted as RFC 4180 has it, 1 hold quotes that are not" in shown(
        tmp_path
    )
    (tmp_path / "a.tsv").rename(tmp_path / "a.csv")
    assert texts_of(read(tmp_path, Wanted(quoting="none", delimiter="tab"))) == plain
    assert "data.quoting=some" in script.refused("prepare", "data=local", "data.path=a.csv", "data.quoting=some")
    with pytest.raises(UserError, match=r"data.quoting=some must be minimal or none"):
        read(tmp_path, Wanted(quoting="some"))


def write_rows(path, rows: list) -> None:
    """A file of JSON lines, packed as its name says."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_lists_in_text_are_the_documents_of_another_columns_query(tmp_path):
    several = [[f"{answer} First.", f"{answer} Then."] for answer in ANSWERS]
    expected = [(question, text) for question, texts in zip(QUESTIONS, several, strict=True) for text in texts]
    for name in ("title", "question", "query"):
        rows = [{"id": f"x{n}", name: q, "text": d} for n, (q, d) in enumerate(zip(QUESTIONS, several, strict=True))]
        write_rows(tmp_path / "a.jsonl", rows)
        assert texts_of(read(tmp_path)) == expected, name
        assert f"query = {name}, document = text" in shown(tmp_path)
    write_rows(tmp_path / "a.jsonl", [{"text": texts, "id": f"x{n}"} for n, texts in enumerate(several)])
    assert texts_of(read(tmp_path)) == list(map(tuple, several))
    write_rows(tmp_path / "a.jsonl", [{"text": texts, "place": "by the sea"} for texts in several])
    with pytest.raises(UserError, match=r"query and document\? .*'text' are pairs by themselves only where no other"):
        read(tmp_path)


@pytest.mark.parametrize("odd", [{"text": ["one text", "another text"]}, {"set": ["one text", "another text"]}])
def test_a_row_of_another_shape_does_not_change_how_the_others_are_read(tmp_path, odd):
    rows = [{"question": question, "answer": answer} for question, answer in PAIRS]
    write_rows(tmp_path / "a.jsonl", [*rows[:20], odd, *rows[20:]])
    found = read(tmp_path)
    assert found.pop(20) == Rejected("missing query", 21) and texts_of(found) == PAIRS
    write_rows(tmp_path / "a.jsonl", [*({"query": query, "pos": document} for query, document in PAIRS), odd])
    assert texts_of(read(tmp_path)) == [*PAIRS, ("one text", "another text")]
    assert "a.jsonl): lists and sets of texts" in shown(tmp_path)
