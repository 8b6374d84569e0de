"""Files damaged at random and files made to be hard: rows and reasons, or one line; never a hang or a lost row."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from gte.data.locate import locate
from gte.data.own_files import infer_sources
from gte.data.readers import reader
from gte.data.records import Fields
from gte.data.rows import FATAL, part_row, raw_records
from gte.data.runs import PART
from gte.data.sources import Raw, Source
from gte.data.task_folder import FIELDS, Folder
from gte.errors import UserError
from gte.inference.passages import read_folder
from gte.inference.texts import read_texts

MEGABYTES = 300  # of memory for all of the files, of which none has more than 16 MB


def fuzz(folder: Path, examples: int, seed: int) -> None:
    """Reads so many damaged files of every raw form in another process, and those that are made to take long."""
    command = [sys.executable, ROOT / "tests" / "helpers" / "fuzz_readers.py", folder, examples, seed]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("src", "tests", "tests/helpers"))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"seed {seed}, {last}: {done.stderr[-8_000:]}"
    assert int(last) < MEGABYTES


def test_damaged_files_are_read_within_bounds_and_every_row_is_accounted_for(tmp_path):
    fuzz(tmp_path, 3, 0)


@pytest.mark.slow
def test_more_damaged_files_of_another_kind_each_time(tmp_path):
    fuzz(tmp_path, 400, random.SystemRandom().randrange(2**32))


DEEP, HUGE, HALF = b"[" * 5_000, b"9" * 5_000, b'"\\ud800"'
HOTPOT, ID = Fields("question", "supporting"), Fields(id="id")
CONTEXT = b'[{"question": "q", "supporting_facts": [["t", 0]], "context": [[%b, ["d"]]]}]'
FOUND: dict[str, tuple[str, bytes, Fields, list[str]]] = {  # what a reader once failed on, and what it tells of it now
    "a title that is a list": ("hotpotqa", CONTEXT % b"[1]", HOTPOT, ["unknown shape of row"]),
    "a title that is a number": ("hotpotqa", CONTEXT % b"1", HOTPOT, ["unknown shape of row"]),
    "an id of 20,000 bits": (
        "python", b"{'query': 'q', 'pos': 'd', 'id': 0x" + b"f" * 5_000 + b"}\n", ID, ["wrong type of id"],
    ),
    "an id that is a list": ("jsonl", b'{"query": "q", "pos": "d", "id": [1]}\n', ID, ["wrong type of id"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_a_reader_once_failed_on_is_one_rejection(tmp_path, name):
    form, data, fields, reasons = FOUND[name]
    (tmp_path / "raw").write_bytes(data)
    assert [record.reason for record in reader(form)(tmp_path / "raw", fields)] == reasons


def test_a_header_that_is_no_utf_8_arrives_as_one_line_through_the_engine(tmp_path):
    (tmp_path / "a.csv").write_bytes("fråga,svar\nq,d\n".encode("latin-1"))
    source = Source("a", "local", ("pretrain",), "csv", query="q", document="d", files="a.csv")
    ((file, record),) = raw_records(source, Raw("a.csv", tmp_path / "a.csv"))
    assert record.reason.startswith(FATAL) and r"it has: fr\udce5ga, svar" in record.reason
    for cell, kind in zip(part_row(file, record, 1)[1], PART, strict=True):
        pa.array([cell], kind.type)


def test_a_file_name_that_is_no_utf_8_is_one_line(tmp_path):
    (tmp_path / "s").mkdir()
    Path(os.fsdecode(bytes(tmp_path / "s") + b"/\xff.jsonl")).write_text('["q", "d"]\n')
    with pytest.raises(UserError, match=r"udcff\.jsonl'\) is no UTF-8; rename the file"):
        locate(Source("s", "web", ("pretrain",), "jsonl", files="*.jsonl"), tmp_path)


def texts_of(name: str, **options) -> Callable[[Path, bytes], list]:
    def read(folder: Path, data: bytes) -> list:
        (folder / name).write_bytes(data)
        return [text.reason for text in read_texts(str(folder / name), **options)]

    return read


def rows_of(kind: str) -> Callable[[Path, bytes], list]:
    def read(folder: Path, data: bytes) -> list:
        (folder / "test.jsonl").write_bytes(data)
        return Folder(folder).rows(folder / "test.jsonl", FIELDS[kind])

    return read


def qrels(folder: Path, data: bytes) -> dict:
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_bytes(data)
    return Folder(folder).qrels("test")


def inferred(folder: Path, data: bytes) -> list[Source]:
    (folder / "a.jsonl").write_bytes(data)
    return infer_sources(folder)


def passages(folder: Path, data: bytes) -> list[str]:
    (folder / "a.jsonl").write_bytes(data)
    return [passage.text for passage in read_folder(folder, 10_000)[0]]


STS = b'{"sentence1": %b, "sentence2": "b", "score": %b}\n'
OTHERS = [  # what else reads a user's files -> what it tells: a result, or the line that it is refused with
    (inferred, DEEP, "is one JSON array, .jsonl files hold a value a line"),
    (texts_of("a.jsonl"), b'{"text": "a"}\n' + HUGE + b"\n" + DEEP, ["", "no JSON object", "no JSON object"]),
    (texts_of("a.jsonl", id_field="i"), b'{"text": "a", "i": ' + HALF + b"}", ["invalid UTF-8"]),
    (rows_of("STS"), HUGE, r"test\.jsonl:1: invalid JSON \(Exceeds the limit"),
    (rows_of("STS"), DEEP, r"test\.jsonl:1: invalid JSON \(maximum recursion depth"),
    (rows_of("STS"), STS % (b'"a"', b"NaN"), "field 'score' must be a number, got NaN"),
    (rows_of("STS"), STS % (b'"a"', b"1e999"), "field 'score' must be a number, got Infinity"),
    (rows_of("STS"), STS % (HALF, b"1"), "field 'sentence1' must be a text"),
    (qrels, b"a\tb\t1e999\n", r"test\.tsv:1: .*whole number"),
    (passages, DEEP, [DEEP.decode()]),
    (passages, b'{"a": ' + HALF + b"}", ["?"]),
]


@pytest.mark.parametrize(("read", "data", "told"), OTHERS, ids=map(str, range(len(OTHERS))))
def test_what_reads_other_files_of_a_user_does_not_fail_on_hard_ones_either(tmp_path, read, data, told):
    if isinstance(told, list):
        assert read(tmp_path, data) == told
    else:
        with pytest.raises(UserError, match=told) as error:
            read(tmp_path, data)
        assert "\n" not in str(error.value)


def test_a_parquet_file_damaged_part_way_gives_its_first_texts_and_says_so(tmp_path):
    pq.write_table(
        pa.table({"text": [f"text {n}" for n in range(6_000)]}), tmp_path / "a.parquet", row_group_size=2_048
    )
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    third = pq.read_metadata(tmp_path / "a.parquet").row_group(2).column(0).data_page_offset
    data[third : third + 200] = bytes(200)
    (tmp_path / "a.parquet").write_bytes(data)
    *whole, last = read_texts(str(tmp_path / "a.parquet"))
    assert [text.text for text in whole] == [f"text {n}" for n in range(len(whole))]
    assert 4_096 <= len(whole) < 6_000 and (last.text, last.reason, last.row) == (None, "damaged file", len(whole) + 1)
