"""SNLI and MultiNLI: sentence pairs whose label says whether the second follows from the first."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.cleaning import clean
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import read_keyed
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Keyed, KeyedRow, Record, Rejected, records

CONTRADICTED, ENTAILED = 0, 1  # order of the rows of a premise


def read_nli(path: Path | zipfile.Path, fields: Fields, *, max_line: int = MAX_LINE) -> Iterator[Keyed | Rejected]:
    """Entailed and contradicting sentences by their premise; neutral ones and those without a label are skipped."""
    return read_keyed(path, take_sentence, max_line)


def take_sentence(row: int, value: dict) -> Iterator[Keyed]:
    """The second sentence by the first."""
    label = value.get("gold_label")
    if label in ("neutral", "-"):
        raise Unfit(Reason.NEUTRAL if label == "neutral" else Reason.NO_LABEL)
    if label not in ("contradiction", "entailment"):
        raise Unfit(Reason.UNKNOWN_LABEL)
    premise, sentence = clean(value.get("sentence1"), "query"), clean(value.get("sentence2"), "document")
    yield Keyed(premise, CONTRADICTED if label == "contradiction" else ENTAILED, [sentence], row)


def join_nli(rows: Iterator[KeyedRow], fields: Fields) -> Iterator[tuple[str, Record]]:
    """Each entailed sentence as a row of premise, entailed and contradicting (a list); a premise needs both."""
    contradictions, entailed = [], False
    for row in rows:
        if row.order == CONTRADICTED:
            contradictions.append(row)
            continue
        entailed = True
        if not contradictions:
            yield row.file, Rejected(Reason.NO_CONTRADICTION, row.row)
            continue
        contradicting = [other.values[0] for other in contradictions]
        value = {"premise": row.key, "entailed": row.values[0], "contradicting": contradicting}
        for record in records(value, fields, row.row):
            yield row.file, record
    for row in [] if entailed else contradictions:
        yield row.file, Rejected(Reason.NO_ENTAILMENT, row.row)
