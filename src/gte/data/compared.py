"""The words of texts that are compared whatever their case, spacing, punctuation, accents and Unicode form."""

import re
import unicodedata
from functools import cache

ASCII_WORD = re.compile(r"[^\W_]+")
UNSPACED = (  # scripts that write no spaces: Thai and Lao, Burmese, Khmer, Han and kana
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
INVISIBLE = ("Mn", "Mc", "Me", "Cf")  # Unicode's general categories
WORD = re.compile(rf"[^\W_{UNSPACED}]+|(?=\w)[{UNSPACED}]")


def split_words(text: str) -> list[str]:
    """The words of a text for comparison: runs of letters and digits, without marks and invisible characters.

    Each character of a script that writes no spaces is a word, as in BERT's tokenizers.

    >>> split_words("Où est le CAFÉ?"), split_words("ou est\\xa0le cafe\\u0301"), split_words("今天，天气")
    (['ou', 'est', 'le', 'cafe'], ['ou', 'est', 'le', 'cafe'], ['今', '天', '天', '气'])
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    decomposed = unicodedata.normalize("NFKD", text)
    return WORD.findall(unobtrusive().sub("", decomposed).casefold())


@cache
def unobtrusive() -> re.Pattern[str]:
    """Runs of combining marks and of format characters such as soft hyphens, below U+10000: beyond, re is slow."""
    found = [character for character in map(chr, range(0x10000)) if unicodedata.category(character) in INVISIBLE]
    return re.compile(f"[{re.escape(''.join(found))}]+")
