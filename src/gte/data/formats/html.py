"""HTML to plain text, by Resiliparse."""

import re
from collections import Counter

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from gte.data.reasons import Reason, Unfit

TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
# elements that hold none, and those that end where the next of their kind begins
FLAT = frozenset([
    "area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link", "meta", "option", "p",
    "source", "td", "th", "tr", "track", "wbr",
])  # fmt: skip
MOST = 10_000_000  # tags times depth: the extraction's time and memory grow with it, to a second or so


def parse_html(html: str) -> HTMLTree:
    """The tree. Raises Unfit for elements within each other to such a depth that extraction would not end."""
    tags = html.count("<")
    if tags**2 > MOST and depth(html) * tags > MOST:
        raise Unfit(Reason.DEEP_HTML)
    return HTMLTree.parse(html)


def depth(html: str) -> int:
    """Depth of the elements within each other, about: closing tags are believed, flat elements not counted."""
    open_: Counter[str] = Counter()
    now = deepest = 0
    for closing, name in TAG.findall(html):
        name = name.lower()
        if name in FLAT or (closing and not open_[name]):
            continue
        step = -1 if closing else 1
        open_[name] += step
        now += step
        deepest = max(deepest, now)
    return deepest


def plain_text(html: str | HTMLTree, *, main_content: bool = False) -> str:
    """The visible text, a line a block, code as it is laid out. main_content: without menus, headers and footers.

    Raises Unfit as `parse_html`.
    """
    tree = parse_html(html) if isinstance(html, str) else html
    return extract_plain_text(
        tree, preserve_formatting=True, main_content=main_content, list_bullets=False, alt_texts=False
    )
