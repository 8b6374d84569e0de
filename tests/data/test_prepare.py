"""Prepare: from messy raw files to a prepared folder that is exact, complete or absent, and the same every time."""

import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from preparations import (
    BAD,
    contents,
    make_raw,
    make_rows,
    prepare_undisturbed,
    raw_lines,
    read_pairs,
    recipe_of,
    sentence,
    silent,
)

from gte.data import pairs as engine
from gte.data import runs
from gte.data.module import PairData
from gte.data.own_files import infer_sources
from gte.data.prepare import prepare
from gte.data.recipe import Recipe, Triples, fetch
from gte.data.records import pair_hash, text_hash
from gte.data.shards import Manifest, TokenTable
from gte.data.sources import Raw, Source
from gte.data.tokenizer import load_tokenizer
from gte.errors import UserError
from gte.stage import Stage


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path, Recipe]:
    return prepare_undisturbed(tmp_path_factory.mktemp("prepared"))


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
        text
        for name in ("words", "triples")
        for row in read_pairs(out, name)
        for text in (row["query"], row["document"], *(row.get("negatives") or ()))
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


def test_the_script_prepares_a_users_folder_and_mine_reads_what_it_wrote(script, tmp_path):
    rng = random.Random(2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "faq.jsonl").write_text("\n".join(make_rows(rng, 300)))
    code, said, errors = script("prepare", "data=local", "data.path=mine", "data.vocab_size=300")
    assert code == 0, errors
    assert "faq" in said and "rejected" in said and "written to data/local" in said
    manifest = Manifest.load(tmp_path / "data" / "local")
    assert manifest.command.endswith("prepare.py data=local data.path=mine data.vocab_size=300")
    code, _, errors = script("mine", "in=data/local/pairs/faq.parquet", "out=hard", "negatives=3")
    assert code == 0, errors
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
def test_the_script_answers_a_mistake_with_one_line_and_leaves_nothing(script, tmp_path, arguments, line):
    assert line in script.refused("prepare", *arguments)
    assert not any(path.is_file() and path.name != ".local.lock" for path in tmp_path.rglob("*"))
