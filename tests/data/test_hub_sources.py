"""Sources from the hub, here a server on 127.0.0.1 that speaks as much of its protocol as is asked for."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from conftest import ROOT
from fake_hub import asking, serving
from huggingface_hub import constants

from gte.data import hub_client, hub_download, hub_files
from gte.data.locate import locate
from gte.data.mining import mine_files
from gte.data.prepare import prepare
from gte.data.recipe import Recipe, read_recipe
from gte.data.records import Pair, Rejected, Triple
from gte.data.shards import Manifest
from gte.data.sources import FOLDER, Source, load_source, overridden
from gte.errors import UserError
from gte.hub import hub_reachable
from gte.models.card import datasets_of

CARD = "---\nconfigs:\n- config_name: pair\n  data_files:\n  - split: train\n    path: pair/train-*\n---\n"
OLD, NEW = "a" * 40, "b" * 40
NPR = "sentence-transformers/npr"


def parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=500)
    return file.getvalue()


def news(part: int, rows: int) -> list[dict]:
    """News of which every third is a repetition and some have no title."""
    numbers = [row - row % 3 if row % 3 == 2 else row for row in range(rows)]
    return [
        {
            "title": "" if number % 50 == 7 else f"title {part} {number}",
            "body": f"body {part} {number} {number * 7919 % 1000}" * 9,
        }
        for number in numbers
    ]


def lines(*rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def hub():
    """A hub with sentence-transformers/npr, configuration pair, in two parquet files."""
    parts = {f"pair/train-0000{part}-of-00002.parquet": parquet(news(part, 1_500)) for part in range(2)}
    with serving({NPR: {OLD: {"README.md": CARD.encode(), **parts}}}) as server:
        yield server


@pytest.fixture
def served(hub, monkeypatch):
    """That hub's handler, with this process as its client."""
    with asking(hub, monkeypatch) as handler:
        yield handler


def prepare_in_a_process(folder: Path, endpoint: str, *arguments: str) -> tuple[subprocess.CompletedProcess, float]:
    """`python src/prepare.py` with that hub, and the seconds that it would wait."""
    program = f"""
import runpy, sys, time
waited = []
time.sleep = waited.append
sys.path.insert(0, "{ROOT}/src")
sys.argv[0] = "src/prepare.py"
try:
    runpy.run_path("{ROOT}/src/prepare.py", run_name="__main__")
finally:
    print("waited", sum(waited))
"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    waited = re.search(r"waited ([\d.]+)", done.stdout)
    assert waited, done.stderr
    return done, float(waited[1])


def arguments(folder: Path, tokenizer: Path) -> list[str]:
    return ["data=pretrain", "data.sources=[npr]", f"data.tokenizer={tokenizer}", f"data.dir={folder}/out"]


def recipe(folder: Path, tokenizer: Path, *sources: Source) -> Recipe:
    return Recipe("x", list(sources), folder / "raw", tokenizer=str(tokenizer))


def pairs(folder: Path, name: str = "npr") -> list[tuple[str, str]]:
    table = pq.read_table(folder / "pairs" / f"{name}.parquet")
    return list(zip(*(table.column(column).to_pylist() for column in ("query", "document")), strict=True))


def nothing(line: str) -> None:
    pass


def test_a_hub_that_fails_now_and_then_gives_what_its_files_hold(hub, tmp_path, small_model):
    handler = hub.RequestHandlerClass
    handler.faults.update({("file", 503): 2, ("file", "cut"): 2, ("file", (429, 7)): 1, ("api", 502): 1})
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    done, waited = prepare_in_a_process(tmp_path, endpoint, *arguments(tmp_path, small_model))
    assert done.returncode == 0, done.stderr
    assert waited > 7 and not handler.faults.total()
    (tmp_path / "raw").mkdir()
    files = handler.repos[NPR][OLD]
    for file, data in files.items():
        if file.endswith(".parquet"):
            (tmp_path / "raw" / file.replace("/", "_")).write_bytes(data)
    source = Source("npr", "news", ("pretrain",), "parquet", "*", ".", query="title", document="body")
    local = prepare(recipe(tmp_path, small_model, source), tmp_path / "local")
    manifest = Manifest.load(tmp_path / "out")
    for facts in (manifest.sources["npr"], local.sources["npr"]):
        assert facts["read"] == 3_000 and facts["duplicates"] > 500 and facts["rejected"] == {"empty query": 60}
    assert pairs(tmp_path / "out") == pairs(tmp_path / "local")
    names = pq.read_table(tmp_path / "out" / "pairs" / "npr.parquet").column("file").unique().to_pylist()
    paths = sorted(file for file in files if file != "README.md")
    assert sorted(names) == [f"hub:{NPR}@{OLD[:12]}/{path}" for path in paths]
    assert manifest.configuration["sources"]["npr"]["pinned"] == {"revision": OLD, "files": paths}


def test_a_hub_that_goes_away_is_one_line_with_the_command_that_goes_on(hub, tmp_path, small_model):
    handler = hub.RequestHandlerClass
    handler.faults.update({("pair/train-00001-of-00002.parquet", 503): 10_000})
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    command = arguments(tmp_path, small_model)
    done, waited = prepare_in_a_process(tmp_path, endpoint, *command)
    assert done.returncode == 2 and 100 < waited < 3_600
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"source npr: the hub did not give pair/train-00001-of-00002.parquet of {NPR} at {OLD[:12]} (" in line
    assert "503" in line and "; python " in line and "src/prepare.py data=pretrain 'data.sources=[npr]'" in line
    assert " goes on from there; without the hub, make a folder <paths.raw>/npr and put 'npr*.jsonl*' there" in line
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_without_a_network_it_is_one_line_at_once(tmp_path, small_model):
    done, waited = prepare_in_a_process(tmp_path, "http://127.0.0.1:1", *arguments(tmp_path, small_model))
    assert done.returncode == 2 and waited == 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"source npr: the hub did not give the files of {NPR} at main" in line and "make a folder" in line


def test_a_cut_download_goes_on_where_it_stopped_also_in_a_later_run(served, tmp_path):
    """Nothing is sent twice, though the connection is cut and the first run gives up."""
    body = os.urandom(2**20)
    served.repos = {"me/x": {OLD: {"a.jsonl": body}}}
    file = hub_files.pin("me/x", None, tmp_path).file("a.jsonl")
    served.faults.update({("a.jsonl", "cut"): 3})
    served.faults.update({("a.jsonl", 404): 1})  # no passing fault: the first run ends here
    with pytest.raises(UserError, match=r"the hub did not give a.jsonl of me/x at aaaaaaaaaaaa \("):
        hub_download.download(file, tmp_path)
    part = file.place(tmp_path).with_name("a.jsonl.part")
    assert part.stat().st_size > 2**19 and not file.place(tmp_path).exists()
    assert hub_download.download(file, tmp_path).read_bytes() == body
    assert sum(size for _, _, size in served.sent) == len(body)
    assert [start for _, start, _ in served.sent] == sorted({start for _, start, _ in served.sent})


def test_a_rate_limit_is_waited_for_as_long_as_it_asks(served, tmp_path):
    served.faults.update({("api", (429, 42)): 2, ("api", (503, 5_000)): 1})
    hub_files.pin(NPR, None, tmp_path)
    assert served.waited == [42, 42, hub_client.LONGEST]


def test_what_never_passes_is_not_tried_again(served, tmp_path):
    with pytest.raises(UserError, match="the hub did not give the files of no/such at main"):
        hub_files.pin("no/such", None, tmp_path)
    with pytest.raises(
        UserError, match=rf"{NPR} has no revision 'v9'; .*'data.overrides={{{NPR}: {{revision: main}}}}'"
    ):
        hub_files.pin(NPR, "v9", tmp_path)
    served.faults.update({("api", 401): 1})
    with pytest.raises(UserError, match="private or gated: hf auth login"):
        hub_files.pin(NPR, None, tmp_path)
    assert not served.waited


@pytest.mark.parametrize(
    ("where", "code", "headers", "words"),
    [
        ("api", 404, {"X_Error_Code": "RepoNotFound"}, "404: there is no such data set, or it is private)"),
        ("api", 401, {"X_Error_Code": "RepoNotFound"}, "or it is private; if it is private or gated: hf auth login"),
        ("api", 403, {"X_Error_Code": "GatedRepo"}, f"403: it is gated; ask for access at HUB/datasets/{NPR}, "),
        ("file", 404, {"X_Error_Code": "EntryNotFound"}, "404: there is no such file)"),
        ("file", 404, {"X_Error_Code": "RevisionNotFound"}, "404: there is no such revision)"),
        ("file", 403, {"X_Error_Message": "Access to this resource is disabled."}, "Access to this resource is disab"),
        ("file", 451, {"X_Error_Message": "taken down by a court"}, ": taken down by a court)"),
    ],
)
def test_a_refusal_says_why_and_promises_no_resumption(served, tmp_path, monkeypatch, where, code, headers, words):
    monkeypatch.setattr(served, "fail", lambda self, fault: self.reply(fault, **headers))
    served.faults.update({(where, code): 99})
    with pytest.raises(UserError) as told:
        source = load_source("npr")
        list(source.read(locate(source, tmp_path)[0]))
    line, endpoint = str(told.value), constants.ENDPOINT
    assert words.replace("HUB", endpoint) in line and "\n" not in line and not served.waited
    assert "goes on from there" not in line and "without the hub, make a folder <paths.raw>/npr and put" in line


def test_a_run_goes_on_with_the_commit_that_it_began_with_and_says_so(served, tmp_path, small_model):
    """The first run is stopped in the second file; then the hub gets another commit of other rows."""
    source = load_source("npr")
    served.faults.update({("pair/train-00001-of-00002.parquet", 403): 1})
    with pytest.raises(UserError, match=r"pair/train-00001-of-00002\.parquet"):
        prepare(recipe(tmp_path, small_model, source), tmp_path / "out", report=nothing)
    served.repos[NPR][NEW] = {"README.md": CARD.encode(), "pair/train-0.parquet": parquet(news(9, 30))}
    before, told = len(served.sent), []
    manifest = prepare(recipe(tmp_path, small_model, source), tmp_path / "out", report=told.append)
    assert manifest.sources["npr"]["read"] == 3_000
    (note,) = [line for line in told if line.startswith("note: ")]
    kept = tmp_path / "raw" / ".hub" / "sentence-transformers--npr@main.json"
    assert f"{NPR} is read at {OLD[:12]}" in note and NEW[:12] in note and str(kept) in note
    again = [path for path, _, _ in served.sent[before:] if path != "README.md"]
    assert set(again) <= {"pair/train-00001-of-00002.parquet"}  # the first file was kept
    kept.unlink()
    with pytest.raises(UserError, match=rf"sources.npr.pinned.revision: {OLD} -> {NEW}.*force=true"):
        prepare(recipe(tmp_path, small_model, source), tmp_path / "out", report=nothing)


def test_a_complete_folder_needs_no_hub(served, tmp_path, small_model, monkeypatch):
    source = load_source("npr")
    made = prepare(recipe(tmp_path, small_model, source), tmp_path / "out", report=nothing)
    hub_reachable.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert prepare(recipe(tmp_path, small_model, source), tmp_path / "out", report=nothing) == made


def test_downloads_are_removed_once_the_pairs_are_written(served, tmp_path, small_model):
    prepare(recipe(tmp_path, small_model, load_source("npr")), tmp_path / "out", report=nothing)
    left = [path for path in (tmp_path / "raw").rglob("*") if path.is_file() and "columns" not in path.parts]
    assert {path.name for path in left} <= {"sentence-transformers--npr@main.json", "README.md", "README.md.part.lock"}
    assert sum(path.stat().st_size for path in (tmp_path / "raw").rglob("*") if path.is_file()) < 1_000


def test_a_file_of_each_format_is_read_like_a_local_one(served, tmp_path):
    row = {"query": "q", "document": "d"}
    served.repos = {
        "me/x": {
            OLD: {
                "a.jsonl": lines(row, {"query": "q"}),
                "a.jsonl.gz": gzip.compress(lines(row)),
                "a.jsonl.zst": zstandard.compress(lines(row)),
                "a.csv": b"query,document\nq,d\n",
                "a.parquet": parquet([row]),
            }
        }
    }
    for name in served.repos["me/x"][OLD]:
        format = name.split(".")[1]
        source = Source(
            "s", "web", ("pretrain",), format, hub="me/x", hub_files=name, query="query", document="document"
        )
        (raw,) = locate(source, tmp_path)
        records = list(source.read(raw))
        assert records[0] == Pair("q", "d", 2 if format == "csv" else 1), name
        assert raw.bytes == len(served.repos["me/x"][OLD][name]) and raw.name == f"hub:me/x@{OLD[:12]}/{name}"
    assert list(source.read(raw)) == [Pair("q", "d", 1)]
    jsonl = replace(source, reader="jsonl", hub_files="*.jsonl")
    assert list(jsonl.read(*locate(jsonl, tmp_path))) == [Pair("q", "d", 1), Rejected("missing document", 2)]


def test_a_parquet_file_of_the_hub_is_read_in_the_form_that_a_local_one_would_have(served, tmp_path):
    served.repos = {"me/qa": {OLD: {"p.parquet": parquet([{"query": "q", "answer": "d"}])}}}
    source = replace(load_source("amazon_qa"), hub="me/qa", hub_config=None, hub_files="p.parquet")
    assert source.query is None and list(source.read(*locate(source, tmp_path))) == [Pair("q", "d", 1)]


@pytest.mark.parametrize(
    ("card", "config", "split", "line"),
    [
        (None, "pair", "train", "me/x at aaaaaaaaaaaa has no card; name the files: hub_files: PATTERN"),
        ("no yaml", "pair", "train", "has no configuration 'pair'; it has: none; name the files"),
        (CARD, "pare", "train", "has no configuration 'pare', did you mean pair"),
        (CARD, "pair", "dev", "has no split 'dev' of 'pair'; it has: train"),
        (CARD, "pair", "train", r"has no file '\['pair/train-\*'\]'; it has: README.md, other.jsonl"),
    ],
)
def test_files_that_a_card_does_not_name_are_asked_for_in_one_line(served, tmp_path, card, config, split, line):
    files = {"other.jsonl": b"{}"} if card is None else {"README.md": card.encode(), "other.jsonl": b"{}"}
    served.repos = {"me/x": {OLD: files}}
    source = Source("s", "web", ("pretrain",), "jsonl", hub="me/x", hub_config=config, hub_split=split)
    with pytest.raises(UserError, match=line) as error:
        locate(source, tmp_path)
    assert str(error.value).startswith("source s: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("configs", "config", "split", "expected"),
    [
        ([{"config_name": "only", "data_files": "d/*.parquet"}], None, "train", ["d/*.parquet"]),
        ([{"config_name": "a", "data_files": "x"}, {"config_name": "b", "default": True, "data_files": ["y", "z"]}],
         None, "train", ["y", "z"]),
        ([{"config_name": "a", "data_files": [{"split": "dev", "path": ["v", "w"]}]}], "a", "dev", ["v", "w"]),
        ([{"config_name": "default", "data_files": [{"split": "train", "path": "t"}]}], None, "train", ["t"]),
    ],
)  # fmt: skip
def test_the_card_says_which_files_a_split_has(served, tmp_path, configs, config, split, expected):
    card = f"---\n{yaml.safe_dump({'configs': configs})}---\ntext\n"
    served.repos = {"me/x": {OLD: {"README.md": card.encode()}}}
    pinned = hub_files.pin("me/x", None, tmp_path)
    assert hub_files.card_patterns(pinned, config, split, tmp_path) == expected


def test_a_column_that_is_not_there_is_named_before_any_download_with_what_to_type(served, tmp_path):
    """The line's own words mend it."""
    row = {"query": "q", "document": "d", "drop": False, "similarities": 5.0}
    served.repos = {"me/x": {OLD: {"a.parquet": parquet([row] * 20_000)}}}
    source = replace(load_source("lighton_paq"), hub="me/x", hub_config=None, hub_files="a.parquet")
    typed: dict = {}
    for missing, suggested in (("similarity", "{score: similarities}"), ("duplicate", "{keep: {drop: [false, null]}}")):
        with pytest.raises(UserError, match=f"^source lighton_paq: a.parquet of me/x at {OLD[:12]} has no") as told:
            locate(overridden([source], typed)[0], tmp_path)
        line = str(told.value)
        assert f"no column '{missing}'; expected: query, document, " in line and "\n" not in line
        assert "it has: query, document, drop, similarities; " in line
        assert f"'data.overrides={{me/x: {suggested}}}'" in line
        typed.setdefault("me/x", {}).update(yaml.safe_load(suggested))
    served.sent.clear()
    mended = overridden([source], typed)[0]
    (raw,) = locate(mended, tmp_path)
    assert not served.sent  # what the columns are is kept
    assert len(list(mended.read(raw))) == 20_000


def test_only_the_end_of_a_parquet_file_is_asked_for_to_learn_its_columns(served, tmp_path):
    body = parquet([{"query": "q", "document": os.urandom(64).hex()} for _ in range(20_000)])
    served.repos = {"me/x": {OLD: {"a.parquet": body, "b.jsonl.gz": gzip.compress(lines({"query": "q"}))}}}
    pinned = hub_files.pin("me/x", None, tmp_path)
    assert hub_files.columns(pinned.file("a.parquet"), tmp_path) == ["query", "document"]
    assert hub_files.columns(pinned.file("b.jsonl.gz"), tmp_path) == ["query"]
    assert sum(size for path, _, size in served.sent if path == "a.parquet") <= hub_files.TAIL < len(body) / 10


def test_rows_that_their_makers_drop_or_score_low_are_filtered_and_counted(served, tmp_path, small_model):
    """Oracle: the conditions of the published recipe, row by row."""
    rows = [
        {"query": f"q{n}", "document": f"d{n}", "drop": [False, True, None][n % 3],
         "duplicate": n if n % 5 == 0 else None, "similarity": n % 7 - 0.5 if n else None}
        for n in range(300)
    ]  # fmt: skip
    served.repos = {"lightonai/embeddings-pre-training": {OLD: {"README.md": CARD.replace("pair", "paq").encode(),
                                                                "paq/train-0.parquet": parquet(rows)}}}  # fmt: skip
    manifest = prepare(recipe(tmp_path, small_model, load_source("lighton_paq")), tmp_path / "out", report=nothing)
    good = [row for row in rows if not row["drop"] and row["duplicate"] is None and row["similarity"] >= 3]
    facts = manifest.sources["lighton_paq"]
    assert sorted(pairs(tmp_path / "out", "lighton_paq")) == sorted((row["query"], row["document"]) for row in good)
    dropped = sum(row["drop"] is True for row in rows)
    assert facts["rejected"]["filtered: drop is not False or None"] == dropped
    assert set(facts["rejected"]) == {
        "filtered: drop is not False or None", "filtered: duplicate is not None", "filtered: similarity under 3",
    }  # fmt: skip
    assert facts["read"] == 300 == facts["kept"] + sum(facts["rejected"].values())


def scored_tables(split: str = "fiqa") -> dict[str, bytes]:
    """Three queries over twenty documents in two files; the first candidate of a row is its positive."""
    documents = [{"document_id": 100 + n, "document": f"document {n}"} for n in range(20)]
    scores = [
        {"query_id": 7, "document_ids": [100, 101, 102, 103], "scores": [1.0, 0.96, 0.9, 0.2]},
        {"query_id": 8, "document_ids": [119, 101, 102, 103], "scores": [0.8, 0.79, 0.78, 0.1]},
        {"query_id": 9, "document_ids": [105, 999, 102, 103], "scores": [1.0, 0.5, 0.5, 0.5]},
        {"query_id": 5, "document_ids": [105, 101, 102, 103], "scores": [1.0, 0.5, 0.5, 0.5]},
        {"query_id": 7, "document_ids": [], "scores": []},
    ]
    queries = [{"query_id": key, "query": f"query {key}"} for key in (9, 8, 7)]
    return {
        f"queries/{split}-00000-of-00001.parquet": parquet(queries),
        f"documents/{split}-00000-of-00002.parquet": parquet(documents[10:]),
        f"documents/{split}-00001-of-00002.parquet": parquet(documents[:10]),
        f"scores/{split}-00000-of-00001.parquet": parquet(scores),
        f"scores/{split}_other-00000-of-00001.parquet": parquet(scores),
    }


def test_scored_candidates_become_negatives_that_score_clearly_less_than_the_positive(served, tmp_path, small_model):
    served.repos = {"lightonai/embeddings-fine-tuning": {load_source("lighton_ft_fiqa").revision: scored_tables()}}
    source = replace(load_source("lighton_ft_fiqa"), options={"negatives": 2, "below": 0.95})
    (raw,) = locate(source, tmp_path / "raw")
    assert list(source.read(raw)) == [
        Triple("query 7", "document 0", ["document 2", "document 3"], 1),
        Rejected("filtered: fewer than 2 negatives under 0.95 of the score", 2),
        Rejected("document not in the files", 3),
        Rejected("query not in the files", 4),
        Rejected("unknown shape of row", 5),
    ]
    assert {Path(one.name).name for one in raw.companions} == {
        "fiqa-00000-of-00001.parquet", "fiqa-00000-of-00002.parquet", "fiqa-00001-of-00002.parquet",
    }  # fmt: skip
    local = tmp_path / "local" / "lighton_ft_fiqa"
    for name, body in scored_tables().items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(body)
    (own,) = locate(source, tmp_path / "local")  # not fiqa_other-
    assert own.hub is None and list(source.read(own)) == list(source.read(raw))
    (local / "documents" / "fiqa-00000-of-00002.parquet").unlink()
    (local / "documents" / "fiqa-00001-of-00002.parquet").unlink()
    other = replace(own, path=own.path.with_name("fiqa_other-00000-of-00001.parquet"))
    with pytest.raises(UserError, match=r"there is no file .*queries/fiqa_other-\*.parquet"):
        list(source.read(other))


def test_the_hubs_copy_of_hotpotqa_gives_what_its_makers_file_gives(served, tmp_path):
    row = {
        "id": "1", "question": "q1", "answer": "a", "supporting_facts": {"title": ["t", "u"], "sent_id": [0, 1]},
        "context": {"title": ["t", "v", "u"], "sentences": [["One.", " Two."], ["No."], ["Three."]]},
    }  # fmt: skip
    branch = "refs/convert/parquet"
    served.repos = {"hotpotqa/hotpot_qa": {branch: {"distractor/train/0000.parquet": parquet([row])}}}
    served.repos["hotpotqa/hotpot_qa"][OLD] = served.repos["hotpotqa/hotpot_qa"][branch]
    source = load_source("hotpotqa")
    assert list(source.read(*locate(source, tmp_path))) == [
        Triple("q1", "t: One. Two.", ["v: No."], 1), Triple("q1", "u: Three.", ["v: No."], 1),
    ]  # fmt: skip


def test_a_hub_cannot_write_outside_of_its_folder(served, tmp_path):
    served.repos = {"me/x": {OLD: {"../../evil.jsonl": b"{}"}}}
    with pytest.raises(UserError, match=r"me/x lists the file '\.\./\.\./evil.jsonl', which leads outside of it"):
        hub_files.pin("me/x", None, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"nprr": {"query": "x"}}, "data.overrides: no source is 'nprr', did you mean npr"),
        ({"npr": {"quary": "x"}}, "data.overrides: unknown key 'quary', did you mean query"),
        ({"npr": {"name": "x"}}, "data.overrides: unknown key 'name'"),
        ({"npr": "x"}, "data.overrides: npr must be a mapping of keys"),
        ({"npr": {"hub": "/etc"}}, "data.overrides.npr: hub is '/etc'"),
    ],
)
def test_overrides_that_name_nothing_are_refused(overrides, line):
    with pytest.raises(UserError, match=line):
        overridden([load_source("npr")], overrides)


def test_overrides_reach_a_sources_forms_as_well():
    (changed,) = overridden([load_source("amazon_qa")], {"sentence-transformers/amazon-qa": {"query": "question"}})
    assert changed.query == "question" and changed.forms[0]["query"] == "question"


OPEN = sorted((FOLDER / "open").rglob("*.yaml"))


@pytest.mark.parametrize("path", OPEN, ids=lambda path: path.stem)
def test_an_open_source_says_where_it_comes_from_and_what_is_not_known(path):
    source, text = load_source(path.stem), path.read_text()
    facts, comment = yaml.safe_load(text), "".join(line for line in text.splitlines() if line.startswith("#"))
    assert source.hub and source.licence != "unknown" and "pairs" in facts and "revision" in facts
    assert "not verified live" in " ".join(comment.replace("#", " ").split())
    assert source.revision is None or re.fullmatch("[0-9a-f]{40}", source.revision)
    words = " ".join(comment.replace("#", " ").split())
    assert source.revision is not None or "no commit is known" in words
    assert any(reason in words for reason in ("count", "Estimate:")), words
    assert (source.pairs is None) == ("manifest counts" in words)


def test_the_open_data_sets_name_these_sources():
    listed = {
        name: yaml.safe_load((FOLDER.parent / "data" / f"{name}.yaml").read_text())["sources"]
        for name in ("open", "open_nomic", "open_finetune", "open_curated")
    }
    names = [path.stem for path in OPEN]
    assert sorted(["lighton_fw_edu", *sum(listed.values(), [])]) == sorted(names)
    assert [len(listed[name]) for name in listed] == [41, 29, 7, 1]
    nomic = sum(load_source(name).pairs for name in listed["open_nomic"])
    assert 234_553_344 < nomic < 240e6  # the report's table counts whole batches of the same splits
    assert sum(load_source(name).pairs for name in listed["open_finetune"]) == 1_880_835
    assert {load_source(name).stages for name in listed["open_finetune"]} == {("finetune",)}
    assert {load_source(name).stages for name in listed["open"]} == {("pretrain",)}


def test_two_open_sources_are_prepared_and_trained_on(served, script, tmp_path, small_model, monkeypatch):
    """From the hub to the steps of a run, by the commands that a user types."""
    columns = {"drop": False, "duplicate": None}
    card = {"configs": [{"config_name": name, "data_files": f"data/{name}-*"} for name in ("npr", "gooaq_qa")]}
    rows = {
        name: [{"query": f"{name} query {n}", "document": f"{name} text number {n}", **columns, "similarity": n % 9}
               for n in range(120)]
        for name in ("npr", "gooaq_qa")
    }  # fmt: skip
    typed = pa.schema([("query", pa.string()), ("document", pa.string()), ("drop", pa.bool_()),
                       ("duplicate", pa.int64()), ("similarity", pa.float32())])  # fmt: skip
    files = {"README.md": f"---\n{yaml.safe_dump(card)}---\n".encode()}
    for name in rows:
        for part in range(2):
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows[name][part::2], typed), file)
            files[f"data/{name}-0000{part}-of-00002.parquet"] = file.getvalue()
    served.repos = {"lightonai/embeddings-pre-training": {OLD: files}}
    monkeypatch.chdir(tmp_path)
    chosen = "data.sources=[lighton_npr,lighton_gooaq_qa]"
    code, _, err = script("prepare", "data=open", chosen, f"data.tokenizer={small_model}", "data.dir=open")
    assert code == 0, err
    manifest = Manifest.load(tmp_path / "open")
    good = sum(n % 9 >= 3 for n in range(120))
    assert {name: facts["kept"] for name, facts in manifest.sources.items()} == dict.fromkeys(
        ("lighton_npr", "lighton_gooaq_qa"), good
    )
    code, _, err = script(
        "train", "stage=pretrain", f"model={small_model}", "data=open", "data.dir=open", "trainer=cpu", "scale=laptop",
        "logger=csv", "stage.global_batch=16", "stage.steps=3", "out=run",
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


CURATED = "lightonai/embeddings-pre-training-curated"


@pytest.fixture
def curated(served):
    """Pairs of the data set by group, on the hub as the makers' training code finds them, in five files."""
    groups = {
        name: [{"query": f"{name} query {n % 50}", "document": f"{name} text {n % 50}", "similarity": n % 9}
               for n in range(60)]
        for name in ("npr", "beir_dbpedia", "fw")
    }  # fmt: skip
    files = {"README.md": b"no configuration", "npr.json": b"{}", "old/npr-00000-of-00001.parquet": b"none"}
    for name, prefix in (("npr", "npr"), ("beir_dbpedia", "beir_dbpedia"), ("fw", "fw-edu")):
        for part in range(1 + (name != "fw")):
            rows = groups[name] if name == "fw" else groups[name][part::2]
            files[f"{prefix}-0000{part}-of-00002.parquet"] = parquet(rows)
    served.repos = {CURATED: {OLD: files}}
    return groups


def test_each_group_of_files_of_the_curated_mixture_is_a_source(curated, script, tmp_path, small_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = script("prepare", "data=open_curated", f"data.tokenizer={small_model}", "data.dir=all")
    assert code == 0, err
    assert "lighton_curated: each of its 3 groups of files is a source: beir_dbpedia, fw, npr" in out
    manifest = Manifest.load(tmp_path / "all")
    assert sorted(manifest.sources) == [f"lighton_curated_{name}" for name in sorted(curated)]
    for name, rows in curated.items():
        facts = manifest.sources[f"lighton_curated_{name}"]
        assert (facts["read"], facts["kept"], facts["duplicates"]) == (60, 50, 10)
        held = set(pairs(tmp_path / "all", f"lighton_curated_{name}"))
        assert held == {(row["query"], row["document"]) for row in rows}
        pinned = manifest.configuration["sources"][f"lighton_curated_{name}"]["pinned"]
        assert pinned["revision"] == OLD and all(file.startswith(name) for file in pinned["files"])
    assert datasets_of([{"stage": {}, "sources": manifest.sources}]) == [CURATED]


def test_some_groups_are_chosen_by_name_and_filtered_by_overrides(curated, script, tmp_path, small_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = script(
        "prepare", "data=open_curated", "data.sources=[lighton_curated_npr,lighton_curated_fw]",
        f"data.tokenizer={small_model}", "data.dir=two",
        "data.overrides={lighton_curated: {score: similarity, min_score: 4}, lighton_curated_fw: {min_score: 8}}",
    )  # fmt: skip
    assert code == 0, err
    sources = Manifest.load(tmp_path / "two").sources
    low = {name: sources[f"lighton_curated_{name}"]["rejected"] for name in ("npr", "fw")}
    assert {name: sum(found.values()) for name, found in low.items()} == {
        "npr": sum(n % 9 < 4 for n in range(60)), "fw": sum(n % 9 < 8 for n in range(60)),
    }  # fmt: skip
    assert all(reason.startswith("filtered: ") for found in low.values() for reason in found)


def curated_recipe(folder: Path, *names: str, **overrides: dict) -> Recipe:
    facts = {"name": "x", "sources": names, "raw": str(folder), "overrides": overrides}
    return read_recipe({**facts, "tokenizer": None})


def test_groups_can_be_skipped_and_unknown_ones_are_answered_with_those_that_are_there(curated, tmp_path):
    skipped = curated_recipe(tmp_path, "lighton_curated", lighton_curated={"skip_groups": ["beir_dbpedia", "fw"]})
    assert [source.name for source in skipped.sources] == ["lighton_curated_npr"]
    line = "source lighton_curated has no group 'nqr', did you mean npr.*; it has: beir_dbpedia, fw, npr"
    with pytest.raises(UserError, match=line):
        curated_recipe(tmp_path, "lighton_curated_nqr")
    with pytest.raises(UserError, match="names the source 'lighton_curated_npr' twice"):
        curated_recipe(tmp_path, "lighton_curated", "lighton_curated_npr").check()
    with pytest.raises(UserError, match=r"has no file 'x-\{group\}\.csv'; it has: README.md"):
        curated_recipe(tmp_path, "lighton_curated", lighton_curated={"groups": "x-{group}.csv"})
    for pattern in ("*.parquet", "{group}/{group}.parquet", "{group}/*.parquet"):
        with pytest.raises(UserError, match=r"must be a file name with one \{group\}"):
            curated_recipe(tmp_path, "lighton_curated", lighton_curated={"groups": pattern})


@pytest.mark.parametrize(
    ("names", "overrides", "line"),
    [
        ([""], {"": {"skip_groups": ["nqr"]}}, "lighton_curated has no group 'nqr', did you mean npr"),
        ([""], {"": {"skip_groups": "npr"}}, "skip_groups is 'npr'; it must be a list of groups"),
        ([""], {"": {"skip_groups": None}}, "skip_groups is None; it must be a list of groups"),
        ([""], {"": {"groups": None}}, "groups is 'None'; it must be a file name with one {group}"),
        ([""], {"": {"files": "x"}}, "data.overrides: lighton_curated: files is not read there: groups says which"),
        (["_npr"], {"_npr": {"groups": "x"}}, "data.overrides: lighton_curated_npr: groups is not read there"),
        (["_npr"], {"": {"skip_groups": ["npr"]}}, "the group 'npr' is asked for, and left out by skip_groups"),
    ],
)
def test_what_is_said_of_groups_acts_or_is_refused_in_one_line(curated, tmp_path, names, overrides, line):
    with pytest.raises(UserError, match=re.escape(line)) as error:
        curated_recipe(
            tmp_path,
            *(f"lighton_curated{name}" for name in names),
            **{f"lighton_curated{name}": changes for name, changes in overrides.items()},
        )
    assert "\n" not in str(error.value)


def test_groups_are_those_of_a_folder_where_the_user_has_the_files(tmp_path):
    folder = tmp_path / "lighton_curated"
    folder.mkdir()
    for name in ("paq-00000-of-00002", "paq-00001-of-00002", "mtp-00000-of-00001"):
        (folder / f"{name}.parquet").write_bytes(parquet([{"query": name, "document": f"of {name}"}]))
    (folder / "README.md").write_text("")
    (folder / "whole.parquet").write_bytes(parquet([{"query": "q", "document": "d"}]))
    recipe = curated_recipe(tmp_path, "lighton_curated")
    assert recipe.notes == (
        "lighton_curated: each of its 2 groups of files is a source: mtp, paq; of no group, not read: whole.parquet",
    )
    found = {name: [raw.name for raw in raws] for name, raws in recipe.locate().items()}
    assert found == {
        "lighton_curated_mtp": ["mtp-00000-of-00001.parquet"],
        "lighton_curated_paq": ["paq-00000-of-00002.parquet", "paq-00001-of-00002.parquet"],
    }
    said = "\n".join(mine_files(["lighton_curated_paq"], tmp_path / "mined", raw=tmp_path, draw="top"))
    assert "lighton_curated_paq: read 2, kept 2" in said
    with pytest.raises(UserError, match=r"a source: mtp, paq.*; name one of them, lighton_curated_mtp for instance"):
        list(mine_files(["lighton_curated"], tmp_path / "mined", raw=tmp_path))


def test_a_group_without_the_columns_is_one_line_with_those_that_are_there(served, tmp_path):
    served.repos = {CURATED: {OLD: {"npr-00000-of-00001.parquet": parquet([{"query": "q", "passage": "d"}])}}}
    line = (
        "source lighton_curated_npr: npr-00000-of-00001.parquet of .* has no column 'document'; expected: query, "
        f"document; it has: query, passage; .*'data.overrides={{{CURATED}: {{document: "
    )
    with pytest.raises(UserError, match=line):
        curated_recipe(tmp_path, "lighton_curated").locate()
    served.repos = {}
    with pytest.raises(UserError, match="source lighton_curated: the hub did not give the files of"):
        curated_recipe(tmp_path / "other", "lighton_curated")


def test_an_override_typed_at_the_shell_reaches_the_source(tmp_path):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from gte.overrides import read_arguments

    typed = [
        "data=open",
        "data.overrides={lightonai/embeddings-pre-training: {score: scores, keep: {drop: [false, null]}}}",
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("prepare", overrides=read_arguments("prepare", typed))
    sources = read_recipe(OmegaConf.to_container(cfg.data, resolve=True)).sources
    assert {source.score for source in sources} == {"scores"}
    assert sources[0].keep == {"drop": [False, None]}
