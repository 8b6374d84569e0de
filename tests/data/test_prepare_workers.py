"""Prepare on several workers, and on a Ray cluster: the bytes of one process, and no worker that outlives its work."""

import importlib.util
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from preparations import contents, make_rows, prepare_by_ranges, prepare_undisturbed, sentence, silent
from spans import most_at_a_time, span_of_sleep
from trainings import Begun, wait_for

from gte.cores import allowed_cores
from gte.data import tasks
from gte.data.engine import run_tasks
from gte.data.own_files import infer_sources
from gte.data.pairs import is_handed_on, use_engine
from gte.data.prepare import prepare
from gte.data.recipe import Recipe
from gte.data.records import text_hash
from gte.data.shards import Manifest
from gte.data.workers import Workers
from gte.errors import UserError


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


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(pid: int) -> list[int]:
    """The workers of a preparation under way, each a child of the thread that asks it."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):  # of a thread that has ended meanwhile
            found += [int(child) for child in task.read_text().split()]
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_asked_and_a_rerun_completes(long, tmp_path, monkeypatch, number):
    undisturbed, recipe = long
    process = Begun(tmp_path, recipe.raw, tmp_path / "out", function=prepare_by_ranges)
    parts = (tmp_path / ".out.building" / "work").glob
    wait_for(lambda: any(parts("*/parts")) and len(workers_of(process.pid)) == 2, process)
    workers = workers_of(process.pid)
    time.sleep(random.SystemRandom().random() * 0.05)
    assert len(workers) == 2, process.poll()
    process.send_signal(number)
    assert process.wait() != 0, process.said
    limit = time.monotonic() + 120
    while any(map(is_alive, workers)) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not any(map(is_alive, workers))
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


@pytest.mark.slow  # the test after it sees that Ray's bytes are those of native
@pytest.mark.parametrize("across", [False, True])
def test_a_ray_cluster_writes_the_bytes_that_native_writes_wherever_it_reads(tmp_path, across):
    """In this process's place and, as large sources are, spread over the cluster."""
    pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
    _, _, recipe = prepare_undisturbed(tmp_path / "prepared")
    again = replace(recipe.sources[0], name="again", folder="words", files="[ab].jsonl.gz")
    changed = replace(recipe, dedup_across=across, sources=[*recipe.sources, again], max_rejected=0.2)
    prepare(changed, tmp_path / "native", report=silent)
    (tmp_path / "recipe.pickle").write_bytes(pickle.dumps(changed))
    program = f"""
import pickle, sys
from pathlib import Path
import ray
from gte.data import pairs, steps
from gte.data.prepare import prepare

folder = Path(sys.argv[1])
pairs.BUCKET_BYTES = 60_000
steps.CLUSTER_BYTES = -1 if {across} else steps.CLUSTER_BYTES
prepare(pickle.loads((folder / "recipe.pickle").read_bytes()), folder / "ray", engine="ray", workers=2)
print("on", len(ray.nodes()), "node, runner", pairs.daft.get_or_infer_runner_type())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "on 1 node, runner ray" in done.stdout and "rejected" in done.stdout
    assert contents(tmp_path / "ray") == contents(tmp_path / "native")


def test_the_script_on_ray_writes_the_bytes_that_native_writes_and_tells_the_seconds(tmp_path, monkeypatch):
    """Its processes find the code by the script's folder, the test before by an environment of their own."""
    pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (tmp_path / "mine").mkdir()
    for name in "ab":
        (tmp_path / "mine" / f"{name}.jsonl").write_text("\n".join(make_rows(random.Random(name), 300)))
    triplets = [
        {"anchor": f"query {n % 20}", "positive": f"some text {n % 20}", "negative": f"other {n}"} for n in range(60)
    ]
    (tmp_path / "mine" / "c.jsonl").write_text("\n".join(map(json.dumps, triplets)))
    settings = ["data=local", "data.path=mine", "data.vocab_size=300"]
    for name in ("native", "ray"):
        command = [sys.executable, str(ROOT / "src" / "prepare.py"), *settings, f"data.dir={name}", f"engine={name}"]
        done = subprocess.run([*command, "workers=2"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^pairs: 660 rows, [\d.]+ s, [\d,]+ rows/s on 2 workers$", done.stdout, re.M), done.stdout
        assert "40 negatives of duplicates are kept with the pairs that they repeat" in done.stdout
    assert re.search(r"^ray: ready, [\d.]+ s$", done.stdout, re.M)
    assert contents(tmp_path / "ray") == contents(tmp_path / "native")
    rows = pq.read_table(tmp_path / "native" / "pairs" / "c.parquet").to_pylist()
    assert {row["query"]: row["negatives"] for row in rows} == {
        f"query {n}": [f"other {n + step}" for step in (0, 20, 40)] for n in range(20)
    }


def test_a_folder_is_handed_to_rays_processes_where_the_script_lies_in_it_and_python_looks_there(tmp_path, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
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
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert not is_handed_on(str(code))  # ray job submit
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "mine.py")])
    assert not is_handed_on(str(code))


def test_an_engine_that_is_not_there_is_named():
    with pytest.raises(UserError, match="unknown engine 'spark'; known: native, ray"):
        use_engine("spark")
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(UserError, match=r"requirements-ray\.txt"):
            use_engine("ray")


def test_a_ray_that_does_not_start_is_one_line():
    pytest.importorskip("ray")
    said = "The current node timed out during startup.\nThis could happen because the raylet failed"
    code = f"""
import ray
from gte.data.pairs import use_engine
from gte.errors import UserError
def init(**settings):
    raise Exception({said!r})
ray.init = init
try:
    use_engine("ray")
except UserError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("engine=ray: Ray did not start (The current node timed out during startup.)")
    assert "engine=native" in done.stdout and done.stdout.count("\n") == 1, done.stderr
