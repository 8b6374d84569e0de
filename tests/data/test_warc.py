"""WARC: pages of Common Crawl (WARC, WET), CC-News and ClueWeb09/12, whatever their lengths say."""

import gzip
import io
import random
import tracemalloc
import zlib
from pathlib import Path

import brotli
import pytest
from conftest import pairs_of, reasons_of, records_of, shared_dir
from fastwarc.warc import ArchiveIterator, WarcRecordType

from gte.data.formats.warc import AS_STATED, AS_STORED, MAX_RECORD, cut_records
from gte.data.pairs import make_pairs
from gte.data.records import Pair, Rejected
from gte.data.sources import Raw, Source

PAGES = Source("w", "web", ("pretrain",), "warc", query="title", document="text", options={"main_content": False})
CLUEWEB09 = {"version": b"WARC/0.18", "newline": b"\n", "end": b"\n"}


def html(number: int, text: str = "") -> bytes:
    return (
        f"<html><head><title>Title {number}</title></head><body><p>Text {number} é {text}</p></body></html>\n".encode()
    )


def http(
    body: bytes, status: bytes = b"200 OK", kind: bytes = b"text/html", newline: bytes = b"\r\n", more: bytes = b""
):
    head = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, *([more] if more else []), b"", b""]
    return newline.join(head) + body


def record(
    block: bytes, type: bytes = b"response", *, off: int = 0, version: bytes = b"WARC/1.0", newline: bytes = b"\r\n",
    end: bytes = b"\r\n\r\n", more: bytes = b"",
) -> bytes:  # fmt: skip
    """A record whose Content-Length is wrong by `off`."""
    head = [version, b"WARC-Type: " + type, b"WARC-Target-URI: http://example.org/", *([more] if more else [])]
    head += [b"Content-Type: application/http; msgtype=" + type, b"Content-Length: %d" % (len(block) + off), b"", b""]
    return newline.join(head) + block + end


def write_warc(path: Path, records: list[bytes]) -> Path:
    """.gz: a member a record, as the crawls have it."""
    path.write_bytes(b"".join((gzip.compress(one, 1) for one in records) if path.suffix == ".gz" else records))
    return path


def expected(numbers: list[int]) -> list[tuple[str, str]]:
    return [(f"Title {number}", f"Text {number} é") for number in numbers]


def texts(found: list[tuple]) -> list[tuple[str, str]]:
    return [(pair.query, pair.document) for pair in pairs_of(found)]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize("off", [0, -30, -1, 1, 5, 8, 30, 200, 4_000])
@pytest.mark.parametrize("style", [{}, CLUEWEB09, {**CLUEWEB09, "end": b""}], ids=["1.0", "0.18", "0.18 no blank"])
def test_a_wrong_length_costs_neither_its_record_nor_the_next(tmp_path, name, off, style):
    newline = style.get("newline", b"\r\n")
    records = [record(b"software: x\n", b"warcinfo", **style)]
    records += [record(http(html(n), newline=newline), off=off if n == 1 else 0, **style) for n in range(4)]
    found = records_of(PAGES, write_warc(tmp_path / name, records))
    assert texts(found) == expected([0, 1, 2, 3]) and [pair.row for pair in pairs_of(found)] == [2, 3, 4, 5]


def test_records_are_those_that_fastwarc_cuts_where_lengths_are_right(tmp_path):
    """Blocks hold line ends, blank lines and whole WARC records of their own."""
    rng = random.Random(0)
    pieces = [
        b"\r\n",
        b"\n\n",
        b"WARC/1.0\r\n",
        record(http(html(9))),
        b"x" * 100,
        b"\x00\xff",
        b"Content-Length: 3\r\n",
    ]
    records = [record(b"".join(rng.choices(pieces, k=rng.randrange(8))), rng.choice([b"response", b"metadata"]))
               for _ in range(200)]  # fmt: skip
    path = write_warc(tmp_path / "a.warc.gz", records)
    theirs = [one.reader.read() for one in ArchiveIterator(io.BytesIO(b"".join(records)), parse_http=False)]
    ours = [item[2] for item in cut_records(path)]
    assert ours == theirs and len(ours) == 200 and any(b"WARC/1.0\r\nWARC-Type" in block for block in ours)


KINDS = [
    (record(b"GET / HTTP/1.1\r\n\r\n", b"request"), None),
    (record(b"fetchTimeMs: 3\r\n", b"metadata"), None),
    (record(http(b"gone", b"404 Not Found")), "filtered: HTTP status other than 200"),
    (record(http(b"", b"301 Moved")), "filtered: HTTP status other than 200"),
    (record(http(b"%PDF", kind=b"application/pdf")), "filtered: no HTML"),
    (record(b"20240101 127.0.0.1", more=b"X: y").replace(b"application/http; msgtype=response", b"text/dns"),
     "filtered: no HTML"),
    (record(http(b"<p>No title</p>")), "filtered: page without a title"),
    (record(http(b"<title>Only a title</title><script>x()</script>")), "filtered: page without a text"),
]  # fmt: skip


@pytest.mark.parametrize(("odd", "reason"), KINDS)
def test_what_is_no_page_is_left_out_and_pages_that_give_nothing_are_counted(tmp_path, odd, reason):
    found = records_of(PAGES, write_warc(tmp_path / "a.warc.gz", [record(http(html(0))), odd, record(http(html(1)))]))
    assert texts(found) == expected([0, 1])
    assert reasons_of(found) == ({reason: [("a.warc.gz", 2)]} if reason else {})


@pytest.mark.parametrize(
    ("charset", "meta", "encoding"),
    [("utf-8", "", "utf-8"), ("iso-8859-1", "", "latin-1"), ("", "shift_jis", "shift_jis"), ("", "", "utf-8"),
     ("nonsense", "", "utf-8"), ("utf-8", "", "latin-1")],
)  # fmt: skip
def test_a_page_is_read_in_its_character_set(tmp_path, charset, meta, encoding):
    word = "日本語のページです" if encoding == "shift_jis" else "Café déjà vu"
    page = f"<head><meta charset='{meta or 'x'}'><title>{word}</title></head><p>{word} {word}</p>".encode(encoding)
    kind = b"text/html" + (f"; charset={charset}".encode() if charset else b"")
    found = records_of(PAGES, write_warc(tmp_path / "a.warc", [record(http(page, kind=kind))]))
    assert texts(found) == [(word, f"{word} {word}")]


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def deflated(body: bytes) -> bytes:
    return zlib.compress(body)


GZIP, CHUNKED = b"Content-Encoding: gzip", b"Transfer-Encoding: chunked"
BOTH = GZIP + b"\r\n" + CHUNKED
WAYS = [  # headers, the body as it lies in the file of the page, and whether that is as the headers say
    (GZIP, gzip.compress, True),
    (b"content-encoding: x-gzip", gzip.compress, True),
    (b"Content-Encoding: deflate", deflated, True),
    (b"Content-Encoding: br", brotli.compress, True),
    (CHUNKED, chunked, True),
    (BOTH, lambda body: chunked(gzip.compress(body)), True),
    *[(b"Content-Encoding: " + name, bytes, False) for name in (b"gzip", b"x-gzip", b"deflate", b"br", b"utf-8")],
    (CHUNKED, bytes, False),
    (BOTH, bytes, False),
    (BOTH, chunked, False),  # the one undone, the other not
    (BOTH, gzip.compress, False),
    (b"Content-Encoding: utf-8\r\n" + CHUNKED, chunked, False),
]


@pytest.mark.parametrize(("headers", "store", "stated"), WAYS)
def test_a_body_stored_decoded_is_read_as_it_is_and_one_as_stated_is_decoded(tmp_path, headers, store, stated):
    records = [record(http(store(html(n)), more=headers)) for n in range(3)] + [record(http(html(3)))]
    found = records_of(PAGES, write_warc(tmp_path / "a.warc.gz", records))
    assert texts(found) == expected([0, 1, 2, 3]) and not reasons_of(found)
    assert [pair.way for pair in pairs_of(found)] == [AS_STATED if stated else AS_STORED] * 3 + [None]


@pytest.mark.parametrize(
    ("headers", "body"),
    [(b"Content-Encoding: br", gzip.compress(html(0) * 9)), (CHUNKED, chunked(html(0))[:-30]),
     (b"Content-Encoding: gzip", brotli.compress(html(0) + random.Random(0).randbytes(200).hex().encode())),
     (b"Content-Encoding: nonsense", gzip.compress(html(0)))],
    ids=["br for gzip", "cut chunk", "gzip for br", "unknown"],
)  # fmt: skip
def test_a_body_that_is_neither_as_stated_nor_a_text_is_no_page(tmp_path, headers, body):
    odd = record(http(body, more=headers))
    found = records_of(PAGES, write_warc(tmp_path / "a.warc", [odd, record(http(html(1)))]))
    assert texts(found) == expected([1]) and reasons_of(found) == {"malformed HTTP": [("a.warc", 1)]}


def test_what_is_no_page_is_said_so_before_its_body_is_unpacked(tmp_path):
    """A picture under `gzip` is no fault of its source, and is not counted as one."""
    odd = [record(http(b"\0\1\2", kind=b"image/png", more=GZIP)), record(http(b"gone", b"404 Not Found", more=GZIP))]
    found = records_of(PAGES, write_warc(tmp_path / "a.warc", odd))
    assert set(reasons_of(found)) == {"filtered: no HTML", "filtered: HTTP status other than 200"}


def test_both_ways_are_counted_and_no_source_stops_for_pages_stored_decoded(tmp_path):
    """Of 40 pages 30 are stored decoded, as all of CC-NEWS before May 2019, one of them twice; 4 are as stated."""
    bodies = [html(n) for n in range(29)] + [html(0)]
    pages = [record(http(body, more=BOTH)) for body in bodies]
    pages += [record(http(gzip.compress(html(n)), more=GZIP)) for n in range(29, 33)]
    pages += [record(http(html(n))) for n in range(33, 39)]
    (tmp_path / "raw" / "w").mkdir(parents=True)
    raw = write_warc(tmp_path / "raw" / "w" / "a.warc.gz", pages)
    tally = make_pairs(PAGES, [Raw("a.warc.gz", raw)], tmp_path / "w.parquet", tmp_path / "work", max_rejected=0.1)
    assert (tally.read, tally.kept, tally.duplicates, tally.rejected) == (40, 39, 1, {})
    assert tally.ways == {AS_STATED: 4, AS_STORED: 30}


def test_a_wet_file_gives_first_line_and_the_rest_in_the_language_it_states(tmp_path):
    def conversion(text: bytes, language: bytes) -> bytes:
        return record(text, b"conversion", more=b"WARC-Identified-Content-Language: " + language)

    records = [
        conversion("Title é\nOne\nTwo\n".encode(), b"eng"), conversion(b"Titel\nEins\n", b"deu,eng"),
        conversion(b"Both\nText\n", b"eng,deu"), conversion(b"Only a title", b"eng"), conversion(b"T\n\xff", b"eng"),
    ]  # fmt: skip
    source = Source(**{**vars(PAGES), "options": {}, "keep": {"language": "eng"}})
    found = records_of(source, write_warc(tmp_path / "a.warc.wet.gz", records))
    assert pairs_of(found) == [Pair("Title é", "One\nTwo", 1), Pair("Both", "Text", 3)]
    assert {reason: [row for _, row in where] for reason, where in reasons_of(found).items()} == {
        "filtered: language is not 'eng'": [2], "filtered: page without a text": [4], "invalid UTF-8": [5],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_half_a_record_is_one_rejection_wherever_the_file_is_cut(tmp_path, name):
    whole = [record(http(html(n))) for n in range(3)]
    sizes = [len(gzip.compress(one, 1)) if name.endswith(".gz") else len(one) for one in whole]
    data = write_warc(tmp_path / name, whole).read_bytes()
    around = range(sum(sizes[:2]) - 5, sum(sizes[:2]) + 12)
    for cut in [*range(sizes[0] + 1, sum(sizes), 5), *around]:
        (tmp_path / name).write_bytes(data[:cut])
        found = records_of(PAGES, tmp_path / name)
        rejected = [record.reason for _, record in found if isinstance(record, Rejected)]
        complete = 1 + (cut >= sizes[0] + sizes[1])
        rest = data[:cut].removeprefix(data[: sum(sizes[:complete])])
        if name.endswith(".gz"):
            assert rejected == (["damaged archive"] if rest else [])
            assert texts(found)[:complete] == expected([*range(complete)]) and len(texts(found)) <= complete + 1
        elif len(rest) < len(whole[complete]) - 4:  # the blank lines after a record may be missing
            assert texts(found) == expected([*range(complete)]) and len(rejected) == bool(rest)
            assert set(rejected) <= {"truncated record", "no WARC record"}
        else:
            assert len(texts(found)) == complete + 1 and not rejected


def test_a_record_of_100_mb_is_rejected_without_being_held(tmp_path):
    great = record(http(b"<title>t</title>" + b"x" * 100_000_000))
    lying = record(http(html(1)), off=10**15)
    path = write_warc(
        tmp_path / "a.warc.gz", [record(http(html(0))), great, record(http(html(2))), lying, record(http(html(3)))]
    )
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(bomb.compress(bytes(10**7)) for _ in range(4)) + bomb.flush()
    with open(path, "ab") as file:
        file.write(gzip.compress(record(http(packed, more=b"Content-Encoding: gzip"))))
    del great
    tracemalloc.start()
    found = records_of(PAGES, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(found) == expected([0, 2, 3]) and peak < 6 * MAX_RECORD
    assert reasons_of(found) == {f"record over {MAX_RECORD:,} bytes": [("a.warc.gz", row) for row in (2, 4, 6)]}


def test_a_header_and_the_blank_lines_behind_a_record_may_be_as_long_as_a_record(tmp_path, monkeypatch):
    longest = 2**12
    monkeypatch.setattr("gte.data.formats.warc.MAX_RECORD", longest)
    usual = len(record(http(html(1)), more=b"X: ").partition(b"\r\n\r\n")[0]) + 2 - len(b"WARC/1.0\r\n")
    for over in (0, 1):
        header = record(http(html(1)), more=b"X: " + b"x" * (longest - usual + over))
        found = records_of(PAGES, write_warc(tmp_path / "a.warc", [record(http(html(0))), header]))
        assert texts(found) == expected([0] if over else [0, 1])
        assert ("truncated record" in reasons_of(found)) == bool(over)
    one, other = record(http(html(0)), end=b""), record(http(html(1)))
    path = write_warc(tmp_path / "b.warc", [one, b"\n" * longest, other])
    assert texts(records_of(PAGES, path)) == expected([0, 1])


def test_a_record_without_a_length_and_an_endless_gap_are_read_in_step_with_their_size(tmp_path):
    """Either is of some hundred thousand lines: work that grows with their square would take minutes."""
    body = b"<title>Title</title><pre>" + b"line of it\n" * 150_000 + b"</pre>\n"
    unmeasured = record(http(body)).replace(
        b"Content-Length: %d" % len(http(body)), b"Content-Length: 9" + b"9" * 5_000
    )
    path = write_warc(
        tmp_path / "a.warc.gz", [record(http(html(0))), unmeasured, b"\n" * 400_000, record(http(html(1)))]
    )
    found = pairs_of(records_of(PAGES, path))
    assert [pair.query for pair in found] == ["Title 0", "Title", "Title 1"]
    assert found[1].document.count("line of it") == 150_000


def test_what_is_no_warc_is_a_rejection_and_not_silence(tmp_path):
    (tmp_path / "a.warc").write_bytes(b"<html>\nno archive\n</html>\n" + record(http(html(0))))
    found = records_of(PAGES, tmp_path / "a.warc")
    assert texts(found) == expected([0]) and reasons_of(found) == {"no WARC record": [("a.warc", 1)]}


def test_main_content_leaves_the_menu_out(tmp_path):
    page = (
        b"<title>t</title><nav><a href=x>Home menu</a></nav><main><p>"
        + b"The article says a lot. " * 20
        + b"</p></main>"
    )
    path = write_warc(tmp_path / "a.warc", [record(http(page))])
    for main_content in (True, False):
        source = Source(**{**vars(PAGES), "options": {"main_content": main_content}})
        (pair,) = pairs_of(records_of(source, path))
        assert "article says" in pair.document and ("menu" in pair.document) is not main_content


ESCOPETE = "Escopete - Biquipedia, a enciclopedia libre"
REAL = {  # file: the title of its one page, None where that has none
    "commoncrawl/whirlwind.warc.gz": ESCOPETE, "commoncrawl/whirlwind.warc.wet.gz": ESCOPETE,
    "commoncrawl/whirlwind.warc.wet": ESCOPETE, "commoncrawl/anserini_segment1.warc.gz": None,
    "ccnews_warc/anserini_segment1.warc.gz": None, "clueweb/cw09_segment1.warc.gz": None,
    "clueweb/cw12_segment1.warc.gz": None, "clueweb/anserini_clueweb12-1": "fox fox river",
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_one_page_of_a_real_file_is_found(name):
    path = shared_dir(f"data/raw_samples/{Path(name).parent}") / Path(name).name
    ((_, page),) = records_of(PAGES, path)
    if REAL[name]:
        assert page.query == REAL[name] and page.document
    else:
        assert page.reason == "filtered: page without a title"


def test_the_real_cc_news_file_has_a_length_that_costs_fastwarc_its_page():
    path = shared_dir("data/raw_samples/ccnews_warc") / "anserini_segment1.warc.gz"
    assert [one.record_type for one in ArchiveIterator(str(path), quirks_mode=True)] == [WarcRecordType.warcinfo]


def test_the_text_of_a_real_page_is_that_of_common_crawls_own_extraction():
    folder = shared_dir("data/raw_samples/commoncrawl")
    (ours,) = pairs_of(records_of(PAGES, folder / "whirlwind.warc.gz"))
    (theirs,) = pairs_of(records_of(PAGES, folder / "whirlwind.warc.wet.gz"))
    assert ours.query == theirs.query
    words = set(theirs.document.split())
    assert len(words & set(ours.document.split())) > 0.9 * len(words) > 100
