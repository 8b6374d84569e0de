"""The values of a raw row as clean texts and numbers, or the reason why they are none."""

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
        for pattern, text in (replace or {}).items():
            value = re.sub(pattern, text, value)
        text = value.strip()
        if not text:
            raise Unfit(Reason.EMPTY.of(role))
        if not text.isascii() and not encodable(text):
            raise Unfit(Reason.INVALID_UTF8)
        if "\0" in text:
            raise Unfit(Reason.HOLDS_NUL.of(role))
        return text
    raise Unfit((Reason.MISSING if value is None else Reason.WRONG_TYPE).of(role))


def whole_number(value: object, role: str) -> int:
    """A number or the digits of one, of 32 bits at most. Raises Unfit for what is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 2**31
    if not -(2**31) < number < 2**31:
        raise Unfit(Reason.WRONG_TYPE.of(role))
    return number


def clean_negatives(value: object) -> list[str]:
    """Hard negatives as a list of non-empty texts. Raises Unfit where they are neither texts nor absent."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in values):
        raise Unfit(Reason.WRONG_TYPE.of("negatives"))
    return [clean(text, "negative") for text in values if text.strip()]


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
