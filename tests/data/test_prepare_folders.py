"""A prepared folder is complete or not there: after kills, beside another process, on a full disk, after changes."""

import json
import os
import random
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import ROOT
from preparations import (
    contents,
    make_raw,
    make_rows,
    prepare_folder,
    prepare_undisturbed,
    read_pairs,
    recipe_of,
    silent,
)
from trainings import PATIENCE, Begun, wait_for

from gte.data import lineage, made_by, pairs, tasks
from gte.data.module import PairData
from gte.data.own_files import infer_sources
from gte.data.prepare import prepare
from gte.data.recipe import Recipe
from gte.data.shards import Manifest
from gte.errors import UserError
from gte.stage import Stage


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path, Recipe]:
    return prepare_undisturbed(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> tuple[Path, Path, Recipe]:
    """(raw, out, recipe) of three sources prepared undisturbed, as `prepare_folder` prepares them."""
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
    process = Begun(tmp_path, raw, out, function=prepare_folder)

    def has_told() -> bool:  # what is told of the columns comes before the work
        return process.said.partition("no tokenizer is named")[2].count("\n") > lines

    wait_for(has_told if lines else (tmp_path / ".out.building").exists, process)
    assert not lines or has_told(), process.said
    time.sleep(random.SystemRandom().random() * 0.2)
    process.kill()
    code = process.wait()
    if out.exists():  # the kill came after its last step
        assert lines and code in (0, -signal.SIGKILL) and contents(out) == contents(undisturbed), process.said
    else:
        assert code == -signal.SIGKILL, process.said
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


def die_at_renaming(call: int) -> None:
    """Has this process kill itself where it gives a prepared folder another name for the call-th time."""
    calls, rename = [], Path.replace

    def killed(path, target):
        if path.name in ("out", ".out.building"):
            calls.append(path)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.replace = killed


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_while_a_complete_folder_is_replaced_leaves_the_old_one_or_none(three, tmp_path, call):
    raw, undisturbed, recipe = three
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    process = Begun(tmp_path, raw, out, True, die_at_renaming, call, function=prepare_folder)
    assert process.wait() == -signal.SIGKILL, process.said
    assert contents(out) == contents(undisturbed) if call == 1 else not out.exists()
    prepare(recipe, out, report=silent)
    assert contents(out) == contents(undisturbed)


def wait_amid_the_pairs(go: Path) -> None:
    """Has this process wait for a file where it has begun."""
    count_parts = pairs.count_parts

    def waiting(*arguments):
        limit = time.monotonic() + PATIENCE  # no test waits for longer
        while not go.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        return count_parts(*arguments)

    pairs.count_parts = waiting


def test_of_two_processes_at_once_one_makes_the_folder_and_the_other_says_so(three, tmp_path):
    raw, undisturbed, _ = three
    site, go = tmp_path / "site", tmp_path / "go"
    site.mkdir()
    out = site / "out"
    first = Begun(tmp_path, raw, out, False, wait_amid_the_pairs, go, function=prepare_folder)
    wait_for((site / ".out.building").exists, first)
    second = Begun(tmp_path, raw, out, function=prepare_folder)
    code = second.wait()
    go.touch()
    assert code == 1 and f"another process is making {out} (pid {first.pid} on " in second.said, second.said
    assert first.wait() == 0 and "written to" in first.said, first.said
    assert contents(out) == contents(undisturbed)
    assert sorted(path.name for path in site.iterdir()) == ["out"]


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
