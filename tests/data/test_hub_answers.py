"""Answers of a hub that are not what was asked for, though their status says nothing of it."""

import gzip
import io
import json
import os
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import PAGE, asking, serving

from gte.data import hub_client, hub_download, hub_files
from gte.data.hub_client import HubAway
from gte.data.locate import locate
from gte.data.sources import Source
from gte.errors import UserError

COMMIT = "a" * 40
BODY, OTHER = (b"".join(b'{"query": "%s%07d"}\n' % (name, row) for row in range(20_000)) for name in (b"one", b"two"))
SOURCE = Source("s", "web", ("pretrain",), "parquet", hub="me/x", hub_files="*.parquet", query="q", document="d")


@pytest.fixture
def served(monkeypatch):
    """The handler of a hub with one file of half a megabyte, as text in git and as one of its LFS."""
    repos = {"me/x": {COMMIT: {"a.jsonl": BODY, "b.bin": BODY}}}
    with serving(repos) as server, asking(server, monkeypatch) as handler:
        yield handler


def hub_file(folder, path="a.jsonl"):
    return hub_files.pin("me/x", None, folder).file(path)


def parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.mark.parametrize("path", ["a.jsonl", "b.bin", None], ids=["checksum of git", "of LFS", "no checksum"])
@pytest.mark.parametrize(
    ("faults", "waits"),
    [
        pytest.param(["page"], 1, id="a page"),
        pytest.param(["page of no length"], 1, id="a page of no length"),
        pytest.param([BODY + b"x"], 1, id="a byte more"),
        pytest.param([BODY[:-1]], 1, id="a byte less"),
        pytest.param([("no length", BODY + b"x")], 1, id="a byte more, of no length"),
        pytest.param(["cut", "page"], 2, id="half, then a page"),
        pytest.param(["cut", "page of no length"], 2, id="half, then a page of no length"),
        pytest.param(["cut", "shifted"], 2, id="half, then another range"),
        pytest.param(["cut", "whole"], 1, id="half, then all"),
        pytest.param(["cut", OTHER], 2, id="half, then the rest of another version"),
        pytest.param([("cut", OTHER)], 2, id="half of another version"),
    ],
)
def test_a_file_holds_its_own_bytes_whatever_was_answered_before(served, tmp_path, path, faults, waits):
    served.checksums = path is not None
    file = hub_file(tmp_path, path or "a.jsonl")
    assert (file.checksum is None) == (path is None) and len(OTHER) == len(BODY) != len(PAGE)
    served.faults.update({("file", fault): 1 for fault in faults})
    assert hub_download.download(file, tmp_path).read_bytes() == BODY
    assert not served.faults.total() and len(served.waited) == waits
    assert {one.name for one in file.place(tmp_path).parent.iterdir()} == {file.path, f"{file.path}.part.lock"}


@pytest.mark.parametrize("checksums", [True, False])
def test_a_page_costs_none_of_the_bytes_that_came_before(served, tmp_path, checksums):
    served.checksums = checksums
    served.faults.update({("file", "cut"): 1, ("file", "page"): 1, ("file", "page of no length"): 1})
    hub_download.download(hub_file(tmp_path), tmp_path)
    assert [start for _, start, _ in served.sent] == [0, len(BODY) // 2]


def test_a_file_is_followed_to_another_host_which_is_not_told_the_token(served, monkeypatch, tmp_path):
    """As the hub hands on each file of its LFS."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked, told = [], []
    with serving(served.repos) as elsewhere:
        there = elsewhere.RequestHandlerClass

        def hand_on(self, *_) -> None:
            asked.append(self.headers["Authorization"])
            self.reply(302, Location=f"http://localhost:{elsewhere.server_port}{self.path}")

        def send(self, *file) -> None:
            told.append(self.headers["Authorization"])
            super(there, self).send_file(*file)

        monkeypatch.setattr(served, "send_file", hand_on)
        monkeypatch.setattr(there, "send_file", send)
        there.faults.update({("file", "cut"): 1, ("file", "page"): 1})
        assert hub_download.download(hub_file(tmp_path, "b.bin"), tmp_path).read_bytes() == BODY
        assert [start for _, start, _ in there.sent] == [0, len(BODY) // 2]
    assert asked == ["Bearer hf_secret"] * 3 and told == [None] * 3


@pytest.mark.parametrize("left", [PAGE, OTHER[:99_000], OTHER, OTHER + PAGE], ids=len)
def test_what_an_earlier_process_left_is_compared_with_the_checksum_too(served, tmp_path, left):
    file = hub_file(tmp_path)
    part = file.place(tmp_path).with_name("a.jsonl.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert hub_download.download(file, tmp_path).read_bytes() == BODY and len(served.waited) <= 1


def test_without_a_checksum_a_later_process_tells_another_version_by_its_etag(served, tmp_path):
    served.checksums = False
    file = hub_file(tmp_path)
    served.faults.update({("file", ("cut", OTHER)): 1, ("file", 404): 1})
    with pytest.raises(UserError, match="404"):
        hub_download.download(file, tmp_path)
    assert file.place(tmp_path).with_name("a.jsonl.part").stat().st_size == len(BODY) // 2
    assert hub_download.download(file, tmp_path).read_bytes() == BODY


def test_a_file_that_is_never_what_the_listing_says_is_refused_in_one_line_after_two_downloads(served, tmp_path):
    file = hub_file(tmp_path, "b.bin")
    served.faults.update({("file", OTHER): 99})
    line = rf"b\.bin .*\(twice its bytes have sha256:.* lists {file.checksum}\)$"
    with pytest.raises(UserError, match=line) as told:
        hub_download.download(file, tmp_path)
    assert not isinstance(told.value, HubAway) and "\n" not in str(told.value)
    assert len(served.sent) == 2 and not file.place(tmp_path).exists()
    served.faults.clear()
    assert hub_download.download(file, tmp_path).read_bytes() == BODY


def test_a_page_for_ever_is_one_line_that_says_what_came(served, tmp_path):
    served.faults.update({("file", "page"): 99})
    with pytest.raises(HubAway) as told:
        hub_download.download(hub_file(tmp_path), tmp_path)
    said = f"(its answer 200, text/html, has {len(PAGE)} bytes in place of the file's {len(BODY)})"
    assert str(told.value) == f"the hub did not give a.jsonl of me/x at {COMMIT[:12]} {said}"
    assert served.waited == list(hub_client.WAITS)


def test_checksums_are_those_of_git_and_of_its_lfs(served, tmp_path):
    """Oracle: `git hash-object` and `sha256sum`."""
    served.repos = {"me/x": {COMMIT: {"a.md": b"hello world\n", "a.bin": b"hello world\n"}}}
    told = {path: hub_file(tmp_path, path) for path in ("a.md", "a.bin")}
    assert {path: file.checksum for path, file in told.items()} == {
        "a.md": "sha1:3b18e512dba79e4c8300dd08aeb37f8e728b8dad",
        "a.bin": "sha256:a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447",
    }
    for file in told.values():
        assert hub_download.download(file, tmp_path).read_bytes() == b"hello world\n" and not served.waited


def test_a_pin_without_checksums_is_read_and_sizes_are_compared(served, tmp_path):
    """As an earlier version wrote it."""
    hub_file(tmp_path)
    kept = hub_files.pin_file("me/x", None, tmp_path)
    facts = json.loads(kept.read_text())
    assert facts.pop("checksums").keys() == facts["files"].keys()
    kept.write_text(json.dumps(facts))
    served.faults.update({("file", BODY[:-1]): 1, ("file", BODY + b"x"): 1})
    assert hub_file(tmp_path).checksum is None
    assert hub_download.download(hub_file(tmp_path), tmp_path).read_bytes() == BODY
    assert len(served.waited) == 2


LISTED = {"id": "me/x", "sha": COMMIT, "siblings": [{"rfilename": "a.jsonl", "size": 1}]}


@pytest.mark.parametrize(
    "other",
    [
        "page",
        "page of no length",
        b"",
        b"[]",
        b'"busy"',
        b'{"error": "busy"}',
        b'{"id": "me/x"}',
        json.dumps(LISTED | {"sha": "main"}).encode(),
        json.dumps(LISTED | {"siblings": ["a.jsonl"]}).encode(),
        json.dumps(LISTED | {"siblings": [{"rfilename": "a.jsonl"}]}).encode(),
    ],
    ids=str,
)
def test_an_answer_that_is_no_listing_is_asked_for_again_and_never_pinned(served, tmp_path, other):
    served.faults.update({("api", other): 2})
    assert hub_files.pin("me/x", None, tmp_path).files == {"a.jsonl": len(BODY), "b.bin": len(BODY)}
    assert served.waited == [1, 2]
    served.faults.update({("api", other): 99})
    with pytest.raises(HubAway, match=r"did not give the files of me/x at main \(its answer is ") as told:
        hub_files.pin("me/x", None, tmp_path / "never")
    assert "\n" not in str(told.value) and not (tmp_path / "never").exists()


def test_a_listing_of_another_commit_is_not_taken_for_the_one_asked_for(served, tmp_path):
    served.repos["me/x"]["b" * 40] = {"a.jsonl": b"newer"}
    served.faults.update({("api", json.dumps(LISTED | {"sha": "b" * 40}).encode()): 1})
    assert hub_files.pin("me/x", COMMIT, tmp_path).revision == COMMIT and served.waited == [1]


def test_a_name_that_the_client_refuses_is_one_line(served, tmp_path):
    with pytest.raises(UserError, match=r"the hub has no data set of that name: .*me/x--y") as told:
        hub_files.pin("me/x--y", None, tmp_path)
    assert "\n" not in str(told.value) and not served.waited


def test_a_page_in_place_of_the_card_is_asked_for_again(served, tmp_path):
    card = b"---\nconfigs:\n- config_name: pair\n  data_files: a.jsonl\n---\n" + b"words\n" * 400
    served.repos["me/x"][COMMIT]["README.md"] = card
    served.faults.update({("README.md", "page"): 1})
    (found,) = hub_files.find(hub_files.pin("me/x", None, tmp_path), "pair", "train", None, tmp_path)
    assert found.path == "a.jsonl" and served.waited == [1]


@pytest.mark.parametrize(
    "fault", ["page", "page of no length", "shifted", "whole", pytest.param(OTHER + PAGE, id="more bytes")]
)
@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        parquet([{"query": os.urandom(64).hex(), "more": row} for row in range(4_000)]),
        parquet([{"query": "q", "more": 1}]),
        b'{"query": "q", "more": 1}\n' * 20_000,
        b'{"query": "q", "more": 1}\n' * 30,
        gzip.compress(b'{"query": "q", "more": 1}\n' * 30),
    ],
    ids=["large parquet", "small parquet", "large jsonl", "small jsonl", "gzip"],
)
def test_columns_are_those_of_the_file_whatever_was_answered_before(served, tmp_path, body, checksums, fault):
    path = {b"P": "a.parquet", b"{": "a.jsonl"}.get(body[:1], "a.jsonl.gz")
    served.checksums, served.repos = checksums, {"me/x": {COMMIT: {path: body}}}
    served.faults.update({("file", fault): 1})
    assert hub_files.columns(hub_file(tmp_path, path), tmp_path) == ["query", "more"]
    assert not served.faults.total() and len(served.waited) == (fault != "whole")


def test_columns_of_a_file_that_is_asked_for_as_a_whole_are_compared_with_its_checksum(served, tmp_path):
    served.repos = {"me/x": {COMMIT: {"a.jsonl": b'{"query": "q"}\n'}}}
    served.faults.update({("file", b'{"yreuq": "q"}\n'): 1})
    assert hub_files.columns(hub_file(tmp_path), tmp_path) == ["query"] and served.waited == [1]


def test_columns_need_no_more_memory_where_the_whole_file_is_sent(served, tmp_path):
    body = BODY * 40
    served.repos = {"me/x": {COMMIT: {"a.jsonl": body}}}
    file = hub_file(tmp_path)
    served.faults.update({("file", "whole"): 1})
    tracemalloc.start()
    assert hub_files.columns(file, tmp_path) == ["query"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not served.faults.total() and peak < len(body) / 4 and len(body) > 16 * hub_files.HEAD


@pytest.mark.parametrize("body", [b"", b"no parquet", BODY], ids=len)
def test_a_file_that_is_no_parquet_names_the_key_that_leaves_it_out(served, tmp_path, body):
    served.repos = {"me/x": {COMMIT: {"a.parquet": body, "b.parquet": parquet([{"q": "q", "d": "d"}])}}}
    with pytest.raises(UserError) as told:
        locate(SOURCE, tmp_path)
    line = str(told.value)
    assert line.startswith(f"source s: a.parquet of me/x at {COMMIT[:12]} is no parquet file, as it is in the data set")
    assert "'data.overrides={me/x: {hub_files: PATTERN}}'" in line and "make a folder" not in line and "\n" not in line
    assert not served.waited


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({}, 0, 0),
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "9000"}, 600, 600),
        ({"Retry-After": "soon"}, 0, 0),
        ({"Retry-After": "²"}, 0, 0),
        ({"Retry-After": "-5"}, 0, 0),
        ({"Retry-After": 100}, 90, 101),
        ({"Retry-After": 10_000}, 600, 600),
        ({"Retry-After": -100}, 0, 0),
        ({"RateLimit": '"api";r=0;t=55'}, 55, 55),
        ({"RateLimit": '"api";r=3;t=55'}, 0, 0),
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "70"}, 70, 70),
    ],
)
def test_the_wait_is_what_the_server_asks_for_in_any_of_its_forms(headers, least, most):
    """A number stands for the date so many seconds from now."""
    after = headers.get("Retry-After")
    if isinstance(after, int):
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=after), usegmt=True)
        headers = headers | {"Retry-After": date}
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert least <= hub_client.asked_wait(httpx2.Response(429, headers=sent)) <= most
