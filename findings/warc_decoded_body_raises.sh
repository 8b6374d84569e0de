#!/usr/bin/env bash
# Guess: FastWARC's auto_decode="all" undoes the encodings that a page's HTTP headers state where the body has them, and
#        gives the body as it is where the crawler stored it decoded, as CC-NEWS did before May 2019 and Common Crawl
#        before August 2018. Content-Encoding: x-gzip is read as gzip (RFC 9110, section 8.4.1.3).
# Seen:  a body stored decoded raises OSError in reading under gzip, deflate, br and chunked, each with another message;
#        "utf-8", which servers send as an encoding, raises too, and so does a body really packed under x-gzip, with
#        "Unsupported Transfer-Encoding", a header that is not there. The page is then lost unless it is read again.
# With:  fastwarc 2.0.1.
# Why:   whole years of these crawls are read as broken. auto_decode="none" gives the body, so try one, then the other.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet fastwarc==2.0.1

cat > "$work/finding.py" <<'PY'
import gzip
import io

from fastwarc.warc import ArchiveIterator

PAGE = b"<html><head><title>Title</title></head><body><p>The text of a page.</p></body></html>\n"


def read(headers: bytes, body: bytes, decode: str) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + headers + b"\r\n\r\n" + body
    head = [
        b"WARC/1.0",
        b"WARC-Type: response",
        b"WARC-Target-URI: http://example.org/",
        b"Content-Type: application/http; msgtype=response",
        b"Content-Length: %d" % len(block),
    ]
    record = next(ArchiveIterator(io.BytesIO(b"\r\n".join([*head, b"", b""]) + block + b"\r\n\r\n"), parse_http=False))
    record.parse_http(auto_decode=decode)
    return record.reader.read()


def outcome(headers: bytes, body: bytes) -> str:
    try:
        return "the page" if read(headers, body, "all") == PAGE else "other bytes"
    except OSError as error:
        return f"OSError: {str(error)[:60]}"


packed = gzip.compress(PAGE)
cases = [
    ("really packed, gzip", b"Content-Encoding: gzip", packed),
    ("really packed, x-gzip", b"Content-Encoding: x-gzip", packed),
    ("stored decoded, gzip", b"Content-Encoding: gzip", PAGE),
    ("stored decoded, deflate", b"Content-Encoding: deflate", PAGE),
    ("stored decoded, br", b"Content-Encoding: br", PAGE),
    ("stored decoded, chunked", b"Transfer-Encoding: chunked", PAGE),
    ("stored decoded, utf-8", b"Content-Encoding: utf-8", PAGE),
]
found = [(name, outcome(headers, body)) for name, headers, body in cases]
for name, what in found:
    print(f"{name:25} {what}")
assert found[0][1] == "the page"  # what the header says is true
assert all(what.startswith("OSError") for _, what in found[1:]), "the behaviour has changed"
assert "Transfer-Encoding" in found[1][1], "the message has changed"
assert all(read(headers, PAGE, "none") == PAGE for _, headers, _ in cases[2:])  # and the page is all there
print("as described: FastWARC 2.0.1 raises where a body was stored decoded, and for x-gzip")
PY
"$work/venv/bin/python" "$work/finding.py"
