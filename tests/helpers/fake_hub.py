"""What the tests' hubs on localhost share: a server that answers as the hub does."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from gte.hub import hub_reachable

PAGE = b"<!DOCTYPE html><html><head><title>Bad gateway</title></head><body>" + b"Try again. " * 40 + b"</body></html>"


class FakeHub(BaseHTTPRequestHandler):
    """Replies without a log; a HEAD request is answered like a GET without its body."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def reply(self, code: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(code)
        if "Transfer_Encoding" not in headers:
            headers = {"Content_Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()


class DataHub(FakeHub):
    """Data sets, as subclasses state them.

    repos: {owner/name: {revision: {path: content}}}, the last revision being the newest commit; one that is no commit
    is a branch. faults: how often a request for a file (its path, or "file" for any but the card), or for the listing
    ("api"), is answered with what before it is answered: see `send_fault`. checksums: whether the listing gives them.
    asked: requests by path. sent: (path, first byte, bytes) of each part of a file that went out. waited: see `asking`.
    """

    repos: dict[str, dict[str, dict[str, bytes]]]
    faults: Counter
    checksums = True
    asked: Counter
    sent: list[tuple[str, int, int]]
    waited: list[float]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.send_listing(found[1], found[2])
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.send_file(found[1], found[2], found[3])
        else:
            self.reply(404, X_Error_Code="EntryNotFound")

    def fault(self, what: str):
        """The next fault of a kind of request, None where there is none left."""
        self.asked[what] += 1
        kinds = (what,) if what in ("api", "README.md") else ("file", what)
        name = next((name for name in self.faults if name[0] in kinds and self.faults[name]), None)
        if name is None:
            return None
        self.faults[name] -= 1
        return name[1]

    def send_listing(self, repo: str, asked: str | None) -> None:
        if (fault := self.fault("api")) is not None:
            self.send_fault(fault)
            return
        commits = self.repos.get(repo)
        if commits is None:
            self.reply(404, X_Error_Code="RepoNotFound")
            return
        sha = (asked or "main").replace("%2F", "/")
        sha = next(reversed(commits)) if sha == "main" else sha
        if sha not in commits:
            self.reply(404, X_Error_Code="RevisionNotFound")
            return
        siblings = [self.listed(path, body) for path, body in commits[sha].items()]
        commit = sha if re.fullmatch("[0-9a-f]{40}", sha) else next(reversed(commits))
        facts = {"id": repo, "sha": commit, "tags": [], "siblings": siblings, "private": False}
        self.reply(200, json.dumps(facts).encode())

    def listed(self, path: str, body: bytes) -> dict:
        """What the listing says of a file; text is in git, the rest in its LFS."""
        facts = {"rfilename": path, "size": len(body)}
        if not self.checksums:
            return facts
        in_git = path.endswith((".md", ".jsonl", ".csv"))
        blob = body if in_git else b"oid sha256:" + sha256(body).hexdigest().encode()
        facts["blobId"] = sha1(b"blob %d\0%b" % (len(blob), blob)).hexdigest()
        if not in_git:
            facts["lfs"] = {"size": len(body), "sha256": sha256(body).hexdigest(), "pointerSize": len(blob)}
        return facts

    def send_file(self, repo: str, revision: str, path: str) -> None:
        whole = self.repos.get(repo, {}).get(revision, {}).get(path)
        if whole is None:
            self.reply(404, X_Error_Code="EntryNotFound")
        elif (fault := self.fault(path)) is not None:
            self.send_fault(fault, path, whole)
        else:
            self.send_body(path, whole)

    def send_body(self, path: str, whole: bytes, version: str = "1", cut: bool = False, shift: int = 0) -> None:
        """A file, or the range of it that is asked for."""
        code, body, start = 200, whole, 0
        headers = {"ETag": f'"{path} {version}"'}
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]) + shift, min(int(asked[2] or len(whole)), len(whole) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(whole)}"
            code, body = 206, whole[start : end + 1]
        self.sent.append((path, start, len(body) // 2 if cut else len(body)))
        headers["Content_Length"] = str(len(body))
        self.reply(code, body[: len(body) // 2] if cut else body, **headers)
        self.close_connection = self.close_connection or cut

    def send_fault(self, fault, path: str = "", whole: bytes = b"") -> None:
        """Not what was asked for.

        fault: 429, 503, ...; (429, what Retry-After says); "page", a proxy's, with status 200, and "page of no length";
        "cut": half of what was asked for; "whole": whatever range was asked for; "shifted": a range of another
        beginning; bytes: another version of the file, or of the listing; ("cut", bytes): half of that;
        ("no length", bytes): that, in chunks.
        """
        if fault == "page":
            self.reply(200, PAGE, Content_Type="text/html")
        elif fault == "page of no length":
            self.send_fault(("no length", PAGE))
        elif fault == "cut":
            self.send_body(path, whole, cut=True)
        elif fault == "whole":
            del self.headers["Range"]
            self.send_body(path, whole)
        elif fault == "shifted":
            self.send_body(path, whole, shift=100)
        elif isinstance(fault, bytes):
            self.send_body(path, fault, version="2")
        elif isinstance(fault, tuple) and fault[0] == "no length":
            self.reply(200, b"%x\r\n%b\r\n0\r\n\r\n" % (len(fault[1]), fault[1]), Transfer_Encoding="chunked")
        elif isinstance(fault, tuple) and fault[0] == "cut":
            self.send_body(path, fault[1], version="2", cut=True)
        else:
            self.fail(fault)

    def fail(self, fault) -> None:
        code, wait = fault if isinstance(fault, tuple) else (fault, None)
        self.reply(code, **({} if wait is None else {"Retry_After": str(wait)}))


@contextmanager
def serving(repos: dict) -> Iterator[ThreadingHTTPServer]:
    """A hub with these data sets on 127.0.0.1; its handler is the server's RequestHandlerClass."""
    state = {"repos": repos, "faults": Counter(), "asked": Counter(), "sent": [], "waited": []}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (DataHub,), state))
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # seconds between its looks for an end
    yield server
    server.shutdown()
    server.server_close()


@contextmanager
def asking(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[DataHub]]:
    """That hub's handler, with this process as its client, which does not really wait; `waited` says how long."""
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub_reachable.cache_clear()
    monkeypatch.setattr("time.sleep", server.RequestHandlerClass.waited.append)
    yield server.RequestHandlerClass
    hub_reachable.cache_clear()
