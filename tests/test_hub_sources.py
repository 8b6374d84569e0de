"""Sources from the hub, here a server on 127.0.0.1 that speaks as much of its protocol as `datasets` asks for."""

import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import FakeHub

from gte.data.prepare import Recipe, prepare
from gte.data.shards import Manifest
from gte.data.sources import Source

ROOT = Path(__file__).parents[1]
CARD = "---\nconfigs:\n- config_name: pair\n  data_files:\n  - split: train\n    path: pair/train-*\n---\n"
COMMIT = "a" * 40


def parquet(part: int, rows: int) -> bytes:
    """News of which every third is a repetition and some have no title."""
    numbers = [row - row % 3 if row % 3 == 2 else row for row in range(rows)]
    titles = ["" if number % 50 == 7 else f"title {part} {number}" for number in numbers]
    bodies = [f"body {part} {number} {number * 7919 % 1000}" * 9 for number in numbers]
    file = io.BytesIO()
    pq.write_table(pa.table({"title": titles, "body": bodies}), file, row_group_size=500)
    return file.getvalue()


class Hub(FakeHub):
    """One repository. `faults`: how often a request for a data file is answered with what, before it is answered."""

    files: dict[str, bytes]
    faults: Counter
    requests: Counter

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        file = path.partition("/resolve/")[2].partition("/")[2]
        if file in self.files:
            self.send_file(file)
        elif "/tree/" in path:
            folder = path.partition("/tree/")[2].partition("/")[2]
            inside = [name for name in self.files if name.startswith(folder)]
            entries = [{"type": "file", "path": name, "size": len(self.files[name]), "oid": "b"} for name in inside]
            if not folder:
                entries = [*entries[:1], {"type": "directory", "path": "pair", "oid": "c"}]
            self.reply(200, json.dumps(entries).encode())
        elif re.fullmatch(r"/api/datasets/[^/]+/[^/]+(/revision/[^/]+)?", path):
            facts = {"id": "sentence-transformers/npr", "sha": COMMIT, "tags": [], "siblings": [], "private": False}
            self.reply(200, json.dumps(facts).encode())
        else:
            self.reply(404, X_Error_Code="EntryNotFound")

    def send_file(self, file: str) -> None:
        body, code, headers = self.files[file], 200, {"ETag": f'"{file}"', "X_Repo_Commit": COMMIT}
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(body)}"
            code, body = 206, body[start : end + 1]
        fault = next((fault for fault in self.faults if self.faults[fault] and file != "README.md"), None)
        self.requests[fault or "answered"] += 1
        if fault is None:
            self.reply(code, body, **headers)
            return
        self.faults[fault] -= 1
        if fault != "cut":
            self.reply(fault)
            return
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True


@pytest.fixture
def hub():
    """A hub with sentence-transformers/npr, configuration pair, in two parquet files."""
    handler = type("Npr", (Hub,), {"faults": Counter(), "requests": Counter()})
    parts = {f"pair/train-0000{part}-of-00002.parquet": parquet(part, 1_500) for part in range(2)}
    handler.files = {"README.md": CARD.encode(), **parts}
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def prepare_npr(folder: Path, endpoint: str, tokenizer: Path) -> tuple[subprocess.CompletedProcess, float]:
    """`python src/prepare.py data=pretrain data.sources=[npr]` with that hub, and the seconds that it would wait."""
    program = f"""
import runpy, sys, time
waited = []
time.sleep = waited.append
sys.path.insert(0, "{ROOT}/src")
try:
    runpy.run_path("{ROOT}/src/prepare.py", run_name="__main__")
finally:
    print("waited", sum(waited))
"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf")}
    arguments = ["data=pretrain", "data.sources=[npr]", f"data.tokenizer={tokenizer}", f"data.dir={folder}/out"]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    waited = re.search(r"waited ([\d.]+)", done.stdout)
    assert waited, done.stderr
    return done, float(waited[1])


def test_a_hub_that_fails_now_and_then_gives_what_its_files_hold(hub, tmp_path, small_model):
    handler = hub.RequestHandlerClass
    handler.faults.update({503: 2, "cut": 2, 429: 1})
    done, waited = prepare_npr(tmp_path, f"http://127.0.0.1:{hub.server_port}", small_model)
    assert done.returncode == 0, done.stderr
    assert waited > 0 and not handler.faults.total()
    (tmp_path / "raw").mkdir()
    for file, data in handler.files.items():
        if file.endswith(".parquet"):
            (tmp_path / "raw" / file.replace("/", "_")).write_bytes(data)
    source = Source("npr", "news", ("pretrain",), "parquet", "*", ".", query="title", document="body")
    local = prepare(Recipe("x", [source], tmp_path / "raw", tokenizer=str(small_model)), tmp_path / "local")
    manifest = Manifest.load(tmp_path / "out")
    for facts in (manifest.sources["npr"], local.sources["npr"]):
        assert facts["read"] == 3_000 and facts["duplicates"] > 500 and facts["rejected"] == {"empty query": 60}

    def pairs(folder: str) -> list[tuple[str, str]]:
        table = pq.read_table(tmp_path / folder / "pairs" / "npr.parquet")
        return list(zip(*(table.column(name).to_pylist() for name in ("query", "document")), strict=True))

    assert pairs("out") == pairs("local")
    names = pq.read_table(tmp_path / "out" / "pairs" / "npr.parquet").column("file").unique().to_pylist()
    assert names == ["hub:sentence-transformers/npr/pair/train"]


def test_a_hub_that_goes_away_is_one_line_with_a_way_out(hub, tmp_path, small_model):
    handler = hub.RequestHandlerClass
    handler.faults.update({503: 10_000})
    done, waited = prepare_npr(tmp_path, f"http://127.0.0.1:{hub.server_port}", small_model)
    assert done.returncode == 2 and handler.requests[503] > 3 and 10 < waited < 3_600
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "source npr: the hub did not give 'sentence-transformers/npr'" in line and "put 'npr*.jsonl*' there" in line
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_without_a_network_it_is_one_line_at_once(tmp_path, small_model):
    done, waited = prepare_npr(tmp_path, "http://127.0.0.1:1", small_model)
    assert done.returncode == 2 and waited == 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the hub did not give 'sentence-transformers/npr'" in line and "make a folder" in line
