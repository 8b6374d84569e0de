"""Results of a reader: pairs, triples, and rejections with their reasons."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from gte.data.cleaning import clean, clean_answers, clean_negatives, without_own
from gte.data.reasons import Reason, Unfit

Field = str | int | list | None
ANY_POSITIVE = ("pos", "document", "answer")  # names of which each row of a file may have another


class Pair(NamedTuple):
    """A query and its document, both non-empty and stripped.

    Args:
        query, document: the text that is searched with, and the one to be found.
        row: its position in its file, from 1.
        way: how its text was read, where the row could be read in several ways: few and fixed, they are counted.
        answers: strings that answer the query, where the source has them.
        dropped: why hard negatives of its row are none of it, a reason each.

    >>> Pair("capital of France", "Paris is the capital of France.").document
    'Paris is the capital of France.'
    """

    query: str
    document: str
    row: int = 0
    answers: tuple[str, ...] = ()
    way: str | None = None
    dropped: tuple[str, ...] = ()


class Triple(NamedTuple):
    """A pair with at least one hard negative, none of them its query or a document of its row (`without_own`).

    Args as of `Pair`, and negatives: texts that are not to be found.

    >>> len(Triple("capital of France", "Paris", ["Lyon", "Nice"]).negatives)
    2
    """

    query: str
    document: str
    negatives: list[str]
    row: int = 0
    answers: tuple[str, ...] = ()
    way: str | None = None
    dropped: tuple[str, ...] = ()


class Rejected(NamedTuple):
    """A row that gave no pair, and the reason, one of few by which rejections are counted.

    >>> next(records({"query": " ", "pos": "a text"}, Fields(), row=7))
    Rejected(reason='empty query', row=7)
    """

    reason: str
    row: int


Record = Pair | Triple | Rejected


class Keyed(NamedTuple):
    """A raw row that gives its pair only with the others of its key, which may stand anywhere in the source's files.

    order: among those of a key, the lowest first; then file and row decide. values: what the format's join needs.
    """

    key: str
    order: int
    values: list[str]
    row: int


class KeyedRow(NamedTuple):
    """A `Keyed` row as a format's join sees it, with its file."""

    key: str
    order: int
    file: str
    row: int
    values: list[str]


@dataclass(frozen=True)
class Fields:
    """The fields of a raw row that hold its texts: names of a dict, or positions of a list.

    With all of them None the shape of the row decides: {"query", "pos", "neg"} ("document" or "answer" for "pos"),
    {"set": [...]}, {"text": [title, body]}, [query, document] or [query, document, negative, negative, ...].

    Args:
        query: a field, or a list of fields that are joined by ": ", empty parts skipped.
        document: the same; a list of passages (objects with title and text) counts as their texts.
        negatives: hard negatives; of a list of fields each is one.
        id: field whose values are unique in a file.
        keep: the value or values by field that a row must have there.
        drop: the value or values by field that a row must not have there.
        replace: regular expressions and their replacements in queries, documents and negatives.
        min_query, min_document, max_document: characters that a text must have, or must not exceed; negatives are
            documents.
        answers: field that holds the strings which answer a query.
        score: field of a number.
        min_score: the least number there.

    >>> faq = Fields(query="question", document=["title", "answer"])
    >>> list(records({"question": "How long?", "title": "Delivery", "answer": "Two days."}, faq, row=1))
    [Pair(query='How long?', document='Delivery: Two days.', row=1, answers=(), way=None, dropped=())]
    """

    query: Field = None
    document: Field = None
    negatives: Field = None
    id: str | int | None = None
    keep: dict = field(default_factory=dict)
    drop: dict = field(default_factory=dict)
    replace: dict[str, str] = field(default_factory=dict)
    min_query: int = 0
    min_document: int = 0
    max_document: int | None = None
    answers: str | None = None
    score: str | int | None = None
    min_score: float | None = None

    @property
    def names(self) -> list[str]:
        """The columns that every row must have."""
        wanted = [self.query, self.document, self.negatives, self.answers, self.id, self.score]
        wanted += [*self.keep, *self.drop]
        flat = [name for one in wanted for name in (one if isinstance(one, list) else [one])]
        return list(dict.fromkeys(name for name in flat if isinstance(name, str)))


def records(
    value: object, fields: Fields, row: int, seen: set[int] | None = None, split: Callable | None = None
) -> Iterator[Record]:
    """Make the pairs of one raw row, or its rejection: k documents give k records, a set of k texts k - 1.

    Args:
        value: the row, a dict or a list.
        fields: the fields that hold its texts.
        row: its position in its file, from 1.
        seen: the hashes of the ids of the rows before it in its file, to which its own is added; about 65 bytes a row.
        split: takes an object of a format's own shape apart, instead of `split_row`.

    >>> [pair[:2] for pair in records({"set": ["one", "two", "three"]}, Fields(), row=1)]
    [('one', 'two'), ('two', 'three')]
    """
    try:
        if split and not isinstance(value, dict):
            raise Unfit(Reason.UNKNOWN_SHAPE)
        if fields.keep or fields.drop:
            check_filters(value, fields)
        if fields.score is not None:
            check_score(value, fields)
        if fields.id is not None and seen is not None:
            check_id(value, fields.id, seen)
        query, documents, negatives = (split or split_row)(value, fields)
        if query is None:  # a set: each text with the next
            texts = [clean(text, "text of a set") for text in documents]
            if len(texts) < 2:
                raise Unfit(Reason.SMALL_SET)
            for first, second in pairwise(texts):
                yield Pair(first, second, row)
            return
        if not documents:
            raise Unfit(Reason.MISSING.of("document"))
        query, negatives = clean(query, "query", fields.replace), clean_negatives(negatives, fields.replace)
        answers = clean_answers(value, fields.answers)
    except Unfit as unfit:
        yield Rejected(unfit.reason, row)
        return
    found = [document_or_fault(query, document, fields) for document in documents]
    dropped = ()
    if negatives:
        own = [query, *(document for document in found if not isinstance(document, Unfit))]
        negatives, dropped = fit_negatives(negatives, own, fields)
    for document in found:
        if isinstance(document, Unfit):
            yield Rejected(document.reason, row)
        elif negatives:
            yield Triple(query, document, negatives, row, answers, None, dropped)
        else:
            yield Pair(query, document, row, answers, None, dropped)


def document_or_fault(query: str, document: object, fields: Fields) -> str | Unfit:
    """The clean document of a pair, or why its source takes no such pair."""
    try:
        document = clean(document, "document", fields.replace)
        if len(query) < fields.min_query:
            raise Unfit(Reason.SHORT_QUERY.of(fields.min_query))
        if fault := length_fault(document, fields):
            raise Unfit(fault)
    except Unfit as unfit:
        return unfit
    return document


def length_fault(document: str, fields: Fields) -> str | None:
    """Why a source skips a document, or a negative, as too short or too long."""
    if len(document) < fields.min_document:
        return Reason.SHORT_DOCUMENT.of(fields.min_document)
    if fields.max_document is not None and len(document) > fields.max_document:
        return Reason.LONG_DOCUMENT.of(fields.max_document)
    return None


def fit_negatives(negatives: list[str], own: list[str], fields: Fields) -> tuple[list[str], tuple[str, ...]]:
    """The negatives that a row's pairs may have, whose texts are `own`; and why not each of the others."""
    others = without_own(negatives, own)
    dropped = [Reason.OWN_TEXT] * (len(negatives) - len(others))
    if fields.min_document or fields.max_document is not None:
        faults = [length_fault(negative, fields) for negative in others]
        others = [negative for negative, fault in zip(others, faults, strict=True) if not fault]
        dropped += filter(None, faults)
    return others, tuple(dropped)


def check_filters(value: object, fields: Fields) -> None:
    """Raises Unfit for a row that the source skips."""
    for filters, wanted in ((fields.keep, True), (fields.drop, False)):
        for name, values in filters.items():
            values = values if isinstance(values, list) else [values]
            if (cell(value, name) in values) is not wanted:
                said = " or ".join(dict.fromkeys(repr(one) if filled(one) else "empty" for one in values))
                raise Unfit(Reason.FIELD_IS.of(name, f"{'not ' if wanted else ''}{said}"))


def filled(value: object) -> bool:
    """Whether a value is or holds anything; false and 0 are something."""
    if isinstance(value, dict):
        value = list(value.values())
    parts = value if isinstance(value, list) else [value]
    return any(part not in ([], {}, "") for part in parts)


def check_score(value: object, fields: Fields) -> None:
    """Raises Unfit for a row whose score is too low, or no number."""
    found = cell(value, fields.score)
    try:
        score = float(found)
    except (TypeError, ValueError, OverflowError):
        raise Unfit((Reason.MISSING if found in (None, "") else Reason.WRONG_TYPE).of("score")) from None
    if not score >= fields.min_score:
        raise Unfit(Reason.LOW_FIELD.of(fields.score, fields.min_score))


def check_id(value: object, name: str | int, seen: set[int]) -> None:
    """Adds a row's id to those seen. Raises Unfit where it is there already."""
    identity = cell(value, name)
    if identity is None or identity == "":
        raise Unfit(Reason.MISSING.of("id"))
    if isinstance(identity, list | dict) or (isinstance(identity, int) and identity.bit_length() > 64):
        raise Unfit(Reason.WRONG_TYPE.of("id"))
    known = len(seen)
    seen.add(hash(str(identity)))
    if len(seen) == known:
        raise Unfit(Reason.DUPLICATE_ID)


def cell(value: object, name: str | int):
    """The value of one field of a row, None where it has none."""
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and isinstance(name, int) and name < len(value):
        return value[name]
    return None


def split_row(value: object, fields: Fields) -> tuple:
    """(query, documents, negatives) of a raw row, unchecked; the query of a {"set": [...]} is None."""
    if isinstance(value, dict):
        if fields.query is not None:
            query, document = pick(value, fields.query), passages(pick(value, fields.document))
            negatives = gather(value, fields.negatives)
        elif "query" in value:
            query, negatives = value["query"], value.get("neg")
            document = next((value[name] for name in ANY_POSITIVE if name in value), None)
        elif isinstance(value.get("set"), list):
            return None, value["set"], None
        elif isinstance(value.get("text"), list):
            query, document = (*value["text"], None, None)[:2]
            negatives = None
        else:
            raise Unfit(Reason.UNKNOWN_SHAPE)
    elif isinstance(value, list):
        positions = [fields.query, fields.document, fields.negatives]
        if not isinstance(fields.query, int):
            positions = [0, 1, list(range(2, len(value)))]
        if any(position >= len(value) for position in flat_positions(positions)):
            raise Unfit(Reason.TOO_FEW_COLUMNS)
        query, document = value[positions[0]], value[positions[1]]
        negatives = gather(value, positions[2])
    else:
        raise Unfit(Reason.UNKNOWN_SHAPE)
    if query is None:
        raise Unfit(Reason.MISSING.of("query"))
    return query, document if isinstance(document, list) else [document], negatives


def shape(rows: list) -> str:
    """The layout of rows that have no named columns, in words for a user.

    >>> shape([["a query", "its document"], ["a query", "its document", "a negative", "another one"]])
    'lists: query, document, negatives'
    """
    lists = [row for row in rows if isinstance(row, list)]
    if len(lists) < len(rows):
        return "lists and sets of texts"
    return "lists: query, document" + (", negatives" if any(len(row) > 2 for row in lists) else "")


def flat_positions(positions: list) -> list[int]:
    """Positions and lists of positions as one list."""
    several = positions[2] if isinstance(positions[2], list) else [positions[2]]
    return [position for position in [*positions[:2], *several] if position is not None]


def gather(row: dict | list, field: Field):
    """The negatives of a field; of several fields those of all, as one list."""
    if field is None:
        return None
    if not isinstance(field, list):
        return passages(cell(row, field))
    found = [passages(cell(row, name)) for name in field]
    return [text for one in found for text in (one if isinstance(one, list) else [one]) if text is not None]


def passages(value: object):
    """The texts, "title: text", of a list of passages; any other value as it is."""
    if not isinstance(value, list) or not any(isinstance(one, dict) for one in value):
        return value
    return [pick(one, ["title", "text"]) if isinstance(one, dict) else one for one in value]


def pick(row: dict, field: Field):
    """The value of a field, None where it is absent; of several fields the non-empty ones joined by ': '."""
    if not isinstance(field, list):
        return row.get(field)
    parts = [row.get(name) for name in field]
    if any(part is not None and not isinstance(part, str) for part in parts):
        return parts  # of a wrong type: `clean` says so
    return ": ".join(part.strip() for part in parts if part and part.strip())


def pair_hash(query: str, document: str) -> tuple[int, int]:
    """Hash a pair to 128 bits, by which prepare finds exact duplicates.

    The query's length goes in first, so that no two different pairs are spelt alike. Among 10^9 pairs two share a hash
    by chance with probability 10^-21. XXH3 is no cryptographic hash: whoever means to can write two pairs of one hash,
    of which one is lost as a duplicate.

    Args:
        query: the pair's query.
        document: its document.
    Returns: XXH3-128 of both texts as two unsigned 64-bit numbers, high one first.

    >>> pair_hash("ab", "c") == pair_hash("a", "bc")
    False
    """
    head = query.encode()
    both = xxh3_128_intdigest(b"%d:%b%b" % (len(head), head, document.encode()))
    return both >> 64, both & (1 << 64) - 1


def text_hash(text: str) -> int:
    """Hash a text to 64 bits (XXH3), by which equal texts in different rows, sources or ranks are found.

    >>> text_hash("a text") == text_hash("a text") < 2**64
    True
    """
    return xxh3_64_intdigest(text.encode())
