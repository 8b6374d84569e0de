"""Users' files as the field's tools write them: pairs are found in all of them or asked for, never lost in silence."""

import csv
import gzip
import json
import random
import re
import shlex

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import shared_dir
from datasets import Dataset, DatasetDict
from own_files import read, texts_of

from gte.data.columns import Wanted
from gte.data.locate import locate
from gte.data.mining import read_corpus
from gte.data.own_files import infer_sources
from gte.data.own_tables import find_quoting
from gte.data.preview import describe, preview
from gte.data.records import Pair, Rejected
from gte.data.samples import later_lines
from gte.data.tables import table_rows
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
    pairs = [(f"q {n}", [f'"{document}', f'{document}"'][n % 2]) for n, document in enumerate(ANSWERS)]
    (tmp_path / "a.tsv").write_text("".join("\t".join(pair) + "\n" for pair in pairs))
    assert texts_of(read(tmp_path)) == pairs  # one begins with a quote, the next ends with one: yet two rows


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
    write_rows(tmp_path / "a.jsonl", [{"text": texts, "tags": ["sea", "to swim"], "lang": "en"} for texts in several])
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


LABELLED = {
    "ones first": [1] * 1500 + [0] * 1500, "zeros first": [0] * 1500 + [1] * 1500, "zeros in the middle":
    [1] * 1400 + [0] * 200 + [1] * 1400, "zeros last": [1] * 2900 + [0] * 100, "texts": ["yes"] * 1500 + ["no"] * 1500,
}  # fmt: skip
TEXTS = [(f"question {n} of many", f"answer {n} of many") for n in range(3000)]


def labelled(path, labels: list) -> None:
    save(pd.DataFrame(TEXTS, columns=["sentence1", "sentence2"]).assign(label=labels), path)


def save(frame: pd.DataFrame, path) -> None:
    """A frame as a file of the format that its name says."""
    suffix = path.name.partition(".")[2]
    if suffix == "parquet":
        frame.to_parquet(path, index=False, row_group_size=700)
    elif suffix.startswith(("csv", "tsv")):
        frame.to_csv(path, sep="\t" if suffix == "tsv" else ",", index=False)
    elif suffix == "json":
        path.write_text(json.dumps(frame.to_dict("records")))
    else:
        write_rows(path, frame.to_dict("records"))


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json", "csv", "csv.gz", "tsv", "parquet"])
@pytest.mark.parametrize("labels", LABELLED.values(), ids=LABELLED.keys())
def test_labels_that_change_behind_the_first_rows_are_asked_about(tmp_path, suffix, labels):
    labelled(tmp_path / f"a.{suffix}", labels)
    with pytest.raises(
        UserError, match=r"has the column 'label' .*which pairs belong together\? data.min_score=NUMBER"
    ):
        read(tmp_path)
    assert texts_of(read(tmp_path, Wanted(score=False))) == TEXTS


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_a_row_of_another_label_than_all_that_were_looked_at_is_filtered_and_counted(tmp_path, monkeypatch, suffix):
    labels = [1] * 3000
    labelled(tmp_path / f"a.{suffix}", labels)
    assert texts_of(read(tmp_path)) == TEXTS and "keep = label 1" in shown(tmp_path)
    (source,) = infer_sources(tmp_path)
    labels[2222] = 0
    labelled(tmp_path / f"a.{suffix}", labels)
    monkeypatch.setattr("gte.data.own_files.infer_columns", lambda *_: {
        key: getattr(source, key) for key in ("query", "document", "keep", "options", "columns")})  # fmt: skip
    found = read(tmp_path)
    assert texts_of([record for record in found if isinstance(record, Pair)]) == TEXTS[:2222] + TEXTS[2223:]
    (other,) = (record.reason for record in found if isinstance(record, Rejected))
    assert other == f"filtered: label is not {'1' if suffix != 'csv' else repr('1')}"


def test_labels_that_are_missing_or_no_number_filter_no_row(tmp_path):
    for label in (None, float("nan"), ["x"], {"x": 1}):
        write_rows(tmp_path / "a.jsonl", [{"query": q, "answer": d, "label": label} for q, d in PAIRS])
        assert texts_of(read(tmp_path)) == PAIRS, label
    write_rows(
        tmp_path / "a.jsonl",
        [{"question": q, "answer": d} | dict([("label", 1.0)] * (n % 2)) for n, (q, d) in enumerate(PAIRS)],
    )
    assert texts_of(read(tmp_path)) == PAIRS
    (tmp_path / "a.jsonl").unlink()
    columns = {"question": QUESTIONS, "answer": ANSWERS, "label": [float("nan")] * 40}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert texts_of(read(tmp_path)) == PAIRS
    (tmp_path / "a.parquet").unlink()
    lines = [f'{q},"{d}",{"" if n % 2 else 1}' for n, (q, d) in enumerate(PAIRS)]
    (tmp_path / "a.csv").write_text("\n".join(["question,answer,label", *lines]))
    assert texts_of(read(tmp_path)) == PAIRS


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json"])
@pytest.mark.parametrize("first", [1500, 2900])
def test_negatives_that_only_later_rows_have_are_found(tmp_path, suffix, first):
    rows = [{"question": q, "answer": d} | ({"negatives": [f"wrong {n}"]} if n >= first else {})
            for n, (q, d) in enumerate(TEXTS)]  # fmt: skip
    if suffix == "json":
        (tmp_path / "a.json").write_text(json.dumps(rows))
    else:
        write_rows(tmp_path / f"a.{suffix}", rows)
    expected = [(*pair, f"wrong {n}") if n >= first else pair for n, pair in enumerate(TEXTS)]
    assert texts_of(read(tmp_path)) == expected


@pytest.mark.parametrize("suffix", ["jsonl.gz", "json"])
def test_a_file_that_is_not_looked_at_to_its_end_says_so_unless_its_negatives_are_known(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("gte.data.samples.UNPACKED", 2**15)
    monkeypatch.setattr("gte.data.samples.ITEMS", 200)
    frame = pd.DataFrame(TEXTS, columns=["question", "answer"])
    save(frame, tmp_path / f"a.{suffix}")
    line = f"warning: no row behind its first {'1,200 items' if suffix == 'json' else '0 MiB'} was looked at: negatives"
    assert line in shown(tmp_path)
    save(frame.assign(negative="wrong"), tmp_path / f"a.{suffix}")
    assert "looked at" not in shown(tmp_path)
    save(frame[:1_100], tmp_path / f"a.{suffix}")
    assert "looked at" not in shown(tmp_path)


def test_the_places_that_are_looked_at_are_whole_lines_each_once_up_to_the_end(tmp_path):
    rng = random.Random(1)
    for count in (10, 1_000, 1_001, 1_033, 2_500, 60_000):
        lines = [b"%d " % n + b"x" * rng.randrange(60) + b"\n" for n in range(count)]
        for name in ("a.txt", "a.txt.gz"):
            (tmp_path / name).write_bytes(gzip.compress(b"".join(lines)) if name.endswith("gz") else b"".join(lines))
            found = [line for place in later_lines(tmp_path / name) for line in place]
            numbers = [int(line.split()[0]) for line in found]
            assert found == [lines[n] for n in numbers] and numbers == sorted(set(numbers))
            if count > 1_000:
                steps = np.diff([999, *numbers, count])
                assert numbers[0] == 1_000 and steps.max() <= max(100, (count - 1_000) / 16), (name, count)
            else:
                assert not found


SPELT = {
    "python": [str([f"{text} It isn't.", text]) for text in WRONG],
    "json": [json.dumps([text, text]) for text in WRONG],
    "numpy": [str(np.array([text, "x"])) for text in WRONG],
    "objects": [str([{"title": "t", "text": text}]) for text in WRONG],
    "some empty": [str([text]) if n % 2 else "[]" for n, text in enumerate(WRONG)],
}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("role", ["neg", "pos"])
@pytest.mark.parametrize("spelt", SPELT.values(), ids=SPELT.keys())
def test_lists_that_are_spelt_in_cells_are_refused_with_the_files_that_hold_them(tmp_path, spelt, role, suffix):
    frame = pd.DataFrame({"query": QUESTIONS, "pos": ANSWERS, "neg": WRONG}).assign(**{role: spelt})
    save(frame, tmp_path / f"a.{suffix}")
    with pytest.raises(
        UserError, match=rf"a.{suffix}: the cells of '{role}' are lists as text.* \.jsonl and \.parquet"
    ) as e:
        read(tmp_path)
    assert "\n" not in str(e.value)


def test_texts_in_brackets_are_texts(tmp_path):
    for texts in (
        [f"[{n}]" for n in range(40)], ["[see above]", "(a word, another)", "{x}", "[1, 2]"] * 10, ["[]", *WRONG[1:]],
        [f"['{text}']" if n < 20 else text for n, text in enumerate(WRONG)],
    ):  # fmt: skip
        save(pd.DataFrame({"query": QUESTIONS, "pos": [f"{n} {text}" for n, text in enumerate(WRONG)], "neg": texts}),
             tmp_path / "a.csv")  # fmt: skip
        assert [record.negatives for record in read(tmp_path)] == [[text] for text in texts]


def test_the_preview_shows_a_negative(tmp_path):
    negatives = [[text] if n > 7 else [] for n, text in enumerate(WRONG)]
    save(pd.DataFrame({"query": QUESTIONS, "pos": ANSWERS, "neg": negatives}), tmp_path / "a.jsonl")
    assert f"    negative: {WRONG[8]}" in shown(tmp_path).splitlines()
    save(pd.DataFrame({"query": QUESTIONS, "pos": ANSWERS}), tmp_path / "a.jsonl")
    assert "negative: " not in shown(tmp_path)


def test_folders_with_files_of_pairs_and_links_to_nothing_are_named(tmp_path, script):
    inner = tmp_path / "own/data/2020"
    inner.mkdir(parents=True)
    (tmp_path / "own/pictures").mkdir()
    (tmp_path / "own/pictures/a.png").write_bytes(b"x")
    (tmp_path / "own/.cache").mkdir()
    for folder in (inner, tmp_path / "own/.cache"):
        save(FRAME, folder / "a.parquet")
    line = script.refused("prepare", "data=local", "data.path=own", "dry_run=true")
    assert (
        "it holds data/ (a folder: data.path=own/data/2020)" in line and "pictures" not in line and ".cache" not in line
    )
    assert "it holds data/ (a folder: in=own/data/2020)" in script.refused("mine", "in=own")
    save(FRAME, tmp_path / "own/a.csv")
    (tmp_path / "own/b.jsonl").symlink_to(tmp_path / "gone")
    code, out, err = script("prepare", "data=local", "data.path=own", "dry_run=true")
    told = "not read: b.jsonl (a link to nothing), data/ (a folder: data.path=own/data/2020)"
    assert code == 0 and told in out, err
    code, out, err = script("mine", "in=own", "negatives=1", "fill=true")
    assert code == 0 and told.replace("data.path", "in") in out, err


@pytest.mark.parametrize("splits", [True, False], ids=["DatasetDict", "Dataset"])
def test_a_folder_of_save_to_disk_is_refused_with_the_program_that_makes_it_one_of_pairs(
    tmp_path, script, monkeypatch, splits
):
    monkeypatch.chdir(tmp_path)
    table = Dataset.from_pandas(FRAME)
    (DatasetDict({"train": table, "test": table.select([0])}) if splits else table).save_to_disk("it's saved")
    line = script.refused("prepare", "data=local", 'data.path="it\'s saved"', "dry_run=true")
    assert "it's saved is what save_to_disk of datasets wrote, which is not read; write it as parquet: mkdir" in line
    assert script.refused("mine", 'in="it\'s saved"') == line
    *_, program = shlex.split(line.partition("write it as parquet: ")[2])
    (tmp_path / "pairs").mkdir()
    exec(program)
    assert texts_of(read(tmp_path / "pairs")) == PAIRS


def test_files_named_for_evaluation_are_trained_on_with_a_line_that_leaves_them_out(tmp_path, script):
    names = ["train-00000-of-00001", "test-00000-of-00001", "validation", "faq_dev", "latest", "testimonials"]
    (tmp_path / "own").mkdir()
    for name in names:
        save(FRAME, tmp_path / "own" / f"{name}.parquet")
    code, out, err = script("prepare", "data=local", "data.path=own", "dry_run=true")
    (note,) = [line for line in out.splitlines() if "named as if for evaluation" in line]
    assert code == 0 and "for evaluation: faq_dev, test-00000-of-00001, validation; to leave them out: " in note, err
    (setting,) = shlex.split(note.partition("leave them out: ")[2])
    assert setting == "data.sources=[latest,testimonials,train-00000-of-00001]"
    code, out, err = script("prepare", "data=local", "data.path=own", setting, "dry_run=true")
    assert code == 0 and "train-00000-of-00001" in out and "faq_dev" not in out and "for evaluation" not in out, err
    for name in names:
        if name not in ("faq_dev", "validation"):
            (tmp_path / "own" / f"{name}.parquet").unlink()
    code, out, err = script("prepare", "data=local", "data.path=own", "dry_run=true")
    assert code == 0 and "for evaluation" not in out, err  # nothing else is there


def test_links_to_files_elsewhere_are_read_as_the_hubs_cache_has_them(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots/abc").mkdir(parents=True)
    write_rows(tmp_path / "blobs/1f", [{"query": query, "pos": document} for query, document in PAIRS])
    link = tmp_path / "snapshots/abc/train.jsonl"
    link.symlink_to("../../blobs/1f")
    assert texts_of(read(link.parent)) == PAIRS == texts_of(read(link))


def test_a_column_of_scores_that_no_file_has_is_refused_with_or_without_a_least_score(tmp_path, script):
    rows = [{"question": q, "answer": d, "quality": n} for n, (q, d) in enumerate(PAIRS)]
    write_rows(tmp_path / "a.jsonl", rows)
    line = (
        r"data.score=qualty: no file of .* has that column, did you mean quality\?; there are: question, answer, qual"
    )
    for least in (None, 0.5):
        with pytest.raises(UserError, match=line):
            infer_sources(tmp_path, Wanted(score="qualty", min_score=least))
    assert "score=qualty: no file of" in script.refused("mine", "in=a.jsonl", "score=qualty", "min_score=1")
    assert "columns.qery: neither a role" in script.refused("mine", "in=a.jsonl", "columns={qery: question}")
    write_rows(tmp_path / "b.jsonl", [{"question": q, "answer": d} for q, d in PAIRS])
    kept = infer_sources(tmp_path, Wanted(score="quality", min_score=30))  # of several files one may have it
    assert [source.score for source in kept] == ["quality", None]


@pytest.mark.parametrize("names", [("instruction", "input", "output"), ("instruction", "context", "response"),
                                   ("prompt", "input", "completion")])  # fmt: skip
def test_what_an_instruction_is_applied_to_is_asked_for(tmp_path, names):
    asked, given, answer = names
    rows = [{asked: "Translate.", given: q if n % 2 else "", answer: d} for n, (q, d) in enumerate(PAIRS)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=f"has the column '{given}' beside '{asked}' and '{answer}'; put it beh") as e:
        read(tmp_path)
    settings = re.findall(r"'data\.columns=(\{[^']*\})'", str(e.value))
    assert len(settings) == 2
    joined, alone = (read(tmp_path, Wanted(columns=yaml.safe_load(setting))) for setting in settings)
    assert texts_of(joined) == [(f"Translate.: {q}" if n % 2 else "Translate.", d) for n, (q, d) in enumerate(PAIRS)]
    assert texts_of(alone) == [("Translate.", d) for _, d in PAIRS]


def test_real_tables_between_tabs_are_quoted_or_not_as_their_rows_show():
    samples = shared_dir("data/raw_samples")
    path = samples / "arxiv_tsv/cs.GL.tsv"  # as pandas wrote it
    (quoting, note) = find_quoting(path, "tsv")
    with open(path, newline="", encoding="utf-8") as file:
        expected = list(csv.reader(file, delimiter="\t"))
    found = [cells for _, cells in table_rows(path, header=False, delimiter="\t", quoting=quoting)]
    assert note is None and found == expected and {len(cells) for cells in found} == {15}
    for name in ("mind_news/news.tsv", "glue/raw/mnli_1.0.0/MNLI/train.tsv", "glue/raw/qqp_1.0.0/QQP/train.tsv"):
        assert find_quoting(samples / name, "tsv") == ("none", None), name


def test_candidates_of_a_quoted_tsv_file_are_its_texts(tmp_path):
    frame = pd.DataFrame({"id": range(40), "text": QUOTED})
    for name in ("c.tsv", "c.csv"):
        save(frame, tmp_path / name)
        assert [text.document for text in read_corpus(tmp_path / name, "text").records] == QUOTED
