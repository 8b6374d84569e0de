"""What a reader yields: pairs, triples, and rejections with their reasons."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

Field = str | int | list | None


class Pair(NamedTuple):
    """A query and its document, both non-empty and stripped; `row` is where it stood in its file, from 1."""

    query: str
    document: str
    row: int = 0
    answers: tuple[str, ...] = ()


class Triple(NamedTuple):
    """A pair with at least one hard negative, none of them the document itself."""

    query: str
    document: str
    negatives: list[str]
    row: int = 0
    answers: tuple[str, ...] = ()


class Rejected(NamedTuple):
    """A row that gave no pair, and why. Reasons are few and fixed: they are what rejections are counted by."""

    reason: str
    row: int


Record = Pair | Triple | Rejected


@dataclass(frozen=True)
class Fields:
    """Where the texts stand in a row: names of a dict, or positions of a list (a bare list without positions: 0, 1, 2).

    A list of names is joined by ": ", empty parts left out. All None: the shape of the row decides, one of
    {"query", "pos", "neg"} ("document" or "answer" for "pos"), {"set": [...]}, {"text": [title, body]},
    [query, document] and [query, document, negative]. answers: the column that holds the strings which answer a query.
    """

    query: Field = None
    document: Field = None
    negatives: Field = None
    answers: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns that every row must have."""
        wanted = [self.query, self.document, self.negatives, self.answers]
        flat = [name for field in wanted for name in (field if isinstance(field, list) else [field])]
        return [name for name in flat if isinstance(name, str)]


class Unfit(Exception):
    """Why a row gives no pair."""


def records(value, fields: Fields, row: int) -> Iterator[Record]:
    """The pairs of one raw row, or why it has none. A row with k documents gives k records, a set of k texts k - 1."""
    try:
        query, documents, negatives = split(value, fields)
        if query is None:  # a set: each text with the next
            texts = [clean(text, "text of a set") for text in documents]
            if len(texts) < 2:
                raise Unfit("set of fewer than two texts")
            for first, second in pairwise(texts):
                yield Pair(first, second, row)
            return
        query, negatives = clean(query, "query"), clean_negatives(negatives)
        answers = clean_answers(value, fields.answers)
    except Unfit as unfit:
        yield Rejected(str(unfit), row)
        return
    for document in documents:
        try:
            document = clean(document, "document")
        except Unfit as unfit:
            yield Rejected(str(unfit), row)
            continue
        others = [negative for negative in negatives if negative != document]
        yield Triple(query, document, others, row, answers) if others else Pair(query, document, row, answers)


def split(value, fields: Fields) -> tuple:
    """(query, documents, negatives) of a raw row, unchecked; the query of a {"set": [...]} is None."""
    if isinstance(value, dict):
        if fields.query is not None:
            query, document = pick(value, fields.query), pick(value, fields.document)
            negatives = None if fields.negatives is None else pick(value, fields.negatives)
        elif "query" in value:
            query, negatives = value["query"], value.get("neg")
            document = next((value[name] for name in ("pos", "document", "answer") if name in value), None)
        elif isinstance(value.get("set"), list):
            return None, value["set"], None
        elif isinstance(value.get("text"), list):
            query, document = (*value["text"], None, None)[:2]
            negatives = None
        else:
            raise Unfit("unknown shape of row")
    elif isinstance(value, list):
        positions = [fields.query, fields.document, fields.negatives]
        if not isinstance(fields.query, int):
            positions = [0, 1, 2 if len(value) > 2 else None]
        if any(position is not None and position >= len(value) for position in positions):
            raise Unfit("too few columns")
        query, document, negatives = (None if position is None else value[position] for position in positions)
    else:
        raise Unfit("unknown shape of row")
    if query is None:
        raise Unfit("missing query")
    if isinstance(document, list) and not document:
        raise Unfit("missing document")
    return query, document if isinstance(document, list) else [document], negatives


def pick(row: dict, field: Field):
    """The value of a field, None where it is absent; of several fields the non-empty ones joined by ': '."""
    if not isinstance(field, list):
        return row.get(field)
    parts = [row.get(name) for name in field]
    if any(part is not None and not isinstance(part, str) for part in parts):
        return parts  # of a wrong type: `clean` says so
    return ": ".join(part.strip() for part in parts if part and part.strip())


def clean(value, role: str) -> str:
    """The text without surrounding white space. Raises Unfit where it is no text, empty, or no Unicode."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            raise Unfit(f"empty {role}")
        if not text.isascii() and not encodable(text):
            raise Unfit("invalid UTF-8")
        return text
    raise Unfit(f"missing {role}" if value is None else f"wrong type of {role}")


def clean_negatives(value) -> list[str]:
    """Hard negatives as a list of non-empty texts. Raises Unfit where they are neither texts nor absent."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in values):
        raise Unfit("wrong type of negatives")
    return [clean(text, "negative") for text in values if text.strip()]


def clean_answers(value, name: str | None) -> tuple[str, ...]:
    """The answers in a row's column: a text, a list of them, or none. Raises Unfit for anything else."""
    found = value.get(name) if isinstance(value, dict) else None
    texts = [found] if isinstance(found, str) else [] if found is None else found
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Unfit("wrong type of answers")
    return tuple(texts)


def encodable(text: str) -> bool:
    """Whether a string is Unicode text: half a surrogate pair, as JSON can spell, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def pair_hash(query: str, document: str) -> tuple[int, int]:
    """128 bits of BLAKE2b over both texts, as two unsigned 64-bit numbers, high one first.

    The query's length goes in first, so that no two different pairs are spelt alike. Among 10^9 pairs two share a
    hash by chance with probability 10^-21.
    """
    head = query.encode()
    digest = blake2b(b"%d:%b%b" % (len(head), head, document.encode()), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b: equal texts in different rows, sources or ranks can be told by it."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
