"""Formats of questions, tasks and code: what the texts of a row are, and what becomes of its other kinds of row."""

import ast
import gzip
import inspect
import json
import random
import textwrap
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import pairs_of, reasons_of, records_of, shared_dir

from gte.data import mixture, pairs, records, shards, tokens
from gte.data.readers import reader
from gte.data.records import Fields, Pair, Rejected, Triple
from gte.data.sources import Raw, Source, load_source

DPR = Fields("question", "positive_ctxs", "hard_negative_ctxs")


def write(path: Path, *rows) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def read(name: str, path: Path, fields: Fields = Fields(), **options) -> list:  # noqa: B008
    return list(reader(name)(path, fields, **options))


def passage(text: str, title: str = "") -> dict:
    return {"title": title, "text": text, "score": 3.5, "passage_id": "7"}


QUESTION = {
    "dataset": "x", "question": "q", "answers": ["a"], "positive_ctxs": [passage("d", "t"), passage("e")],
    "negative_ctxs": [passage("easy")], "hard_negative_ctxs": [passage("n", "u"), passage("", "no text")],
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 4])
def test_passages_are_read_alike_from_an_array_and_from_lines(tmp_path, indent):
    rows = [QUESTION, {**QUESTION, "question": "r", "hard_negative_ctxs": []}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent))
    found = read("passages", tmp_path / "a.json", DPR)
    first = [Triple("q", "t: d", ["u: n"], 1), Triple("q", "e", ["u: n"], 1)]
    assert found == [*first, Pair("r", "t: d", 2), Pair("r", "e", 2)]
    assert read("passages", write(tmp_path / "a.jsonl", *rows), DPR) == found
    assert read("passages", tmp_path / "a.json", DPR, positives=1) == [found[0], found[2]]
    assert read("passages", tmp_path / "a.json", Fields("question", "positive_ctxs")) == [
        Pair(pair.query, pair.document, pair.row) for pair in found
    ]


def test_questions_whose_passages_are_missing_empty_or_of_a_wrong_type_are_told_apart(tmp_path):
    changes = [
        ({"positive_ctxs": []}, "filtered: no positive passage"), ({"positive_ctxs": None}, "missing document"),
        ({"positive_ctxs": ["d"]}, "wrong type of positive_ctxs"), ({"positive_ctxs": [passage("")]}, "empty document"),
        ({"positive_ctxs": {}}, "wrong type of positive_ctxs"), ({"question": None}, "missing query"),
        ({"positive_ctxs": [passage(3)]}, "wrong type of document"),
        ({"hard_negative_ctxs": "n"}, "wrong type of hard_negative_ctxs"),
    ]  # fmt: skip
    path = write(tmp_path / "a.jsonl", *({**QUESTION, **change} for change, _ in changes), ["q"])
    reasons = [reason for _, reason in changes] + ["unknown shape of row"]
    assert read("passages", path, DPR) == [Rejected(reason, row) for row, reason in enumerate(reasons, 1)]


def test_a_great_array_is_read_a_row_at_a_time(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "a.json.gz"
    with gzip.open(path, "wt", compresslevel=1) as stream:
        for row in range(1_000):
            text = rng.randbytes(8_000).hex()
            item = {"query": ["i", f"q{row}", 0], "pos": ["i", text, 1], "neg": ["i", "n", 1], "task_name": "x"}
            stream.write(("[" if row == 0 else ",\n") + json.dumps(item, indent=1))
        stream.write("]")
    tracemalloc.start()
    count = sum(isinstance(record, Triple) for record in reader("medi")(path, Fields("query", "pos", "neg")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1_000 and peak < 4_000_000 < 1_000 * 16_000


def test_the_instructions_of_medi_are_dropped(tmp_path):
    fields = load_source("medi").fields
    row = {"query": ["i", "q", 0], "pos": ["i", "d", 1], "neg": ["i", "n", 1]}
    several = {"query": ["i", "q"], "pos": [["i", "d"]], "neg": [["i", "n"], ["i", "m"]]}
    faults = [
        ({"query": "q"}, "wrong type of query"), ({"query": ["i"]}, "wrong type of query"),
        ({"query": None}, "missing query"), ({"pos": []}, "missing document"), ({"pos": ["i", ""]}, "empty document"),
        ({"neg": ["i", 3]}, "wrong type of negatives"),
    ]  # fmt: skip
    found = read("medi", write(tmp_path / "a.jsonl", row, several, *({**row, **fault} for fault, _ in faults)), fields)
    assert found[:2] == [Triple("q", "d", ["n"], 1), Triple("q", "d", ["n", "m"], 2)]
    assert found[2:] == [Rejected(reason, row) for row, (_, reason) in enumerate(faults, 3)]


def test_supporting_paragraphs_are_positives_and_the_others_of_the_context_negatives(tmp_path):
    context = [["A", ["One.", " Two."]], ["B", ["No."]], ["C", ["Three."]], ["D", []], ["E", [" "]]]
    row = {"_id": "1", "question": "q", "supporting_facts": [["A", 1], ["C", 0], ["A", 0]], "context": context}
    fields = load_source("hotpotqa").fields
    rows = [row, {**row, "_id": "2", "supporting_facts": [["E", 0]]}, {**row, "_id": "3", "context": None}, row]
    assert read("hotpotqa", write(tmp_path / "a.jsonl", *rows), fields) == [
        Triple("q", "A: One. Two.", ["B: No."], 1), Triple("q", "C: Three.", ["B: No."], 1),
        Rejected("supporting paragraphs not in the context", 2), Rejected("unknown shape of row", 3),
        Rejected("duplicate id", 4),
    ]  # fmt: skip


def test_a_title_of_the_hubs_copy_without_its_sentences_is_no_paragraph(tmp_path):
    context = {"title": ["A", "B", "C"], "sentences": [["One."], ["No."]]}
    row = {"id": "1", "question": "q", "supporting_facts": {"title": ["A"], "sent_id": [0]}, "context": context}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    fields = replace(load_source("hotpotqa").fields, id="id")
    assert read("hotpotqa", tmp_path / "a.parquet", fields) == [Triple("q", "A: One.", ["B: No."], 1)]


LITERALS = [
    ("{'question': 'is it \\'good\\'?', 'answer': u\"it's\\n\"}", Pair("is it 'good'?", "it's", 1)),
    ("{'question': 'q', 'answer': __import__('os').getcwd()}", Rejected("invalid literal", 1)),
    ("{'question': 'q', 'answer': 'd'", Rejected("invalid literal", 1)),
    ("(" * 5_000, Rejected("invalid literal", 1)),
    ("-" * 100_000 + "1", Rejected("invalid literal", 1)),
    ("{[]: 1}", Rejected("invalid literal", 1)),
    ("{'question': 'q', 'answer': '\\d \\ud800'}", Rejected("invalid UTF-8", 1)),
    ("{'question': 'q', 'answer': '\0'}", Rejected("invalid literal", 1)),
    ("{'question': 'q', 'answer': 3}", Rejected("wrong type of document", 1)),
    ("{'question': 'q', 'answer': ('d',)}", Rejected("wrong type of document", 1)),
]


@pytest.mark.parametrize(("line", "expected"), LITERALS)
def test_a_python_literal_is_read_and_never_run(tmp_path, line, expected, recwarn):
    path = write(tmp_path / "a.json", line, "{'question': 'q', 'answer': 'd'}")
    assert read("python", path, Fields("question", "answer")) == [expected, Pair("q", "d", 2)]
    assert not recwarn.list


def functions() -> list[tuple[str, str, str]]:
    """(docstring, code with it, code without it) of our own functions; `ast` and `inspect` are the oracle."""
    found = []
    for module in (mixture, pairs, records, shards, tokens):
        for _, function in inspect.getmembers(module, inspect.isfunction):
            code = textwrap.dedent(inspect.getsource(function)) if function.__module__ == module.__name__ else ""
            node = ast.parse(code).body[0] if code else None
            if node and ast.get_docstring(node):
                lines, first = code.splitlines(), node.body[0]
                kept = lines[: first.lineno - 1] + lines[first.end_lineno :]
                found.append((ast.get_docstring(node, clean=False), code, "\n".join(kept)))
    return found


def test_the_docstring_is_taken_out_of_python_code_and_nothing_else(tmp_path):
    cases = functions()
    assert len(cases) > 30 and any("\n" in doc for doc, _, _ in cases)
    rows = [{"docstring": doc, "code": code, "language": "python"} for doc, code, _ in cases]
    found = read("codesearchnet", write(tmp_path / "a.jsonl", *rows), Fields("docstring", "code"))
    assert found == [Pair(doc.strip(), kept.strip(), row) for row, (doc, _, kept) in enumerate(cases, 1)]


CODE = [
    ("python", "Add one to it.", "def f(x):\n    'Add one to it.'\n    return x", "def f(x):\n    return x"),
    ("python", "Add.\n\nSlow.", 'def f():\n    r"""Add.\n\n    Slow.\n    """\n    print 1', "def f():\n    print 1"),
    ("python", "Add one to it.", 'def f(x): "Add one to it."', None),
    ("java", "Adds one to the number.", "int f(int x) { /* Adds one\n to the number. */ return x; }", None),
    ("java", "Gets x.", "int getX() { return x; }  // Gets x.", "int getX() { return x; }  // Gets x."),
    ("go", "// F adds one.\n//\n// Slowly.", "func F() {}", "func F() {}"),
    ("php", "Adds // one to it", "function f() {}", "function f() {}"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "docstring", "code", "expected"), CODE)
def test_no_pair_has_its_docstring_within_its_code(tmp_path, language, docstring, code, expected):
    path = write(tmp_path / "a.jsonl", {"docstring": docstring, "code": code, "language": language})
    (found,) = read("codesearchnet", path, Fields("docstring", "code"))
    if expected is None:
        assert found == Rejected("docstring within the code", 1)
    else:
        assert found.document == expected and found.query == docstring.replace("// F", "F").replace("//\n// ", "\n")


NLI = Source("n", "finetune", ("finetune",), "nli", query="premise", document="entailed", negatives="contradicting")


def test_entailed_sentences_meet_all_contradictions_of_their_premise_wherever_they_stand(tmp_path):
    """Oracle: a dictionary of premises over all rows of both files."""
    rng = random.Random(0)
    drawn = [(rng.choice(["entailment", "neutral", "contradiction", "-"]), rng.randrange(60)) for _ in range(400)]
    rows = [{"gold_label": label, "sentence1": f"p{p}", "sentence2": f"s{i}"} for i, (label, p) in enumerate(drawn)]
    first = write(tmp_path / "a.jsonl", *rows[:250])
    second = write(tmp_path / "b.jsonl.gz", *rows[250:], {"gold_label": "maybe", "sentence1": "p", "sentence2": "s"})
    found = records_of(NLI, first, second)
    by_label: dict[tuple, list[str]] = {}
    for row in rows:
        by_label.setdefault((row["sentence1"], row["gold_label"]), []).append(row["sentence2"])
    expected = {
        (premise, sentence, tuple(by_label[premise, "contradiction"]))
        for (premise, label), sentences in by_label.items()
        if label == "entailment" and (premise, "contradiction") in by_label
        for sentence in sentences
    }
    assert {(r.query, r.document, tuple(r.negatives)) for _, r in found if isinstance(r, Triple)} == expected
    assert not pairs_of(found) and expected
    counts = {reason: len(places) for reason, places in reasons_of(found).items()}
    labels = [row["gold_label"] for row in rows]
    assert counts["filtered: neutral"] == labels.count("neutral") and counts["filtered: no label"] == labels.count("-")
    assert reasons_of(found)["unknown label"] == [("b.jsonl.gz", 151)]
    assert counts["filtered: premise without a contradiction"] == labels.count("entailment") - len(expected)
    lonely = [n for (p, label), n in by_label.items() if label == "contradiction" and (p, "entailment") not in by_label]
    assert counts.get("filtered: premise without an entailment", 0) == sum(map(len, lonely))


FEVER = load_source("fever")


def claim(name: str, label: str, *pages) -> dict:
    return {"id": 1, "label": label, "claim": name, "evidence": [[[1, 2, page, 0] for page in pages]]}


def test_supported_claims_meet_their_pages_in_any_file(tmp_path):
    claims = [
        claim("c1", "SUPPORTS", "A_-LRB-film-RRB-", "B", "B"), claim("c2", "REFUTES", "B"),
        claim("c3", "NOT ENOUGH INFO", None), claim("c4", "SUPPORTS", "Nowhere"), claim("c5", "SUPPORTS"),
        claim("c6", "SUPPORTS", "Caf\u0065\u0301"), {"id": 1, "label": "SUPPORTS", "claim": "c7", "evidence": "B"},
        claim("c8", "PERHAPS", "B"), claim("c9", "SUPPORTS", "Empty"),
    ]  # fmt: skip
    first = [{"id": "", "text": "", "lines": ""}, {"id": "B", "text": "A page -COLON- of -LSB- text -RSB- . "}]
    second = [
        {"id": "A_-LRB-film-RRB-", "text": "A film . "}, {"id": "B", "text": "again"}, {"id": "Caf\u00e9", "text": "x"},
        {"id": "Empty", "text": " "}, {"id": "C", "text": None}, {"id": "Unused", "text": "x"},
    ]  # fmt: skip
    files = (("train.jsonl", claims), ("wiki-001.jsonl", first), ("wiki-002.jsonl.gz", second))
    found = records_of(FEVER, *(write(tmp_path / name, *rows) for name, rows in files))
    assert sorted(pairs_of(found)) == [
        Pair("c1", "A (film): A film .", 1), Pair("c1", "B: A page : of [ text ] .", 1), Pair("c6", "Caf\u00e9: x", 6),
    ]  # fmt: skip
    assert reasons_of(found) == {
        "filtered: label is REFUTES": [("train.jsonl", 2)], "filtered: label is NOT ENOUGH INFO": [("train.jsonl", 3)],
        "page not in the files": [("train.jsonl", 4)], "missing document": [("train.jsonl", 5)],
        "unknown shape of evidence": [("train.jsonl", 7)], "unknown label": [("train.jsonl", 8)],
        "empty document": [("train.jsonl", 9)], "filtered: empty page": [("wiki-001.jsonl", 1)],
        "duplicate id": [("wiki-002.jsonl.gz", 2)], "wrong type of document": [("wiki-002.jsonl.gz", 5)],
    }  # fmt: skip


CSN = "code_x_glue_tc_nl_code_search_adv/raw/default_0.0.0/python.zip/python/final/jsonl/train/python_train_0.jsonl.gz"
GO = "code_x_glue_ct_code_to_text/raw/go_0.0.0/go.zip/go/final/jsonl/train/go_train_0.jsonl.gz"
ORIGINAL = Fields("docstring", "code", keep={"partition": "train"})
SAMPLES = [
    ("hlp_dpr/dl_format.jsonl", "passages", DPR, {Pair: 1}),
    ("medi/medi_first_rows.json", "medi", Fields("query", "pos", "neg"), {Triple: 3}),
    ("amazon_qa_ucsd/qa_sample.json", "python", Fields("question", "answer"), {Pair: 1}),
    (
        "hotpot_qa/raw/distractor_1.0.0/hotpot_train_v1.1.json",
        "hotpotqa",
        Fields("question", "supporting"),
        {Rejected: 1},
    ),
    (CSN, "codesearchnet", ORIGINAL, {Pair: 3}),
    (GO, "codesearchnet", ORIGINAL, {Pair: 3}),
    ("mind_news/news.tsv", "tsv", load_source("mind").fields, {Pair: 7, Rejected: 1}),
    ("beir_corpus/anserini_segment1.jsonl", "jsonl", load_source("dbpedia").fields, {Pair: 2}),
    ("nq_open/raw/nq_open_2.0.0/NQ-open.train.jsonl", "jsonl", Fields("question", "answer"), {Pair: 5}),
]


@pytest.mark.parametrize(
    ("path", "name", "fields", "kinds"), SAMPLES, ids=lambda value: value if "/" in str(value) else ""
)
def test_real_files_give_these_kinds_of_records(path, name, fields, kinds):
    found = read(name, shared_dir("data/raw_samples") / path, fields)
    counted = {kind: sum(type(record) is kind for record in found) for kind in (Pair, Triple, Rejected)}
    assert {kind: count for kind, count in counted.items() if count} == kinds


def test_real_files_of_sources_that_join_or_filter_their_rows():
    samples = shared_dir("data/raw_samples")
    mnli = samples / "multi_nli/raw/0.0.0/multinli_1.0.zip/multinli_1.0"
    found = records_of(NLI, *(mnli / f"multinli_1.0_{part}.jsonl" for part in ("train", "dev_matched")))
    assert len(found) == 10 and {record.reason for _, record in found if isinstance(record, Rejected)} <= {
        "filtered: neutral", "filtered: premise without a contradiction", "filtered: premise without an entailment",
    }  # fmt: skip
    fever = samples / "fever/raw"
    pages = sorted((fever / "wiki_pages_1.0.0/wiki-pages").glob("wiki-*.jsonl"))
    assert reasons_of(records_of(FEVER, fever / "v1.0_1.0.0/train.jsonl", *pages)) == {
        "page not in the files": [("train.jsonl", 1)] * 2, "filtered: empty page": [("wiki-001.jsonl", 1)],
    }  # fmt: skip
    quora = next(Source(**{**vars(load_source("quora")), **form}) for form in load_source("quora").forms)
    path = samples / "quora/raw/0.0.0/quora_duplicate_questions.tsv"
    assert [type(record) for record in quora.read(Raw(path.name, path))] == [Pair, Rejected]
