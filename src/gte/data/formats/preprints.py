"""Metadata of preprints: pages of the bioRxiv and medRxiv API, and arXiv's snapshot as JSON lines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from gte.data.cleaning import clean, whole_number
from gte.data.formats.highwire import readable
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.readers import read_objects
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Keyed, KeyedRow, Record, Rejected, records

# at the beginning of an abstract or a title; "Withdrawn money ..." and "The drug was withdrawn ..." begin others
BARE = r"(paper|article|submission|preprint|manuscript)"
KIND = rf"({BARE}|work|study|letter|note|comment|report|version|entry)"
WHO = r"((the|all) (\w+ )?authors?|we|i|arxiv|(bio|med)rxiv)"
WITHDRAWN = re.compile(
    r"\W*(arxiv admin note\W+|(abstract|withdrawal statement)\W*)?"
    rf"((the (\w+ )?{KIND}|this (\w+ )?\w+|{BARE}) (has been|have been|is|was) ((temporarily|hereby|being) )?withdrawn"
    rf"|({KIND} )?withdrawn( (by (the |its )?(\w+ )?(authors?|arxiv|biorxiv|medrxiv)|due to|because|since|pending"
    r"|for revision)\b|[].:;!)]|$)"
    rf"|{WHO} ((has|have) withdrawn|(hereby )?withdraws?) (this|the|their|his|her|our|my) {KIND}\b)",
    re.IGNORECASE,
)
TEXTS = ("title", "abstract")
NOTHING = ("NA", "N/A")  # stands for a missing text


def read_arxiv(path: Path, fields: Fields) -> Iterator[Record]:
    """Papers, the line breaks in their titles and abstracts folded; without withdrawn ones."""
    return read_objects(path, fields, folded)


def folded(paper: dict) -> dict:
    """The paper with white space folded in its title and abstract. Raises Unfit for a withdrawn one."""
    texts = {name: " ".join(paper[name].split()) for name in TEXTS if isinstance(paper.get(name), str)}
    if any(map(WITHDRAWN.match, texts.values())):
        raise Unfit(Reason.WITHDRAWN)
    return {**paper, **texts}


def cleared(preprint: dict) -> dict:
    """The preprint with title and abstract without markup. Raises Unfit where one stands for a missing one."""
    texts = {name: readable(preprint[name]) for name in TEXTS if isinstance(preprint.get(name), str)}
    for name, reason in zip(TEXTS, (Reason.NO_TITLE, Reason.NO_ABSTRACT), strict=True):
        if texts.get(name) in NOTHING:
            raise Unfit(reason)
    return {**preprint, **texts}


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
        value = folded(cleared(json.loads(last.values[0])))
    except Unfit as unfit:
        yield last.file, Rejected(unfit.reason, last.row)
    else:
        for record in records(value, fields, last.row):
            yield last.file, record
