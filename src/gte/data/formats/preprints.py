"""Metadata of preprints: pages of the bioRxiv and medRxiv API, and arXiv's snapshot as JSON lines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from gte.data.cleaning import clean, whole_number
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.readers import read_objects
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Keyed, KeyedRow, Record, Rejected, records

# at the beginning of an abstract; "Withdrawn money ..." and "The drug was withdrawn ..." begin papers that were not
KIND = r"(paper|article|submission|preprint|manuscript|work|study|letter|note|comment|report|version|entry)"
WITHDRAWN = re.compile(
    rf"(the (\w+ )?{KIND}|this (\w+ )?\w+) (has been|have been|is|was) (temporarily )?withdrawn"
    rf"|\W*({KIND} )?withdrawn( (by (the |its )?(\w+ )?(authors?|arxiv)|due to|because|since|pending)\b|[].:;!)]|$)"
    rf"|(withdrawal statement\W+)?the authors? (has|have) withdrawn (this|the|their|his|her) {KIND}",
    re.IGNORECASE,
)


def read_arxiv(path: Path, fields: Fields) -> Iterator[Record]:
    """Papers, the line breaks in their titles and abstracts folded; without withdrawn ones."""
    return read_objects(path, fields, folded)


def folded(paper: dict) -> dict:
    """The paper with white space folded in its title and abstract. Raises Unfit for a withdrawn one."""
    texts = {name: " ".join(paper[name].split()) for name in ("title", "abstract") if isinstance(paper.get(name), str)}
    if WITHDRAWN.match(texts.get("abstract", "")):
        raise Unfit(Reason.WITHDRAWN)
    return {**paper, **texts}


def read_api_page(path: Path, fields: Fields) -> Iterator[Keyed | Rejected]:
    """The versions of preprints by DOI; row is the position in the page's collection, from 1."""
    page = bytearray()
    for item in lines(path, MAX_LINE):
        if isinstance(item, Rejected):
            yield item
            return
        page += item[1]
        if len(page) > MAX_LINE:
            yield Rejected(Reason.LONG_PAGE.of(MAX_LINE), 0)
            return
    try:
        collection = json.loads(page.decode())["collection"]
    except UnicodeDecodeError:
        yield Rejected(Reason.INVALID_UTF8, 0)
        return
    except (ValueError, RecursionError):
        yield Rejected(Reason.INVALID_JSON, 0)
        return
    except (TypeError, LookupError):
        collection = None
    if not isinstance(collection, list):
        yield Rejected(Reason.NO_COLLECTION, 0)
        return
    for row, preprint in enumerate(collection, 1):
        try:
            if not isinstance(preprint, dict):
                raise Unfit(Reason.UNKNOWN_SHAPE)
            doi = clean(preprint.get("doi"), "doi").lower()
            version = whole_number(preprint.get("version"), "version")
            yield Keyed(doi, version, [json.dumps(preprint)], row)
        except Unfit as unfit:
            yield Rejected(unfit.reason, row)


def join_versions(rows: Iterator[KeyedRow], fields: Fields) -> Iterator[tuple[str, Record]]:
    """The last version of a preprint, unless that withdraws it; the others are skipped."""
    *older, last = rows
    for row in older:
        yield row.file, Rejected(Reason.SUPERSEDED, row.row)
    try:
        value = folded(json.loads(last.values[0]))
    except Unfit as unfit:
        yield last.file, Rejected(unfit.reason, last.row)
    else:
        for record in records(value, fields, last.row):
            yield last.file, record
