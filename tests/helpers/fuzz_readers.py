"""Reads files that hypothesis damaged, in a process: python tests/helpers/fuzz_readers.py FOLDER EXAMPLES SEED.

Every raw form that a source may have is written whole, as in raw_forms, then a file of it is cut, flipped,
doubled, spliced, or filled with what breaks parsers. Whatever comes of it, the readers give rows that the engine takes
and that are all accounted for, or say in one line what is wrong. The file under way lies in FOLDER: after a crash that
is what to look at. Prints how many megabytes of memory all of it took.
"""

import faulthandler
import gzip
import io
import re
import resource
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import zstandard
from conftest import records_of
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from raw_forms import RAW, write, zipped

from gte.data import pairs as engine
from gte.data.formats import stackexchange
from gte.data.locate import locate
from gte.data.readers import reader
from gte.data.records import Fields, Keyed, Rejected
from gte.data.sources import load_source
from gte.errors import UserError

SECONDS = 20  # of this process for one file: more is a hang
BYTES = 1 << 30  # of address space that reading may add
# the rows of a keyed format that are accounted for by themselves; the others go into the pairs of these
COUNTED = {
    "anchordr": lambda row: row.order >= 0, "biorxiv_api": lambda row: True, "fever": lambda row: row.order == 1,
    "nli": lambda row: row.order == 1, "pushshift_comments": lambda row: row.order == 1,
    "stackexchange_answers": lambda row: row.order == stackexchange.FIRST,
}  # fmt: skip

PIECES = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b"\n\n", b"\x0b", b"\x85",
    b'"', b"'", b"\\", b"\t", b",", b"{", b"}", b"[", b"]", b"<", b">", b"&", b"]]>", b"<!--", b"null", b"true", b"NaN",
    b"-1", b"1e999", b"9" * 25, b"9" * 5_000, b"0x" + b"f" * 5_000, b"1+" * 2_000, b"-" * 3_000, b"{}", b"[]", b"[[]]",
    b"&e;", b"&#0;", b"&#xD800;", b"<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>", b"<row ", b"<posts>",
    b"<PubmedArticle>", b"</PubmedArticle>", b"WARC/1.0\r\n", b"Content-Length: 99999999\r\n", b"a" * 100_000,
    b"\n" * 5_000, b" " * 5_000, b"\xcc\x81\xcc\x96" * 2_000, "\u2028\u202e\ufeff".encode(), b"PK\3\4", b"\x1f\x8b",
]  # fmt: skip
NESTS = [(b"[", b"]"), (b'{"a":', b"}"), (b"(", b",)"), (b"<a>", b"</a>"), (b"<div>", b""), (b"<b><table>", b"")]
PIECE = st.one_of(
    st.sampled_from(PIECES),
    st.binary(max_size=8),
    # about as deep as Python and libxml2 follow, where their limits meet
    st.tuples(st.sampled_from(NESTS), st.integers(200, 1_050)).map(lambda n: n[0][0] * n[1] + n[0][1] * n[1]),
)
PLACE = st.integers(0, 2**16)
VALUE = re.compile(rb'"[^"\n]*"|\'[^\'\n]*\'|\d+|[^\t\n,]+')
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), PLACE),
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("drop"), PLACE, PLACE),
    st.tuples(st.just("double"), PLACE, PLACE),
    st.tuples(st.just("splice"), PLACE, PLACE),
    st.tuples(st.just("put"), PLACE, PIECE),
    st.tuples(st.just("replace"), PLACE, PIECE),
    st.tuples(st.just("replace within"), PLACE, PIECE),
)


def damaged(data: bytes, damage: tuple) -> bytes:
    """A file after one kind of damage; places count round."""
    kind, place, *others = damage
    at = place % (len(data) + 1)
    if kind == "cut":
        return data[:at]
    if kind == "put":
        return data[:at] + others[0] + data[at:]
    if kind.startswith("replace"):
        values = list(VALUE.finditer(data))
        if not values:
            return others[0]
        start, end = values[place % len(values)].span()
        inner = kind == "replace within" and end - start > 1
        return data[: start + inner] + others[0] + data[end - inner :]
    if kind == "flip":
        return data[:at] + bytes(byte ^ 1 << others[0] for byte in data[at : at + 1]) + data[at + 1 :]
    other = others[0] % (len(data) + 1)
    first, last = sorted([at, other])
    if kind == "drop":
        return data[:first] + data[last:]
    return data[:last] + data[first:] if kind == "double" else data[:at] + data[other:]


def damage_file(path: Path, damages: list[tuple], inside: bool) -> None:
    """Damages a file, or what is packed in it."""
    data = path.read_bytes()
    unpack, pack = {
        ".gz": (gzip.decompress, gzip.compress),
        ".zst": (lambda packed: zstandard.ZstdDecompressor().decompressobj().decompress(packed), zstandard.compress),
    }.get(path.suffix, (bytes, bytes)) if inside else (bytes, bytes)  # fmt: skip
    if inside and path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = max(members, key=lambda name: len(members[name]))
        for damage in damages:
            members[name] = damaged(members[name], damage)
        path.write_bytes(zipped(members))
        return
    data = unpack(data)
    for damage in damages:
        data = damaged(data, damage)
    path.write_bytes(pack(data))


def take(schema: pa.Schema, make_row, found: list[tuple]) -> None:
    """As the engine does it."""
    for file, record in found:
        cells = zip(make_row(file, record, 1)[1], schema, strict=True)
        pa.record_batch([pa.array([cell], kind.type) for cell, kind in cells], schema=schema)


def read_all(source, folder: Path) -> None:
    """Reads the raw files of a source as prepare does. AssertionError where a row is lost."""
    try:
        raws = locate(source, folder)
        found = [pair for raw in raws for pair in engine.raw_records(source, raw)]
    except UserError as error:
        assert "\n" not in str(error), repr(error)
        return
    for _, record in found:
        if isinstance(record, Rejected) and record.reason.startswith(engine.FATAL):
            assert "\n" not in record.reason, record
            take(engine.PART, engine.part_row, [("file", record)])
            return
    if source.keyed:
        take(engine.KEYED, engine.keyed_row, found)
        counted = COUNTED[source.reader]
        waiting = {(file, row.row) for file, row in found if isinstance(row, Keyed) and counted(row)}
        found = records_of(source, *raws)
        assert waiting <= {(file, record.row) for file, record in found}
    assert all(not isinstance(record, Keyed) and record.row >= 0 for _, record in found)
    take(engine.PART, engine.part_row, found)


def fuzz(folder: Path, key, examples: int, number: int) -> None:
    """Damages one raw form so many times."""
    name = key if isinstance(key, str) else key[0]
    write(folder / name, RAW[key][0])
    source = load_source(name).in_folder(folder)
    shutil.rmtree(folder / name)

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(st.sampled_from(sorted(RAW[key][0])), st.lists(DAMAGE, min_size=1, max_size=4), st.booleans())
    def read_damaged(file: str, damages: list[tuple], inside: bool) -> None:
        write(folder / name, RAW[key][0])
        damage_file(folder / name / file, damages, inside)
        faulthandler.dump_traceback_later(30 * SECONDS, exit=True)  # of the clock, where C code holds on
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        read_all(source, folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()

    read_damaged()
    shutil.rmtree(folder / name)


def page(html: bytes) -> bytes:
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<title>t</title>" + html
    return head + b"Content-Length: %d\r\n\r\n" % len(block) + block + b"\r\n\r\n"


# files of which the time or the memory once grew with the square of their size -> what is told of them
GREAT: dict[tuple[str, str], tuple[bytes, set[str]]] = {
    ("fever", "accents"): (
        b'{"id": "a%b", "text": "t"}' % ("\u0301\u0316" * 10**6).encode(), {"id over 1000 characters"},
    ),
    ("warc", "lengths"): (  # records of a line that claim to be of 16 MB
        (b"WARC/1.0\r\nContent-Length: 16000000\r\n\r\n" + b"a" * 400 + b"\r\n\r\n") * 40_000, {"truncated record"},
    ),
    ("warc", "depth"): (page(b"<div><p>a</p>" * 60_000), {"HTML nested too deeply"}),
    ("warc", "lists"): (page(b"<ul><li>a" * 60_000), {"HTML nested too deeply"}),
    ("warc", "flat"): (page(b"<ul><li>a<li>b</ul><p>c<br>" * 20_000), {"Pair"}),
    ("stackexchange_questions", "attributes"): (
        b"<row %b/>\n</posts>" % b"".join(b"a%d='' " % n for n in range(300_000)), {"filtered: no question"},
    ),
    ("stackexchange_questions", "lists"): (
        b'<row PostTypeId="1" Score="1" Title="t" Body="%b"/>\n</posts>' % (b"&lt;ul&gt;&lt;li&gt;a" * 60_000),
        {"HTML nested too deeply"},
    ),
}  # fmt: skip


def read_great(folder: Path) -> None:
    """Reads each of the great files."""
    for key, (data, told) in GREAT.items():
        print(key, flush=True)
        (folder / "great").write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        found = {getattr(record, "reason", type(record).__name__)
                 for record in reader(key[0])(folder / "great", Fields("title", "text"))}  # fmt: skip
        signal.setitimer(signal.ITIMER_PROF, 0)
        assert found == told, (key, found)


def too_long(*_) -> None:
    raise TimeoutError(f"a file took more than {SECONDS} seconds")


def main(folder: Path, examples: int, number: int, keys: list[str]) -> None:
    signal.signal(signal.SIGPROF, too_long)
    in_use = int(re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (in_use + BYTES, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_great(folder)
    for key in RAW:
        if not keys or str(key) in keys:
            print(key, flush=True)
            fuzz(folder, key, examples, number)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
