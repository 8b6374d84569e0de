#!/usr/bin/env bash
# Guess: a WARC reader that meets a record whose stated length runs into the next one, as some of ClueWeb09's do, finds
#        the next "WARC/" line all the same, or says that the file is damaged.
# Seen:  FastWARC reads the length as stated and goes on at the next version line behind it: the record behind the faulty
#        one is gone, from the count too, and its first bytes stand at the end of the faulty one's text. A length that is
#        too small costs nothing but the cut text. No error, no warning, in strict mode or out of it.
# With:  fastwarc 2.0.1.
# Why:   a page lost for each faulty length, and counts that look right. Compare records with version lines.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet fastwarc==2.0.1

cat > "$work/finding.py" <<'PY'
import io

from fastwarc.warc import ArchiveIterator


def record(number: int, off: int = 0) -> bytes:
    body = b"<p>The text of page %d.</p>\n" % number
    head = [b"WARC/0.18", b"WARC-Type: response", b"WARC-Target-URI: http://example.org/%d" % number]
    head += [b"Content-Length: %d" % (len(body) + off), b"", b""]
    return b"\n".join(head) + body + b"\n\n"


def read(off: int, strict: bool) -> list[tuple[str, bytes]]:
    data = b"".join(record(number, off if number == 1 else 0) for number in range(5))
    assert data.count(b"WARC/0.18\n") == 5
    found = ArchiveIterator(io.BytesIO(data), parse_http=False, quirks_mode=True, strict_mode=strict)
    return [(one.headers["WARC-Target-URI"][-1], one.reader.read()) for one in found]


for strict in (False, True):
    for off in (0, -3, 5, 40):
        found = read(off, strict)
        print(f"strict {strict}, length off by {off}: records {[name for name, _ in found]}")
        lost = [] if off <= 0 else ["2"]
        assert [name for name, _ in found] == [n for n in "01234" if n not in lost], "the behaviour has changed"
    assert b"WARC/0.18" in dict(read(40, strict))["1"], "the behaviour has changed"
print("as described: a length that is too great costs the record behind it, without a word")
PY
"$work/venv/bin/python" "$work/finding.py"
