"""The character set of a web page, as the Encoding and the HTML standard of WHATWG find it, and its text."""

import codecs

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
# encodings of the standard that hold more than what Resiliparse names, and Python's that hold it, one or two together
WIDER = {
    "big5": ("cp950", "big5hkscs"),
    "euc_jp": ("euc_jp", "euc_jis_2004"),
    "euc_kr": ("cp949",),
    "gbk": ("gb18030",),
    "iso2022_jp": ("iso2022_jp_ext",),
    "iso8859-11": ("cp874",),
    "shift_jis": ("cp932",),
}
STRAY = "\ufffd"
SURE = 10  # times as many bytes of UTF-8 as others: Shift_JIS and Big5 look like it by half


def page_text(html: bytes, label: str | None) -> str:
    """The text of a page, of which wrong bytes are U+FFFD and a character that is cut at its end is left out.

    Where more bytes are wrong than right, it is in another character set: UTF-8 if all of it is, else windows-1252.
    label: the character set that its HTTP headers state, if they do.
    """
    for mark, encoding in MARKS:
        if html.startswith(mark):
            return decoded(html[len(mark) :], encoding, "replace")
    encoding = character_set(html, label)
    names = WIDER.get(encoding, (encoding,))
    for name in dict.fromkeys((*names, "utf-8")):
        try:
            return decoded(html, name)
        except UnicodeDecodeError:
            continue
    text = decoded(html, names[-1], "replace")
    return text if is_right(text, 1) else decoded(html, "cp1252", "replace")


def character_set(html: bytes, label: str | None) -> str:
    """Resiliparse's name of the character set that a page's headers state, else its <meta>, else that it looks like."""
    encoding = map_encoding_to_html5(label.strip(" \"'"), fallback_utf8=False) if label else None
    if encoding is None:
        encoding = detect_encoding(html, from_html_meta=True)
        looks_like_utf_8 = encoding != "utf-8" and is_right(decoded(html, "utf-8", "replace"), SURE)
        if looks_like_utf_8 and encoding == detect_encoding(html):  # by its looks, which one wrong byte changes
            encoding = "utf-8"
    return "utf-8" if encoding.startswith("utf-16") and b"\0" not in html else encoding  # its tags would have zeros


def decoded(html: bytes, encoding: str, errors: str = "strict") -> str:
    """The text of bytes, without a character that is cut at their end. Raises UnicodeDecodeError as `errors` has it."""
    return codecs.getincrementaldecoder(encoding)(errors).decode(html)


def is_right(text: str, times: int) -> bool:
    """Whether characters beyond ASCII that are right have so many times the bytes, in UTF-8, of wrong ones, or more."""
    beyond = len(text.encode()) - len(text.encode("ascii", "ignore"))  # a stray has three
    return beyond >= max((3 + times) * text.count(STRAY), 1)
