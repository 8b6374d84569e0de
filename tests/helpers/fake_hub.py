"""What the tests' hubs on localhost share: a server that answers as the hub does."""

import json
import re
from collections import Counter
from http.server import BaseHTTPRequestHandler


class FakeHub(BaseHTTPRequestHandler):
    """Replies without a log; a HEAD request is answered like a GET without its body."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def reply(self, code: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()


class DataHub(FakeHub):
    """Data sets, as subclasses state them.

    repos: {owner/name: {revision: {path: content}}}, the last revision being the newest commit; one that is no commit
    is a branch. faults: how often a request for a file (or "api", for the listing) is answered with what before it is
    answered: 429, 503, ..., "cut" (half of what was asked for), (429, seconds to wait). asked: requests by path. sent:
    (path, first byte, bytes) of each part of a file that went out.
    """

    repos: dict[str, dict[str, dict[str, bytes]]]
    faults: Counter
    asked: Counter
    sent: list[tuple[str, int, int]]

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
        kinds = ("api",) if what == "api" else ("file", what)
        name = next((name for name in self.faults if name[0] in kinds and self.faults[name]), None)
        if name is None:
            return None
        self.faults[name] -= 1
        return name[1]

    def send_listing(self, repo: str, asked: str | None) -> None:
        if fault := self.fault("api"):
            self.fail(fault)
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
        siblings = [{"rfilename": path, "size": len(body)} for path, body in commits[sha].items()]
        commit = sha if re.fullmatch("[0-9a-f]{40}", sha) else next(reversed(commits))
        facts = {"id": repo, "sha": commit, "tags": [], "siblings": siblings, "private": False}
        self.reply(200, json.dumps(facts).encode())

    def send_file(self, repo: str, revision: str, path: str) -> None:
        whole = self.repos.get(repo, {}).get(revision, {}).get(path)
        if whole is None:
            self.reply(404, X_Error_Code="EntryNotFound")
            return
        code, body, start = 200, whole, 0
        headers = {"ETag": f'"{path}"', "X_Repo_Commit": revision}
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or len(whole)), len(whole) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(whole)}"
            code, body = 206, whole[start : end + 1]
        fault = None if path == "README.md" else self.fault(path)
        if fault is None:
            self.sent.append((path, start, len(body)))
            self.reply(code, body, **headers)
        elif fault == "cut":
            self.sent.append((path, start, len(body) // 2))
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.fail(fault)

    def fail(self, fault) -> None:
        code, wait = fault if isinstance(fault, tuple) else (fault, None)
        self.reply(code, **({} if wait is None else {"Retry_After": str(wait)}))
