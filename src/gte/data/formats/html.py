"""HTML to plain text, by Resiliparse."""

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree


def plain_text(html: str | HTMLTree, *, main_content: bool = False) -> str:
    """The visible text, a line a block, code as it is laid out. main_content: without menus, headers and footers."""
    return extract_plain_text(
        html, preserve_formatting=True, main_content=main_content, list_bullets=False, alt_texts=False
    )
