"""A look at a source before it is prepared: its columns, two of its pairs, and what seems wrong with the first ones."""

from collections import Counter
from itertools import islice
from statistics import median

from gte.data.columnar.read import first_records
from gte.data.columns import SAMPLE, UNNAMED, is_number
from gte.data.reasons import is_fault
from gte.data.records import Pair, Record, Rejected, Triple
from gte.data.sources import Raw, Source

LOOKED_AT = 10_000  # rows
TOO_LONG = 100  # times the median
EXAMPLES = 2


def preview(source: Source, raws: list[Raw]) -> dict:
    """The part of a user's file that the manifest keeps: columns by role, others, two pairs, a negative, and warnings.

    source: of the user's own files. raws: where its rows are; the first LOOKED_AT are read. Raises UserError where a
    file cannot be read.
    """
    records: list[Record] = []
    for raw in raws:
        records += first_records(source, raw, LOOKED_AT - len(records))
        if len(records) == LOOKED_AT:
            break
    pairs = [record for record in records if not isinstance(record, Rejected)]
    return {
        **{key: value for key, value in source.columns.items() if key != "notes"},
        "examples": [[pair.query, pair.document] for pair in pairs[:EXAMPLES]],
        **first_negative(source, raws),
        "warnings": [*source.columns.get("notes", []), *doubts(records, pairs)],
    }


def first_negative(source: Source, raws: list[Raw]) -> dict[str, str]:
    """The first negative among a source's first rows, as {"negative": text}; {} where they have none."""
    for record in islice((record for raw in raws for record in source.read(raw)), SAMPLE):
        if isinstance(record, Triple):
            return {"negative": record.negatives[0]}
    return {}


def doubts(records: list, pairs: list[Pair | Triple]) -> list[str]:
    """Warnings about the rows of a file, a line each."""
    found = []
    faults = Counter(record.reason for record in records if isinstance(record, Rejected))
    for reason, count in faults.items():
        if is_fault(reason):
            row = next(record.row for record in records if isinstance(record, Rejected) and record.reason == reason)
            found.append(f"{count:,} of the first {len(records):,} rows are rejected: {reason}, first row {row}")
    if not pairs:
        return [*found, "no pair among its first rows"]
    for role, texts in (("queries", [pair.query for pair in pairs]), ("documents", [pair.document for pair in pairs])):
        numbers = sum(map(is_number, texts))
        if numbers * 2 > len(texts):
            found.append(f"{numbers:,} of {len(texts):,} {role} are numbers, '{texts[0][:40]}' for one")
        lengths = [len(text) for text in texts]
        usual = median(lengths)
        long = [number for number, length in enumerate(lengths) if length > TOO_LONG * usual]
        if long:
            found.append(
                f"{len(long):,} of the {role} have over {TOO_LONG} times the median of {usual:,.0f} characters, first "
                f"row {pairs[long[0]].row} with {lengths[long[0]]:,}: is a quote or a line end missing?"
            )
        text, count = Counter(texts).most_common(1)[0]
        if len(pairs) >= 20 and count * 2 > len(pairs):
            found.append(f"{count:,} of {len(texts):,} {role} are the same: '{' '.join(text.split())[:60]}'")
    equal = [pair for pair in pairs if pair.query == pair.document]
    if equal:
        found.append(f"{len(equal):,} of {len(pairs):,} pairs are of two equal texts, first row {equal[0].row}")
    return found


def describe(name: str, file: str, shown: dict) -> list[str]:
    """The lines that tell a user what `preview` found."""
    roles = [(role, shown.get(role)) for role in ("query", "document", "negatives", "score", "keep")]
    used = ", ".join(f"{role} = {spelt(value)}" for role, value in roles if value not in (None, [], {}))
    used = used or shown.get("shape", "as each row's shape says")
    if shown.get("min_score") is not None:
        used += f" from {shown['min_score']:g} on"
    unused = f"; not used: {spelt(shown['unused'])}" if shown.get("unused") else ""
    lines = [f"{name} ({file}): {used}{unused}"]
    lines += [f"    {shorten(query)}  ->  {shorten(document)}" for query, document in shown["examples"]]
    if shown.get("negative"):
        lines.append(f"    negative: {shorten(shown['negative'])}")
    return lines + [f"    warning: {warning}" for warning in shown["warnings"]]


def spelt(value: object) -> str:
    """Columns as people read them; a position counts from 1."""
    if isinstance(value, list):
        return ", ".join(map(spelt, value))
    if isinstance(value, dict):
        return ", ".join(f"{spelt(key)} {values}" for key, values in value.items())
    return f"column {value + 1}" if isinstance(value, int) else " ".join(value.split()) or UNNAMED


def shorten(text: str, width: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 4]} ..."
