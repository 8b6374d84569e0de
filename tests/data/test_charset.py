"""Web pages are read in their character set: that of the Encoding standard by the label, whatever a few bytes say."""

import random

import pytest

from gte.data.formats.charset import page_text
from gte.data.formats.warc import html_texts

# label, bytes and text by the indexes of the standard, which gives a label more than its older namesake holds
STANDARD = [
    ("iso-8859-1", b"\x93q\x94 \x96 it\x92s \x805", "“q” – it’s €5"), ("us-ascii", b"it\x92s", "it’s"),
    ("latin1", b"\x85caf\xe9", "…café"), ("iso-8859-9", b"\x93\xddstanbul\x94", "“İstanbul”"),
    ("tis-620", b"\x93\xe4\xb7\xc2\x94", "“ไทย”"), ("gb2312", b"\xd6\xec\xe9F\xbb\xf9 \x87\xe5", "朱镕基 囧"),
    ("gbk", b"\xa2\xe35", "€5"), ("x-gbk", b"\x81\x30\x81\x30\xd6\xec", "\x80朱"),
    ("euc-kr", b"\x8cc\xb9\xe6\xb0\xa2\xc7\xcf", "똠방각하"), ("ks_c_5601-1987", b"\x8cc", "똠"),
    ("shift_jis", b"\x87@\xfb\xfc\x93\x87", "①髙島"), ("x-sjis", b"\x93\xfa\x96{ \x87\x8a", "日本 ㈱"),
    ("windows-31j", b"\xed@", "纊"), ("big5", b"\xa3\xe1\xa1\xe3", "€～"), ("big5", b"\x87@\xa4@", "䏰一"),
    ("euc-jp", b"\xad\xa1\xc6\xfc", "①日"), ("iso-2022-jp", b"\x1b(I1\x1b$BF|\x1b(B", "ｱ日"),
    ("utf8", "über".encode(), "über"), ("koi8-r", b"\xf4\xd7", "Тв"),
    ("utf-16le", "<p>über".encode("utf-16-le"), "<p>über"),
]  # fmt: skip


def page(text: str, meta: str = "") -> str:
    meta = f"<meta charset={meta}>" if meta else ""
    return f"<html><head>{meta}<title>{text}</title></head><body><p>{text}</p></body></html>"


@pytest.mark.parametrize(("label", "data", "text"), STANDARD)
def test_a_label_means_the_encoding_that_the_standard_gives_it(label, data, text):
    assert page_text(data, label) == page_text(data, f'"{label.upper()}" ') == text
    if not label.startswith("utf-16"):  # which a <meta> cannot state
        head, _, tail = page("|", label).encode().partition(b"|")
        assert page_text(head + data + tail.replace(b"|", data), None) == page("|", label).replace("|", text)


@pytest.mark.parametrize("label", ["iso-8859-1", "gbk", "utf-8", "utf-16be", "nonsense", None])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_decides_before_every_label(label, encoding):
    assert page_text(f"\ufeff{page('über', 'gbk')}".encode(encoding), label) == page("über", "gbk")


@pytest.mark.parametrize("label", ["utf-16", "unicode", "utf-16be"])
def test_a_page_without_a_zero_byte_is_no_utf_16(label):
    data = page("über alles").encode()
    assert page_text(data, label) == data.decode()
    said = page("über alles", label)
    assert page_text(said.encode(), None) == said


def test_a_label_that_nobody_knows_leaves_it_to_the_meta():
    for label in ("nonsense", "", "utf-8, text/html", "hex", "undefined"):
        said = page("日本語", "euc-jp")
        assert page_text(said.encode("euc_jp"), label) == said


WORDS = {
    "utf-8": "Le café où l’été est très agréable 東京タワー",
    "gb2312": "朱总理今天发表讲话 囧",
    "shift_jis": "①番の日本語の文章です",
    "euc-kr": "똠방각하 한국어 문장",
    "big5": "繁體中文的句子",
    "windows-1251": "Съешь же ещё этих булок",
}
CODECS = {"gb2312": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949"}
STATED = [(label, place) for label in WORDS for place in ("header", "meta", "both")] + [("utf-8", "nowhere")]


def stored(label: str, place: str) -> tuple[str, bytes, str | None]:
    """A page of many lines, its bytes, and what its header states."""
    text = page("\n".join([WORDS[label]] * 9), label if place in ("meta", "both") else "")
    return text, text.encode(CODECS.get(label, label)), label if place in ("header", "both") else None


@pytest.mark.parametrize(("label", "place"), STATED)
def test_a_page_that_is_cut_anywhere_reads_as_far_as_it_goes(label, place):
    text, data, header = stored(label, place)
    cuts = 0
    for end in range(len(data) // 2, len(data)):
        found = page_text(data[:end], header)
        assert text.startswith(found) and end - len(found.encode(CODECS.get(label, label))) < 4
        cuts += end > len(found.encode(CODECS.get(label, label)))
    assert cuts or label == "windows-1251"  # some are cut within a character


@pytest.mark.parametrize(("label", "place"), STATED)
def test_one_wrong_byte_costs_a_line_of_a_page_at_most(label, place):
    """By the standard it is one U+FFFD; of an encoding of one byte a character, another letter."""
    text, data, header = stored(label, place)
    rng, start, wrong = random.Random(0), data.rindex(b"<p>") + 3, 0
    for at in rng.sample(range(start, len(data) - 20), 100):
        found = page_text(data[:at] + b"\xff" + data[at:], header)
        assert sum(line not in text for line in found.split("\n")) <= 2 and found.count("\ufffd") <= 4
        wrong += "\ufffd" in found
        title, _ = html_texts(data[:at] + b"\xff" + data[at:], header, main_content=False)
        assert title == " ".join([WORDS[label]] * 9)
    assert wrong > 30 or label == "windows-1251"


def test_a_page_of_wrong_bytes_alone_is_windows_1252():
    for text in ("Café déjà vu", "It’s “quoted” – €5", "© 2010"):
        assert page_text(page(text, "utf-8").encode("cp1252"), "utf-8") == page(text, "utf-8")
    assert page_text(b"caf\xe9 \x81", "utf-8") == "café \ufffd"  # which windows-1252 has no character for
