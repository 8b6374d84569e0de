"""Prepare: from messy raw files to a prepared folder that is exact, complete or absent, and the same every time."""

import gzip
import importlib.util
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spans import most_at_a_time, span_of_sleep

from gte.cores import allowed_cores
from gte.data import lineage, made_by, runs, tasks
from gte.data import pairs as engine
from gte.data.engine import run_tasks
from gte.data.module import PairData
from gte.data.own_files import infer_sources
from gte.data.pairs import is_handed_on, use_engine
from gte.data.prepare import prepare
from gte.data.recipe import Recipe, Triples, fetch
from gte.data.records import pair_hash, text_hash
from gte.data.shards import Manifest, TokenTable
from gte.data.sources import Raw, Source
from gte.data.tokenizer import load_tokenizer
from gte.data.workers import Workers
from gte.errors import UserError
from gte.stage import Stage

ROOT = Path(__file__).parents[2]
WORDS = [
    "model",
    "text",
    "pair",
    "query",
    "graph",
    "token",
    "loss",
    "batch",
    "vector",
    "search",
    "space",
    "rank",
    "code",
]
BAD = {
    '{"query": "q"}': "missing document",
    '{"query": "", "pos": "d"}': "empty query",
    "no json": "invalid JSON",
    '{"query": 1, "pos": "d"}': "wrong type of query",
    '{"query": "q", "pos": "\\ud800"}': "invalid UTF-8",
}


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def make_rows(rng: random.Random, count: int, bad: float = 0.05) -> list[str]:
    """JSON lines of which some are bad and many are equal: texts of two words repeat."""
    lines = []
    for _ in range(count):
        pair = {"query": sentence(rng, 2), "pos": sentence(rng, rng.choice([1, 1, 12]))}
        lines.append(rng.choice(list(BAD)) if rng.random() < bad else json.dumps(pair))
    return lines


def make_raw(folder: Path, seed: int = 0) -> list[Source]:
    """Two sources, one of three files with equal pairs across them, one of triples."""
    rng = random.Random(seed)
    (folder / "words").mkdir(parents=True)
    (folder / "triples").mkdir()
    for name in ("b", "a", "c"):
        text = "\n".join(make_rows(rng, 700))
        (folder / "words" / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    triples = [
        {"query": sentence(rng, 3), "pos": sentence(rng, 8), "neg": [sentence(rng, 9)] * (i % 3)} for i in range(300)
    ]
    (folder / "triples" / "t.jsonl").write_text("\n".join(map(json.dumps, triples)))
    return [
        Source("words", "web", ("pretrain",), "jsonl", files="*.jsonl.gz", licence="CC0"),
        Source("triples", "web", ("pretrain", "finetune"), "jsonl", files="t.jsonl"),
    ]


def recipe_of(raw: Path, sources: list[Source], **settings) -> Recipe:
    return Recipe("test", sources, raw, **{"vocab_size": 300, "max_tokens": 16, **settings})


def silent(line: str) -> None:
    """No report."""


def read_pairs(out: Path, source: str) -> list[dict]:
    return pq.read_table(out / "pairs" / f"{source}.parquet").to_pylist()


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a prepared folder; the manifest without its time and command, and its checksum over them."""
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    manifest = json.loads(files["manifest.json"])
    del manifest["created"], manifest["command"], manifest["checksum"]
    files["manifest.json"] = json.dumps(manifest).encode()
    return files


def raw_lines(raw: Path) -> list[tuple[str, int, str]]:
    """(file, row, line) of the source words."""
    return [
        (path.name, row, line)
        for path in sorted((raw / "words").iterdir())
        for row, line in enumerate(gzip.decompress(path.read_bytes()).decode().splitlines(), 1)
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path, Recipe]:
    """(raw, out, recipe) of a preparation nobody disturbed."""
    folder = tmp_path_factory.mktemp("prepared")
    recipe = recipe_of(folder / "raw", make_raw(folder / "raw"))
    prepare(recipe, folder / "out", report=silent)
    return folder / "raw", folder / "out", recipe


def test_pairs_are_the_set_that_a_python_set_finds_and_the_lowest_row_survives(prepared):
    raw, out, _ = prepared
    oracle, duplicates, rejected = {}, 0, 0
    for file, row, line in raw_lines(raw):
        if line in BAD:
            rejected += 1
            continue
        value = json.loads(line)
        key = (value["query"], value["pos"])
        duplicates += key in oracle
        oracle.setdefault(key, (file, row))
    assert duplicates > 50 and rejected > 50
    assert {file for file, _ in oracle.values()} == {"a.jsonl.gz", "b.jsonl.gz", "c.jsonl.gz"}
    found = read_pairs(out, "words")
    assert {(row["query"], row["document"]): (row["file"], row["row"]) for row in found} == oracle
    assert len(found) == len(oracle)
    facts = Manifest.load(out).sources["words"]
    assert (facts["read"], facts["kept"], facts["duplicates"]) == (2_100, len(oracle), duplicates)
    assert sum(facts["rejected"].values()) == rejected


def test_rows_stand_in_hash_order_which_mixes_the_files(prepared):
    _, out, _ = prepared
    for source in ("words", "triples"):
        hashes = [pair_hash(row["query"], row["document"]) for row in read_pairs(out, source)]
        assert len(hashes) > 200 and hashes == sorted(hashes)
    assert len({row["file"] for row in read_pairs(out, "words")[:20]}) > 1


def test_the_texts_and_their_order_do_not_depend_on_files_and_rows(prepared, tmp_path):
    raw, out, recipe = prepared
    lines = [line for _, _, line in raw_lines(raw)]
    random.Random(7).shuffle(lines)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "one.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    prepare(replace(recipe, raw=tmp_path, sources=recipe.sources[:1]), tmp_path / "out", report=silent)
    texts = [(row["query"], row["document"]) for row in read_pairs(tmp_path / "out", "words")]
    assert texts == [(row["query"], row["document"]) for row in read_pairs(out, "words")]


@pytest.mark.parametrize("across", [False, True])
def test_the_number_of_buckets_and_what_they_come_in_change_nothing(prepared, tmp_path, monkeypatch, across):
    _, _, recipe = prepared
    monkeypatch.setattr(engine, "GROUP_ROWS", 600)
    recipe = replace(
        recipe, dedup_across=across, sources=[*recipe.sources, replace(recipe.sources[0], name="again", folder="words")]
    )
    prepare(recipe, tmp_path / "one", report=silent)
    calls = []
    read_buckets = engine.read_buckets

    def counted(folder, buckets):
        calls.append(list(buckets))
        return read_buckets(folder, buckets)

    groups = pq.ParquetFile(tmp_path / "one" / "pairs" / "words.parquet").num_row_groups
    monkeypatch.setattr(engine, "BUCKET_BYTES", 2_000)
    for name, value in {"RUN_BYTES": 500, "BUCKET_RUN_BYTES": 100, "BATCH_ROWS": 7}.items():
        monkeypatch.setattr(runs, name, value)
    monkeypatch.setattr(engine, "read_buckets", counted)
    prepare(recipe, tmp_path / "many", report=silent)
    assert sum(map(len, calls)) > 30 and contents(tmp_path / "one") == contents(tmp_path / "many")
    assert groups == 4 < len(calls)
    assert (Manifest.load(tmp_path / "one").sources["again"]["kept"] == 0) == across


def test_rejections_are_counted_by_reason_with_examples_that_are_there(prepared):
    raw, out, _ = prepared
    facts = Manifest.load(out).sources["words"]
    expected = Counter(BAD[line] for _, _, line in raw_lines(raw) if line in BAD)
    assert facts["rejected"] == expected and len(expected) == len(BAD)
    lines = {(file, row): line for file, row, line in raw_lines(raw)}
    for example in facts["examples"]:
        assert BAD[lines[example["file"], example["row"]]] == example["reason"]
    assert Counter(example["reason"] for example in facts["examples"]) == dict.fromkeys(expected, 3)


@pytest.mark.parametrize("seed", range(3))
def test_rows_read_are_kept_duplicate_or_rejected_and_none_else(tmp_path, seed):
    rng = random.Random(seed)
    (tmp_path / "raw").mkdir()
    total = 0
    for number in range(4):
        lines = make_rows(rng, rng.randrange(1, 400), bad=rng.random() * 0.4)
        total += len(lines)
        (tmp_path / "raw" / f"s{number}.jsonl").write_text("\n".join(lines))
    (tmp_path / "raw" / "cut.jsonl.gz").write_bytes(gzip.compress("\n".join(make_rows(rng, 5_000, 0)).encode())[:9_000])
    recipe = recipe_of(tmp_path / "raw", infer_sources(tmp_path / "raw"), max_rejected=0.9)
    said: list[str] = []
    manifest = prepare(recipe, tmp_path / "out", report=said.append)
    row = manifest.sources["cut"]["examples"][0]["row"]
    assert f"note: cut: cut.jsonl.gz breaks off behind row {row:,} (damaged archive); what follows" in said[-1]
    assert said[-1].count("breaks off") == 1 and "force=true" in said[-1]
    for name, facts in manifest.sources.items():
        assert facts["read"] == facts["kept"] + facts["duplicates"] + sum(facts["rejected"].values())
        assert (
            facts["kept"] == len(read_pairs(tmp_path / "out", name)) == sum(shard["rows"] for shard in facts["shards"])
        )
    assert manifest.sources["cut"]["rejected"] == {"damaged archive": 1} and manifest.sources["cut"]["kept"] > 500
    assert sum(manifest.sources[f"s{number}"]["read"] for number in range(4)) == total


def test_across_sources_the_first_one_keeps_the_pair(tmp_path):
    rng = random.Random(3)
    sets = [[[sentence(rng, 1), sentence(rng, 1)] for _ in range(300)] for _ in range(3)]
    for name, pairs in zip("abc", sets, strict=True):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    recipe = recipe_of(tmp_path, infer_sources(tmp_path), dedup_across=True)
    manifest = prepare(recipe, tmp_path / "out", report=silent)
    seen: set[tuple] = set()
    for name, pairs in zip("abc", sets, strict=True):
        fresh = set(map(tuple, pairs)) - seen
        assert {(row["query"], row["document"]) for row in read_pairs(tmp_path / "out", name)} == fresh
        assert manifest.sources[name]["duplicates"] == 300 - len(fresh)
        seen |= fresh
    assert 0 < manifest.sources["c"]["kept"] < len(set(map(tuple, sets[2])))
    alone = prepare(replace(recipe, dedup_across=False), tmp_path / "alone", report=silent)
    assert alone.sources["c"]["kept"] == len(set(map(tuple, sets[2])))


def test_shards_hold_the_tokens_of_the_pairs_row_by_row(prepared):
    _, out, _ = prepared
    manifest, tokenizer = Manifest.load(out), load_tokenizer(out / "tokenizer")
    for source in ("words", "triples"):
        table, rows = TokenTable(out, manifest, source), read_pairs(out, source)
        for column in ("query", "document"):
            flat, lengths = table.gather(column, list(range(len(rows))))
            wanted = [tokenizer(row[column], add_special_tokens=False)["input_ids"][:16] for row in rows]
            assert flat.tolist() == [token for ids in wanted for token in ids] and lengths.tolist() == list(
                map(len, wanted)
            )
            hashes = table.hashes(column, list(range(len(rows)))).tolist()
            assert hashes == [text_hash(row[column]) for row in rows]
    flat, lengths, counts = table.gather_negatives(list(range(len(rows))))
    assert manifest.sources["triples"]["negatives"] and not manifest.sources["words"]["negatives"]
    assert counts.tolist() == [len(row["negatives"] or []) for row in rows] and set(counts.tolist()) == {0, 1, 2}
    negatives = [text for row in rows for text in row["negatives"] or []]
    wanted = [tokenizer(text, add_special_tokens=False)["input_ids"][:16] for text in negatives]
    assert flat.tolist() == [token for ids in wanted for token in ids] and lengths.tolist() == list(map(len, wanted))


def test_texts_that_are_cut_are_counted_and_a_stage_that_would_read_further_says_so(prepared, tmp_path):
    _, out, recipe = prepared
    said: list[str] = []
    prepare(replace(recipe, max_tokens=4, tokenizer=str(out / "tokenizer")), tmp_path / "short", report=said.append)
    tokenizer = load_tokenizer(out / "tokenizer")
    texts = [
        row[key] for name in ("words", "triples") for row in read_pairs(out, name) for key in ("query", "document")
    ]
    cut = sum(len(ids) >= 4 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    assert 0 < cut < len(texts)
    line = f"{cut:,} of {len(texts):,} texts have data.max_tokens=4 or more: what is beyond was cut"
    assert said.count(line) == 1
    for length, noted in ((6, False), (7, True)):
        stage = Stage("pretrain", length, 8, 2, None, 1, 1.0, None, 512, 0.0)
        line = PairData(tmp_path / "short", stage, alpha=0.5, seed=0).describe()
        assert (", of texts that data.max_tokens=4 cut when they were prepared" in line) == noted


def test_the_manifest_states_the_tokenizer_and_the_sources(prepared):
    _, out, _ = prepared
    manifest = Manifest.load(out)
    facts = manifest.tokenizer
    assert (facts["prefix"], facts["suffix"], facts["pad"], facts["dtype"]) == ([2], [3], 0, "uint16")
    assert facts["vocab_size"] == len(load_tokenizer(out / "tokenizer")) <= 300 and facts["max_tokens"] == 16
    assert manifest.sources["words"]["stages"] == ["pretrain"] and manifest.sources["words"]["licence"] == "CC0"
    assert manifest.stage("finetune") == {"triples": 300}
    assert set(manifest.stage("pretrain")) == {"words", "triples"}
    manifest.verify(out)


def test_two_preparations_write_equal_bytes(prepared, tmp_path):
    _, out, recipe = prepared
    prepare(recipe, tmp_path / "again", report=silent)
    first, second = contents(out), contents(tmp_path / "again")
    assert len(first) > 6 and first == second


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from gte.data.recipe import Recipe
from gte.data.prepare import prepare
from gte.data.own_files import infer_sources
from gte.errors import UserError

raw, out, force, setup = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True", sys.argv[4]
exec(setup)
try:
    prepare(Recipe("test", infer_sources(raw), raw, vocab_size=300), out, force=force)
except UserError as error:
    sys.exit(str(error))
"""


def another_process(raw: Path, out: Path, force: bool = False, setup: str = "") -> subprocess.Popen:
    """Prepares in a process of its own, after the Python statements of `setup`."""
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(raw), str(out), str(force), setup]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[Path, Recipe]:
    """(out, recipe) of two sources, prepared in this process; one is of four row groups, each a range of its own."""
    folder, rng = tmp_path_factory.mktemp("long"), random.Random(8)
    (folder / "raw").mkdir()
    rows = [json.dumps([f"{number} {sentence(rng, 2)}", sentence(rng, 3)]) for number in range(40_000)]
    (folder / "raw" / "long.jsonl").write_text("\n".join(rows))
    (folder / "raw" / "short.jsonl").write_text("\n".join(rows[:5_000:5]))
    recipe = Recipe("test", infer_sources(folder / "raw"), folder / "raw", vocab_size=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "RANGE_BYTES", 1)
        prepare(recipe, folder / "out", workers=1, report=silent)
    return folder / "out", recipe


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes_and_tells_the_same(long, tmp_path, monkeypatch, workers):
    undisturbed, recipe = long
    monkeypatch.setattr(tasks, "RANGE_BYTES", 1)
    said = []
    prepare(recipe, tmp_path / "out", workers=workers, report=said.append)
    assert contents(tmp_path / "out") == contents(undisturbed)
    assert [len(facts["shards"]) for facts in Manifest.load(undisturbed).sources.values()] == [4, 1]
    told = [line.split()[0] for line in said if " read " in line and not line.startswith("\n")]
    assert told == ["long", "short"] and any(f"on {workers} workers" in line for line in said)


def test_one_source_that_fails_is_named_at_once_and_the_others_are_kept(long, tmp_path):
    _, recipe = long
    shutil.copytree(recipe.raw, tmp_path / "raw")
    for name in ("bad", "worse"):
        (tmp_path / "raw" / f"{name}.jsonl").write_text('["q", "d"]\n' + "no json\n" * 5)
    broken = Recipe("test", infer_sources(tmp_path / "raw"), tmp_path / "raw", vocab_size=300)
    for workers in (1, 2):
        said = []
        with pytest.raises(UserError, match=r"source bad: 5 of 6 rows are rejected.*; nor could worse be made$"):
            prepare(broken, tmp_path / "out", workers=workers, report=said.append)
        assert sum("failed: source" in line for line in said) == 2
        assert [line.split()[0] for line in said if " kept " in line and " read " in line] == ["long", "short"]
    assert sum("made before" in line for line in said) == 2
    prepare(replace(broken, max_rejected=0.9), tmp_path / "out", report=silent)


def test_a_number_of_workers_of_no_sense_is_refused(long, tmp_path):
    for workers in (0, "two", 1.5, True):
        with pytest.raises(UserError, match=f"workers={workers} must be a whole number of at least 1"):
            prepare(long[1], tmp_path / "out", workers=workers, report=silent)


WORKING = """
import sys
from pathlib import Path
from gte.data import tasks
from gte.data.recipe import Recipe
from gte.data.prepare import prepare
from gte.data.own_files import infer_sources

tasks.RANGE_BYTES = 1
raw, out = Path(sys.argv[1]), Path(sys.argv[2])
prepare(Recipe("test", infer_sources(raw), raw, vocab_size=300), out, workers=2)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(process: subprocess.Popen) -> list[int]:
    """The workers of a preparation under way, each a child of the thread that asks it."""
    found = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):  # of a thread that has ended meanwhile
            found += [int(child) for child in task.read_text().split()]
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_asked_and_a_rerun_completes(long, tmp_path, monkeypatch, number):
    undisturbed, recipe = long
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", WORKING, str(recipe.raw), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    parts = (tmp_path / ".out.building" / "work").glob
    while process.poll() is None and not (any(parts("*/parts")) and len(workers_of(process)) == 2):
        time.sleep(0.005)
    time.sleep(random.SystemRandom().random() * 0.3)
    workers = workers_of(process)
    assert len(workers) == 2, process.poll()
    process.send_signal(number)
    process.communicate(timeout=600)
    limit = time.monotonic() + 120
    while any(map(is_alive, workers)) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not any(map(is_alive, workers)) and process.returncode != 0
    monkeypatch.setattr(tasks, "RANGE_BYTES", 1)
    prepare(recipe, tmp_path / "out", workers=2, report=silent)
    assert contents(tmp_path / "out") == contents(undisturbed)


def test_a_worker_that_is_killed_is_one_line_and_the_others_work_on(tmp_path):
    with Workers(2) as workers:
        calls = [partial(workers.run, signal.raise_signal, signal.SIGKILL), partial(workers.run, text_hash, "text")]
        killed, number = workers.each(calls, [1, 1])
        assert isinstance(killed, UserError) and number == text_hash("text")
        assert "a worker process was killed by SIGKILL; where memory is short, workers=1" in str(killed)
        with pytest.raises(AttributeError, match="has no attribute 'encode'") as error:
            workers.run(text_hash, 1)
        assert "in text_hash" in error.value.__notes__[0]
        assert workers.run(text_hash, "text") == number


def test_tasks_of_all_workers_together_are_as_many_at_a_time_as_there_are_workers():
    sleeps = [partial(span_of_sleep, 0.2)] * 6
    with Workers(2) as workers:
        calls = [partial(workers.run, run_tasks, name, sleeps) for name in ("one", "other")]
        spans = [span for done in workers.each(calls, [1, 1]) for span in done]
        assert len(spans) == 12 and most_at_a_time(spans) <= 2
        alone = workers.run(run_tasks, "alone", [partial(span_of_sleep, 2)] * 2)
        assert most_at_a_time(alone) == min(2, allowed_cores())  # one that works alone has the slots of all
        assert len(list(Path(workers.slots).iterdir())) == 2
    assert not Path(workers.slots).exists()


def test_a_damaged_pairs_file_is_named_where_shards_are_made_of_it(tmp_path):
    table = pa.table({"query": [f"{n} some query" for n in range(2_000)], "document": ["text"] * 2_000})
    pq.write_table(table, tmp_path / "a.parquet", write_page_checksum=True, compression="none")
    whole = (tmp_path / "a.parquet").read_bytes()
    assert sum(batch.num_rows for batch in tasks.pair_batches(tmp_path / "a.parquet", 700)) == 2_000
    place = whole.index(b"1234 some query")
    (tmp_path / "a.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(UserError, match=r"a\.parquet is damaged .*delete it and prepare again"):
        list(tasks.pair_batches(tmp_path / "a.parquet", 700))


def test_a_complete_folder_of_other_code_is_told_kept_and_usable(prepared, tmp_path, monkeypatch):
    _, done, recipe = prepared
    out = tmp_path / "out"
    shutil.copytree(done, out)

    def told(expected: str) -> None:
        said = []
        assert prepare(recipe, out, report=said.append) == Manifest.load(out)
        (line,) = said
        assert expected in line and "force=true" in line, line

    told("up to date: nothing to do")
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src" / "gte", source / "gte", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(lineage, "SRC", source)
    told("up to date: nothing to do")
    for file in ("demo/corpus.py", "data/collate.py"):
        (source / "gte" / file).write_text("other = 1")
    lineage.read_module.cache_clear()
    told("up to date: nothing to do")
    readers = source / "gte" / "data" / "raw_lines.py"
    readers.write_text(readers.read_text().replace("MAX_LINE = 16", "MAX_LINE = 8"))
    lineage.read_module.cache_clear()
    told("was made by other code (raw_lines): kept as it is, fit for training")
    manifest = Manifest.load(out)
    manifest.versions["pyarrow"], manifest.code = "1.0", made_by.recipe_code(recipe)
    manifest.save(out)
    told(f"was made by other code (pyarrow 1.0, now {pa.__version__}): kept")
    manifest.code = {}
    manifest.save(out)
    told("older than the record of the code")
    assert PairData(out, Stage("finetune", 6, 8, 2, None, 1, 1.0, None, 512, 0.0), alpha=0.5, seed=0).tables
    lineage.read_module.cache_clear()


def test_a_ray_cluster_writes_the_bytes_that_native_writes_wherever_it_reads(prepared, tmp_path):
    """In this process's place and, as large sources are, spread over the cluster."""
    pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
    _, _, recipe = prepared
    again = replace(recipe.sources[0], name="again", folder="words", files="[ab].jsonl.gz")
    for across in (False, True):
        changed = replace(recipe, dedup_across=across, sources=[*recipe.sources, again], max_rejected=0.2)
        prepare(changed, tmp_path / f"native {across}", report=silent)
        (tmp_path / f"{across}.pickle").write_bytes(pickle.dumps(changed))
    program = """
import pickle, sys
from pathlib import Path
import ray
from gte.data import pairs, steps
from gte.data.prepare import prepare

folder = Path(sys.argv[1])
pairs.BUCKET_BYTES = 60_000
for across in (False, True):
    steps.CLUSTER_BYTES = -1 if across else steps.CLUSTER_BYTES
    recipe = pickle.loads((folder / f"{across}.pickle").read_bytes())
    prepare(recipe, folder / f"ray {across}", engine="ray", workers=2)
    print("on", len(ray.nodes()), "node, runner", pairs.daft.get_or_infer_runner_type())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on 1 node, runner ray") == 2 and "rejected" in done.stdout
    for across in (False, True):
        assert contents(tmp_path / f"ray {across}") == contents(tmp_path / f"native {across}")


def test_the_script_on_ray_writes_the_bytes_that_native_writes_and_tells_the_seconds(tmp_path, monkeypatch):
    """Its processes find the code by the script's folder, the test before by an environment of their own."""
    pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (tmp_path / "mine").mkdir()
    for name in "ab":
        (tmp_path / "mine" / f"{name}.jsonl").write_text("\n".join(make_rows(random.Random(name), 300)))
    settings = ["data=local", "data.path=mine", "data.vocab_size=300"]
    for name in ("native", "ray"):
        done = run_script("prepare.py", *settings, f"data.dir={name}", f"engine={name}", "workers=2", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^pairs: 600 rows, [\d.]+ s, [\d,]+ rows/s on 2 workers$", done.stdout, re.M), done.stdout
    assert re.search(r"^ray: ready, [\d.]+ s$", done.stdout, re.M)
    assert contents(tmp_path / "ray") == contents(tmp_path / "native")


def test_a_folder_is_handed_to_rays_processes_where_the_script_lies_in_it_and_python_looks_there(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, link = tmp_path / "src", tmp_path / "link"
    code.mkdir()
    link.symlink_to(code)
    monkeypatch.setattr("sys.argv", [str(link / "prepare.py")])
    monkeypatch.setattr("sys.path", [str(link)])
    assert not is_handed_on(str(code))  # Ray leaves it out: Python does not look in a folder of this name
    monkeypatch.setattr("sys.path", [str(code)])
    assert is_handed_on(str(code))
    monkeypatch.setenv("RAY_ADDRESS", "ray://there:10001")
    assert not is_handed_on(str(code))
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "mine.py")])
    assert not is_handed_on(str(code))


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> tuple[Path, Path, Recipe]:
    """(raw, out, recipe) of three sources prepared undisturbed, as `another_process` prepares them."""
    folder = tmp_path_factory.mktemp("three")
    raw, rng = folder / "raw", random.Random(5)
    raw.mkdir()
    for name in "abc":
        (raw / f"{name}.jsonl").write_text("\n".join(make_rows(rng, 3_000)))
    recipe = Recipe("test", infer_sources(raw), raw, vocab_size=300)
    prepare(recipe, folder / "out", report=silent)
    return raw, folder / "out", recipe


@pytest.mark.parametrize("lines", [0, 7, 18])  # six a source: amid the pairs of one, and after those of all
def test_a_run_killed_at_a_random_moment_leaves_nothing_half_made_and_a_rerun_completes_it(three, tmp_path, lines):
    raw, undisturbed, recipe = three
    out, said = tmp_path / "out", []
    process = another_process(raw, out)
    if lines:  # what is told of the columns comes before the work
        while "no tokenizer is named" not in str(process.stdout.readline()):
            assert process.poll() is None
    for _ in range(lines):
        process.stdout.readline()
    if not lines:
        while not (tmp_path / ".out.building").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
    time.sleep(random.SystemRandom().random() * 0.2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    if out.exists():  # the kill came after its last step
        assert contents(out) == contents(undisturbed)
    prepare(recipe, out, report=said.append)
    assert contents(out) == contents(undisturbed)
    assert not lines or "made before" in "\n".join(said) or "nothing to do" in said[0]
    assert not any(path.name.startswith(".out") and path.is_dir() for path in tmp_path.iterdir())


def test_what_a_killed_run_had_finished_is_not_made_again_and_what_it_had_not_is(three, tmp_path, monkeypatch):
    _, undisturbed, recipe = three
    out, site, made = tmp_path / "out", tmp_path / ".out.building", []
    make_pairs, write_shards = tasks.make_pairs, tasks.write_shards

    def counted(source, *arguments, **settings):
        made.append(source.name)
        return make_pairs(source, *arguments, **settings)

    def stop_at_b(batches, folder, name, part):
        made.append(f"shards of {name}")
        if name == "b" and stop:
            (folder / "shards" / "b").mkdir()
            (folder / "shards" / "b" / "00000.arrow").write_bytes(b"half")
            raise KeyboardInterrupt
        return write_shards(batches, folder, name, part)

    monkeypatch.setattr(tasks, "make_pairs", counted)
    monkeypatch.setattr(tasks, "write_shards", stop_at_b)
    stop, said = True, []
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, out, report=said.append)
    assert made == ["a", "b", "c", "shards of a", "shards of b"] and "the next run goes on from there" in said[-1]
    assert not out.exists()
    (site / "work" / "c").mkdir()  # as left by a kill amid c: its parts, and a file without its end
    shutil.copytree(site / "pairs", site / "work" / "c" / "parts" / "bucket=0")
    (site / "pairs" / "c.parquet").write_bytes((site / "pairs" / "c.parquet").read_bytes()[:-50])
    (site / "pairs" / "gone.parquet").write_bytes(b"of a source that is not asked for any more")
    (site / "eval").mkdir()
    made.clear()
    stop = False
    prepare(recipe, out, report=silent)
    assert made == ["c", "shards of b", "shards of c"]
    assert contents(out) == contents(undisturbed)


def test_only_what_depends_on_a_change_is_made_again(three, tmp_path, monkeypatch):
    raw, _, recipe = three
    shutil.copytree(raw, tmp_path / "raw")
    made, make_pairs = [], tasks.make_pairs
    recipe = replace(recipe, raw=tmp_path / "raw", dedup_across=True)

    def counted(source, *arguments, **settings):
        made.append(source.name)
        if source.name == stop:
            raise KeyboardInterrupt
        return make_pairs(source, *arguments, **settings)

    monkeypatch.setattr(tasks, "make_pairs", counted)
    monkeypatch.setattr(tasks, "write_shards", lambda *_: 1 / 0)

    def again(stopped_at: str, error=KeyboardInterrupt, **change) -> list[str]:
        nonlocal stop
        stop = stopped_at
        made.clear()
        with pytest.raises(error):
            prepare(replace(recipe, **change), tmp_path / "out", report=silent)
        return list(made)

    stop = ""
    assert again("c") == ["a", "b", "c"]
    assert again("c") == ["c"]
    assert again("c", max_tokens=9) == ["c"]
    assert again("", max_rejected=0.2, error=ZeroDivisionError) == ["a", "b", "c"]
    assert again("", max_rejected=0.2, error=ZeroDivisionError) == []
    with open(tmp_path / "raw" / "b.jsonl", "a") as file:
        file.write('\n{"query": "one", "pos": "more"}')
    assert again("", max_rejected=0.2, error=ZeroDivisionError) == ["b", "c"]  # c without what the new b has
    assert again("", max_rejected=0.2, dedup_across=False, error=ZeroDivisionError) == ["a", "b", "c"]
    monkeypatch.setattr(made_by, "code", lambda *_: "other code")
    assert again("", max_rejected=0.2, dedup_across=False, error=ZeroDivisionError) == ["a", "b", "c"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_while_a_complete_folder_is_replaced_leaves_the_old_one_or_none(three, tmp_path, call):
    raw, undisturbed, recipe = three
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    setup = f"""
import os, signal
calls, replace = [], Path.replace
def killed(path, target):
    if path.name in ("out", ".out.building"):
        calls.append(path)
        if len(calls) == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
Path.replace = killed
"""
    process = another_process(raw, out, force=True, setup=setup)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert contents(out) == contents(undisturbed) if call == 1 else not out.exists()
    prepare(recipe, out, report=silent)
    assert contents(out) == contents(undisturbed)


def test_of_two_processes_at_once_one_makes_the_folder_and_the_other_says_so(three, tmp_path):
    raw, undisturbed, _ = three
    out = tmp_path / "out"
    setup = f"""
import time
from gte.data import pairs
count_parts = pairs.count_parts
def waiting(*arguments):
    while not Path("{tmp_path}/go").exists():
        time.sleep(0.01)
    return count_parts(*arguments)
pairs.count_parts = waiting
"""
    first = another_process(raw, out, setup=setup)
    while not (tmp_path / ".out.building").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    second = another_process(raw, out)
    _, errors = second.communicate()
    assert second.returncode == 1 and f"another process is making {out} (pid {first.pid} on " in errors
    (tmp_path / "go").touch()
    said, errors = first.communicate()
    assert first.returncode == 0 and "written to" in said, errors
    assert contents(out) == contents(undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["go", "out"]


def test_a_full_disk_is_one_line_and_a_rerun_completes(tmp_path):
    raw, rng = tmp_path / "raw", random.Random(6)
    raw.mkdir()
    lines = [json.dumps([rng.randbytes(60).hex(), rng.randbytes(400).hex()]) for _ in range(1_000)]
    (raw / "a.jsonl").write_text("\n".join(lines))
    recipe = Recipe("test", infer_sources(raw), raw, vocab_size=300)
    prepare(recipe, tmp_path / "undisturbed", report=silent)
    sizes = [path.stat().st_size for path in (tmp_path / "undisturbed").rglob("*.parquet")]
    sizes += [path.stat().st_size for path in (tmp_path / "undisturbed").rglob("*.arrow")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (20_000, min(sizes) - 1, max(sizes) - 1):  # hit by the intermediate files, and by what comes out
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(UserError, match=r"cannot write .*make room, or give another data\.dir"):
                prepare(recipe, tmp_path / "out", report=silent)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not (tmp_path / "out").exists()
    prepare(recipe, tmp_path / "out", report=silent)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; run the tests as another user")
@pytest.mark.parametrize("lock", [False, True])
def test_a_folder_that_cannot_be_written_to_is_one_line(three, tmp_path, lock):
    _, _, recipe = three
    if lock:
        (tmp_path / ".out.lock").touch()
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write .*give another data\.dir"):
        prepare(recipe, tmp_path / "out", report=silent)
    tmp_path.chmod(0o700)


def test_a_raw_file_that_changes_while_it_is_read_is_named_and_not_kept(three, tmp_path, monkeypatch):
    raw, _, recipe = three
    shutil.copytree(raw, tmp_path / "raw")
    recipe, make_pairs = replace(recipe, raw=tmp_path / "raw"), tasks.make_pairs

    def grown(source, *arguments, **settings):
        tally = make_pairs(source, *arguments, **settings)
        if source.name == "b":
            with open(tmp_path / "raw" / "b.jsonl", "a") as file:
                file.write('\n{"query": "one", "pos": "more"}')
        return tally

    monkeypatch.setattr(tasks, "make_pairs", grown)
    with pytest.raises(UserError, match="source b: its raw files changed while they were read; prepare again"):
        prepare(recipe, tmp_path / "out", report=silent)
    monkeypatch.setattr(tasks, "make_pairs", make_pairs)
    prepare(recipe, tmp_path / "out", report=silent)
    assert ("one", "more") in {(row["query"], row["document"]) for row in read_pairs(tmp_path / "out", "b")}


def test_a_complete_folder_is_kept_and_another_configuration_is_refused_unless_forced(prepared, tmp_path):
    _, done, recipe = prepared
    out, said = tmp_path / "out", []
    shutil.copytree(done, out)
    before = (out / "manifest.json").stat().st_mtime_ns
    notes = replace(recipe.sources[0], pairs=7, estimate=True, url="elsewhere")  # change nothing that is made
    prepare(replace(recipe, sources=[notes, recipe.sources[1]]), out, report=said.append)
    assert (out / "manifest.json").stat().st_mtime_ns == before and "up to date" in said[0]
    for change, difference in (
        ({"vocab_size": 400}, "vocab_size: 300 -> 400"),
        ({"max_tokens": 20}, "max_tokens: 16 -> 20"),
        ({"sources": recipe.sources[:1]}, "sources.triples: there -> not there"),
        ({"sources": [replace(recipe.sources[0], stages=("finetune",)), recipe.sources[1]]}, "sources.words.stages"),
    ):
        with pytest.raises(UserError, match=difference):
            prepare(replace(recipe, **change), out, report=silent)
    changed = prepare(replace(recipe, max_tokens=4), out, force=True, report=silent)
    assert Manifest.load(out).tokenizer["max_tokens"] == changed.tokenizer["max_tokens"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_changed_raw_files_and_lost_shards_are_noticed(tmp_path):
    recipe = recipe_of(tmp_path / "raw", make_raw(tmp_path / "raw"))
    prepare(recipe, tmp_path / "out", report=silent)
    shard = tmp_path / "out" / "shards" / "words" / "00000.arrow"
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"00000\.arrow is missing"):
        prepare(recipe, tmp_path / "out", report=silent)
    (tmp_path / "elsewhere").rename(shard)
    with open(tmp_path / "raw" / "triples" / "t.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="triples: its raw files have changed"):
        prepare(recipe, tmp_path / "out", report=silent)


def test_a_folder_that_is_no_prepared_one_is_never_replaced(prepared, tmp_path):
    _, _, recipe = prepared
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(UserError, match="exists and is no prepared folder"):
            prepare(recipe, tmp_path / "out", force=force, report=silent)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_too_many_rejected_rows_stop_with_one_line_and_leave_no_folder(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "good.jsonl").write_text('["q", "d"]\n' * 10)
    lines = ['{"query": "q", "pos": "d"}'] * 8 + ["no json", '{"query": "", "pos": "d"}', '{"query": "", "pos": "d"}']
    (tmp_path / "raw" / "poor.jsonl").write_text("\n".join(lines))
    recipe = recipe_of(tmp_path / "raw", infer_sources(tmp_path / "raw"))
    with pytest.raises(UserError) as error:
        prepare(recipe, tmp_path / "out", report=silent)
    assert str(error.value) == (
        "source poor: 3 of 11 rows are rejected, more than max_rejected=0.1; "
        "most often 'empty query', first at poor.jsonl:10"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.building", "raw"]
    assert prepare(replace(recipe, max_rejected=0.3), tmp_path / "out", report=silent).sources["poor"]["kept"] == 1


def test_what_a_reader_cannot_go_on_from_arrives_as_one_line(tmp_path):
    (tmp_path / "a.csv").write_text("query,answer\nq,d\n")
    source = Source("a", "web", ("pretrain",), "csv", files="a.csv", folder=".", query="query", document="body")
    with pytest.raises(UserError, match=r"source a: .*a\.csv has no column 'body'; it has: query, answer$"):
        prepare(recipe_of(tmp_path, [source]), tmp_path / "out", report=silent)
    (tmp_path / "b.jsonl").write_text("\n\n")
    source = Source("b", "web", ("pretrain",), "jsonl", files="b.jsonl", folder=".")
    with pytest.raises(UserError, match="source b: its raw files hold no row"):
        prepare(recipe_of(tmp_path, [source]), tmp_path / "out", report=silent)
    with pytest.raises(UserError, match=r"source b: .*No such file.*gone\.jsonl"):
        raw = Raw("gone.jsonl", tmp_path / "gone.jsonl")
        engine.make_pairs(source, [raw], tmp_path / "pairs", tmp_path / "work", max_rejected=0.1)
    with pytest.raises(UserError, match=r"cannot write to .*a\.csv"):
        prepare(recipe_of(tmp_path, [source]), tmp_path / "a.csv" / "out", report=silent)


def test_all_sources_without_files_are_named_before_any_work(tmp_path):
    sources = make_raw(tmp_path / "raw")
    missing = [replace(sources[0], name=name, folder=name) for name in ("lost", "gone")]
    with pytest.raises(UserError, match=r"source lost: there is no folder .*lost.*; nor is there anything for: gone"):
        prepare(recipe_of(tmp_path / "raw", [*sources, *missing]), tmp_path / "out", report=silent)
    with pytest.raises(UserError, match="names the source 'words' twice"):
        prepare(recipe_of(tmp_path / "raw", [*sources, sources[0]]), tmp_path / "out", report=silent)
    for change, line in (
        ({"vocab_size": None}, "needs a size"),
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=line):
            prepare(recipe_of(tmp_path / "raw", sources, **change), tmp_path / "out", report=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_what_is_fetched_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    calls = []

    def mine(folder: Path) -> None:
        (folder / "words").mkdir()
        (folder / "words" / "a.jsonl").write_text('["q", "d"]')
        calls.append(folder)
        if len(calls) == 1:
            raise RuntimeError("half-way")

    monkeypatch.setattr("gte.data.mining.mine_for_test", mine, raising=False)
    folder = tmp_path / "raw" / "demo"
    with pytest.raises(RuntimeError):
        fetch("gte.data.mining.mine_for_test", folder, again=False)
    assert not folder.exists()
    for again in (False, False, True):
        fetch("gte.data.mining.mine_for_test", folder, again=again)
        assert (folder / "words" / "a.jsonl").exists()
    assert len(calls) == 3 and folder not in calls


def test_triples_are_pairs_of_their_source_with_negatives_of_the_same_source(prepared, tmp_path):
    _, done, recipe = prepared
    held_out = tmp_path / "tasks"
    (held_out / "Task").mkdir(parents=True)
    (held_out / "Task" / "test.jsonl").write_text("{}")
    triples = {"mined": Triples("words", rows=50, negatives=4, depth=10)}
    manifest = prepare(replace(recipe, triples=triples, evaluation=held_out), tmp_path / "out", report=silent)
    assert manifest.stage("finetune") == {"triples": 300, "mined": 50} and "mined" not in manifest.stage("pretrain")
    pairs = read_pairs(done, "words")
    documents = {row["document"] for row in pairs}
    positives = {(row["query"], row["document"]) for row in pairs}
    mined = read_pairs(tmp_path / "out", "mined")
    assert [(row["query"], row["file"], row["row"]) for row in mined] == [
        (r["query"], r["file"], r["row"]) for r in pairs[:50]
    ]
    assert sum(len(row["negatives"]) for row in mined) > 150
    for row in mined:
        assert set(row["negatives"]) <= documents and len(row["negatives"]) <= 4
        assert not any((row["query"], negative) in positives for negative in row["negatives"])
    assert (tmp_path / "out" / "eval" / "Task" / "test.jsonl").exists()
    with pytest.raises(UserError, match="triples mined: 'word' is none of the sources words, triples"):
        prepare(replace(recipe, triples={"mined": Triples("word", 5)}), tmp_path / "x", report=silent)


def test_a_given_tokenizer_is_used_as_it_is(prepared, tmp_path):
    _, done, recipe = prepared
    given = replace(recipe, tokenizer=str(done / "tokenizer"))
    manifest = prepare(given, tmp_path / "out", report=silent)
    assert manifest.tokenizer["fingerprint"] == Manifest.load(done).tokenizer["fingerprint"]
    assert manifest.tokenizer["name"] == str(done / "tokenizer")
    with pytest.raises(UserError, match=r"cannot load the tokenizer 'nowhere/nothing'.*data.tokenizer=/path/to/model"):
        prepare(replace(recipe, tokenizer="nowhere/nothing"), tmp_path / "x", report=silent)
    assert not (tmp_path / "x").exists() and not (tmp_path / ".x.building").exists()


def test_an_engine_that_is_not_there_is_named():
    with pytest.raises(UserError, match="unknown engine 'spark'; known: native, ray"):
        use_engine("spark")
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(UserError, match="pip install ray"):
            use_engine("ray")


def run_script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "src" / name), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_script_prepares_a_users_folder_and_mine_reads_what_it_wrote(tmp_path):
    rng = random.Random(2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "faq.jsonl").write_text("\n".join(make_rows(rng, 300)))
    done = run_script("prepare.py", "data=local", "data.path=mine", "data.vocab_size=300", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "faq" in done.stdout and "rejected" in done.stdout and "written to data/local" in done.stdout
    manifest = Manifest.load(tmp_path / "data" / "local")
    assert manifest.command.endswith("prepare.py data=local data.path=mine data.vocab_size=300")
    mined = run_script("mine.py", "in=data/local/pairs/faq.parquet", "out=hard", "negatives=3", cwd=tmp_path)
    assert mined.returncode == 0, mined.stderr
    (source,) = infer_sources(tmp_path / "hard")
    lines = gzip.decompress((tmp_path / "hard" / "faq.jsonl.gz").read_bytes()).splitlines()
    rows = [json.loads(line) for line in lines]
    assert source.name == "faq" and len(rows) == manifest.sources["faq"]["kept"]
    assert {len(row["neg"]) for row in rows} <= {0, 1, 2, 3} and sum(len(row["neg"]) for row in rows) > 2 * len(rows)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data=local", "data.path=nowhere"], "there is no folder nowhere"),
        (["data=pretrain", "data.sources=[nprr]"], "did you mean npr?"),
        (["data=demmo"], "demmo"),
    ],
)
def test_the_script_answers_a_mistake_with_one_line_and_leaves_nothing(tmp_path, arguments, line):
    done = run_script("prepare.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    (said,) = [text for text in done.stderr.splitlines() if not text.startswith("Error executing job with overrides")]
    assert said.startswith("error: ") and line in said
    assert "Traceback" not in done.stdout + done.stderr
    assert not any(path.is_file() and path.name != ".local.lock" for path in tmp_path.rglob("*"))
