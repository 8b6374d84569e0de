"""The values of a raw row as clean texts and numbers, or the reason why they are none; texts that count as the same."""

import re

from gte.data.reasons import Reason, Unfit


def clean(value: object, role: str, replace: dict[str, str] | None = None) -> str:
    """Strip a text of surrounding white space, after replacements.

    Args:
        value: the value of a row's field.
        role: query, document or negative, for the reason of a rejection.
        replace: regular expressions and their replacements.
    Raises: Unfit where it is no text, empty, no Unicode, or holds NUL, as binary data and UTF-16 do.

    >>> clean("  How   long? ", "query", replace={" +": " "})
    'How long?'
    """
    if isinstance(value, str):
        text = (replaced(value, replace) if replace else value).strip()
        if not text:
            raise Unfit(Reason.EMPTY.of(role))
        if not text.isascii() and not encodable(text):
            raise Unfit(Reason.INVALID_UTF8)
        if "\0" in text:
            raise Unfit(Reason.HOLDS_NUL.of(role))
        return text
    raise Unfit((Reason.MISSING if value is None else Reason.WRONG_TYPE).of(role))


def replaced(text: str, replace: dict[str, str]) -> str:
    """The text after replacements."""
    for pattern, other in replace.items():
        text = re.sub(pattern, other, text)
    return text


def whole_number(value: object, role: str) -> int:
    """A number or the digits of one, of 32 bits at most. Raises Unfit for what is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 2**31
    if not -(2**31) < number < 2**31:
        raise Unfit(Reason.WRONG_TYPE.of(role))
    return number


def clean_negatives(value: object, replace: dict[str, str] | None = None) -> list[str]:
    """Hard negatives as a list of non-empty texts. Raises Unfit where they are neither texts nor absent.

    >>> clean_negatives([" Lyon ", None, ""])
    ['Lyon']
    """
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise Unfit(Reason.WRONG_TYPE.of("negatives"))
    texts = [replaced(text, replace) for text in texts] if replace else texts
    return [clean(text, "negative") for text in texts if text.strip()]


def clean_answers(value: object, name: str | None) -> tuple[str, ...]:
    """The answers in a row's column: a text, a list of them, or none. Raises Unfit for anything else."""
    found = value.get(name) if isinstance(value, dict) else None
    if found is None:
        return ()
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Unfit(Reason.WRONG_TYPE.of("answers"))
    return tuple(texts)


def encodable(text: str) -> bool:
    """Whether a string is Unicode text: half a surrogate pair, as JSON can spell, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_own(negatives: list[str], own: list[str]) -> list[str]:
    """Leave out the negatives that are, up to case and white space, a text of their own row.

    Args:
        negatives: stripped, none of them empty.
        own: the row's query and documents, the same.

    >>> without_own(["How LONG?", "Two  days", "Two weeks"], ["How long?", "Two days"])
    ['Two weeks']
    """
    beginnings = set(map(beginning, own))
    if not any(beginning(text) in beginnings for text in negatives):  # as mostly; `normalize` takes ten times as long
        return negatives
    same = set(map(normalize, own))
    return [text for text in negatives if beginning(text) not in beginnings or normalize(text) not in same]


def beginning(text: str) -> str:
    """The first words of a text's `normalize`."""
    return " ".join(text.split(None, 3)[:3]).lower()


def normalize(text: str) -> str:
    """The text in lower case with single spaces: texts that differ only there are the same text here."""
    return " ".join(text.lower().split())
