"""The pairs of plain rows, whose texts are cleaned, measured and hashed by columns."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from gte.data.cleaning import without_own
from gte.data.columnar.plan import TEXT, TEXTS, Plan
from gte.data.records import Fields

HASHED = pa.schema([
    ("row", pa.int64()), ("high", pa.uint64()), ("low", pa.uint64()),
    ("query", pa.string()), ("document", pa.string()), ("negatives", pa.list_(pa.string())),
])  # fmt: skip
FOLDED = np.arange(256, dtype=np.uint8)  # of each byte: itself, in lower case
FOLDED[ord("A") : ord("Z") + 1] += ord("a") - ord("A")
FOLDED[128:] = 0


def whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def plain_pairs(
    plan: Plan, columns: dict[str, pa.Array], numbers: np.ndarray, fields: Fields
) -> tuple[pa.RecordBatch, np.ndarray]:
    """The pairs of the rows of a table.

    Args:
        plan: what the columns are.
        columns: of equal lengths.
        numbers: the rows' numbers in their file.
        fields: the source's.
    Returns: a batch of HASHED with the pairs of all plain rows, and the mask of the rows that are not.
    """
    if plan.kind == "set":
        (texts,) = columns.values()
        texts, bad = clean_lists(texts)
        bad |= lengths_of(texts) < 2
        texts, owners = texts.filter(pa.array(~bad)).flatten(), np.repeat(np.arange(len(bad)), lengths_of(texts) * ~bad)
        followed = np.flatnonzero(owners[1:] == owners[:-1])
        query, document = (texts.take(pa.array(followed + step)) for step in (0, 1))
        return hashed(numbers[owners[followed]], query, document), bad
    if plan.kind == "list":
        query, document, negatives, bad = list_columns(columns["row"], plan)
    else:
        query, document = (joined(columns, names) for names in (plan.query, plan.document))
        negatives = None if plan.negatives is None else columns[plan.negatives]
        bad = filtered(columns, fields, len(numbers))
    query, empty = cleaned(query)
    bad |= empty | shorter(query, fields.min_query)
    if document.type == TEXTS:
        documents, empty = clean_lists(document)
        counts = lengths_of(documents)
        bad |= empty | (counts == 0)
    else:
        documents, empty = cleaned(document)
        counts = np.ones(len(numbers), int)
        bad |= empty
    flat = documents.flatten() if document.type == TEXTS else documents
    owners = np.repeat(np.arange(len(numbers)), counts)
    bad[owners[shorter(flat, fields.min_document)]] = True
    if fields.max_document is not None:
        bad[owners[~shorter(flat, fields.max_document + 1)]] = True
    if negatives is not None:
        negatives, doubtful = clean_negatives(negatives, query, flat, counts, fields)
        bad |= doubtful
    if bad.any():
        keep = ~bad
        flat, owners = flat.filter(pa.array(keep[owners])), owners[keep[owners]]
    if bad.any() or len(owners) > len(numbers):
        query = query.take(pa.array(owners))
        negatives = negatives.take(pa.array(owners)) if negatives is not None else None
    return hashed(numbers[owners], query, flat, negatives), bad


def list_columns(rows: pa.ListArray, plan: Plan) -> tuple[pa.Array, pa.Array, pa.Array | None, np.ndarray]:
    """Query, document and negatives of rows that are lists, and the mask of those that are too short."""
    values, counts = rows.flatten(), lengths_of(rows)
    starts = counts.cumsum() - counts
    query, document, negative = plan.positions or (0, 1, None)
    bad = counts <= max(query, document, negative or 0)
    asked = [query, document, *([] if negative is None else [negative])]
    found = [values.take(pa.array(starts + place, mask=bad)) for place in asked]
    if plan.positions is None and counts.max(initial=0) > 2:
        owners = np.repeat(np.arange(len(counts)), counts)
        further = np.arange(len(values)) - starts[owners] > 1
        further &= lengths_of(trimmed(pc.fill_null(values, "")), pc.binary_length) > 0
        sizes = np.bincount(owners[further], minlength=len(counts))
        found.append(lists_of(values.filter(pa.array(further)), sizes))
    return *found[:2], found[2] if len(found) > 2 else None, bad


def joined(columns: dict[str, pa.Array], names: str | list[str]) -> pa.Array:
    """The texts of a column; of several ones the non-empty texts of a row joined, as `records.pick` does."""
    if not isinstance(names, list):
        return columns[names]
    first, *others = [trimmed(pc.fill_null(columns[name], "")) for name in names]
    for part in others:
        both = pc.if_else(pc.equal(part, ""), first, pc.binary_join_element_wise(first, part, ": "))
        first = pc.if_else(pc.equal(first, ""), part, both)
    return first


def filtered(columns: dict[str, pa.Array], fields: Fields, count: int) -> np.ndarray:
    """The mask of rows that the source skips, or whose answers are no texts."""
    bad = np.zeros(count, bool)
    for filters, wanted in ((fields.keep, True), (fields.drop, False)):
        for name, values in filters.items():
            values = values if isinstance(values, list) else [values]
            bad |= mask(pc.is_in(columns[name], pa.array(values, columns[name].type))) != wanted
    if fields.score is not None:
        bad |= ~mask(pc.greater_equal(columns[fields.score], fields.min_score))
    if fields.answers is not None and columns[fields.answers].type == TEXTS:
        answers = columns[fields.answers]
        owners = np.repeat(np.arange(count), lengths_of(answers))
        bad[owners[mask(answers.flatten().is_null())]] = True
    return bad


def cleaned(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The texts as `records.clean` makes them, and the mask of those that it refuses."""
    texts = trimmed(pc.fill_null(texts, "") if texts.null_count else texts)
    bad = lengths_of(texts, pc.binary_length) == 0
    data = texts.buffers()[2]
    if data is not None and not np.frombuffer(data, np.uint8).all():
        bad |= mask(pc.match_substring(texts, "\0"))
    return texts, bad


def trimmed(texts: pa.StringArray) -> pa.StringArray:
    """The texts, none of them null, as `str.strip` leaves them."""
    texts = pc.ascii_trim_whitespace(texts)
    offsets, data = buffers(texts)
    filled = offsets[1:] > offsets[:-1]
    if not filled.any():
        return texts
    edges = np.concatenate([data[offsets[:-1][filled]], data[offsets[1:][filled] - 1]])
    if ((edges > ord(" ")) & (edges < 0x7F)).all():
        return texts
    return pc.utf8_trim_whitespace(texts)  # its first call takes 0.2 s for a table of all characters


def buffers(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each text begins and the last one ends, int32, and the bytes of all."""
    _, offsets, data = texts.buffers()
    offsets = np.frombuffer(offsets, np.int32)[texts.offset :][: len(texts) + 1]
    return offsets, np.frombuffer(data or b"", np.uint8)


def clean_lists(texts: pa.ListArray) -> tuple[pa.ListArray, np.ndarray]:
    """Lists of texts with each of them `cleaned`, and the mask of the lists that are none or hold a refused one."""
    counts = lengths_of(texts)
    values, refused = cleaned(texts.flatten())
    bad = mask(texts.is_null())
    bad[np.repeat(np.arange(len(counts)), counts)[refused]] = True
    return lists_of(values, counts), bad


def clean_negatives(
    negatives: pa.Array, queries: pa.Array, documents: pa.Array, counts: np.ndarray, fields: Fields
) -> tuple[pa.ListArray, np.ndarray]:
    """Negatives as lists, null where a row has none, and the mask of the rows in which not all can stay as they are.

    queries: of the rows. documents: all of them, `counts` of each row.
    """
    if negatives.type == TEXT:
        there = lengths_of(trimmed(pc.fill_null(negatives, "")), pc.binary_length) > 0
        values, sizes = negatives.filter(pa.array(there)), there.astype(int)
    else:
        values, sizes = negatives.flatten(), lengths_of(negatives)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    values, refused = cleaned(values)
    refused |= shorter(values, fields.min_document) | repeats(values, queries, owners)
    if fields.max_document is not None:
        refused |= ~shorter(values, fields.max_document + 1)
    single = (counts == 1)[owners]  # beside several documents none can stay
    places = np.where(single, (counts.cumsum() - counts)[owners], 0)
    refused |= ~single | (repeats(values, documents, places) if len(documents) else False)
    bad = np.zeros(len(sizes), bool)
    bad[owners[refused]] = True
    return lists_of(values, sizes, sizes == 0), bad


def repeats(texts: pa.Array, others: pa.Array, places: np.ndarray) -> np.ndarray:
    """The mask of texts that equal the one of the others at their place up to case and white space.

    Both are `cleaned`. Most differ in their first or last byte, and only the rest is compared as Python strings.
    """
    one, other = ends(texts), ends(others)[:, places]
    near = np.flatnonzero(((one == other) | (one == 0) | (other == 0)).all(axis=0))
    found = np.zeros(len(texts), bool)
    pairs = zip(texts.take(pa.array(near)).to_pylist(), others.take(pa.array(places[near])).to_pylist(), strict=True)
    found[near] = [not without_own([text], [own]) for text, own in pairs]
    return found


def ends(texts: pa.StringArray) -> np.ndarray:
    """The first and the last byte of each text, uint8 [2, texts], in lower case; 0 of an empty text and what is not
    ASCII."""
    offsets, data = buffers(texts)
    found = np.zeros((2, len(texts)), np.uint8)
    filled = offsets[1:] > offsets[:-1]
    found[0, filled] = FOLDED[data[offsets[:-1][filled]]]
    found[1, filled] = FOLDED[data[offsets[1:][filled] - 1]]
    return found


def lists_of(values: pa.Array, counts: np.ndarray, null: np.ndarray | None = None) -> pa.ListArray:
    """Lists of so many of the values each."""
    offsets = pa.array(np.append(0, counts.cumsum()).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=None if null is None else pa.array(null))


def lengths_of(values: pa.Array, measure: Callable = pc.list_value_length) -> np.ndarray:
    """Lengths; 0 of null."""
    return pc.fill_null(measure(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def shorter(texts: pa.Array, least: int) -> np.ndarray:
    """The mask of texts of fewer characters."""
    return lengths_of(texts, pc.utf8_length) < least if least else np.zeros(len(texts), bool)


def mask(values: pa.BooleanArray) -> np.ndarray:
    """A mask; False for null."""
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def hashed(
    numbers: np.ndarray, query: pa.Array, document: pa.Array, negatives: pa.ListArray | None = None
) -> pa.RecordBatch:
    """A batch of HASHED, with what `records.pair_hash` gives for each pair."""
    length = pc.cast(pc.binary_length(query), TEXT)
    spelt = pc.binary_join_element_wise(length, ":", query, document, "").cast(pa.binary())
    digests = b"".join(map(xxh3_128_digest, spelt.to_pylist()))
    high, low = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2).T
    if negatives is None:
        negatives = pa.nulls(len(numbers), TEXTS)
    return pa.record_batch(
        [pa.array(numbers), pa.array(high), pa.array(low), query, document, negatives], schema=HASHED
    )
