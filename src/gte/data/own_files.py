"""A user's own files as sources: their formats, and which of their columns is what."""

import glob
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from gte.data.columns import (
    FIND_OUT,
    KNOWN,
    SAMPLE,
    Wanted,
    choose_columns,
    could_be_names,
    find_delimiter,
    find_header,
    flat,
    normal,
)
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.readers import decoded_rows
from gte.data.records import ANY_POSITIVE, Fields, Rejected, records, shape
from gte.data.sources import LOCAL, STAGES, Source
from gte.data.tables import table_rows
from gte.errors import UserError, first_line

LOCAL_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
OTHER_FILES = {
    "xlsx": "save it as CSV",
    "xls": "save it as CSV",
    "ods": "save it as CSV",
    "txt": "name it .tsv or .csv",
}


def infer_sources(path: str | Path, wanted: Wanted = FIND_OUT) -> list[Source]:
    """Make a source for both stages of every file of pairs in a folder: jsonl, json, csv, tsv (each also .gz or .zst),
    parquet.

    Args:
        path: the folder, or one such file.
        wanted: columns and scores that the user names; the rest is found by `gte.data.columns`.
    Returns: the sources, named by the files' stems.
    Raises: UserError for a missing folder, one without such files, two files of one stem, and a file that is not
        understood.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "faq.csv").write_text("question,answer\\nHow long?,Two days\\n")
    ...     (faq,) = infer_sources(folder)
    >>> faq.name, faq.query, faq.document
    ('faq', 'question', 'answer')
    """
    path = require_path(path, wanted.prefix)
    files, others = pair_files(path)
    found: dict[str, Path] = {}
    for file in files:
        stem, _ = split_name(file)
        if stem in found:
            raise UserError(f"{path} holds two files for the source '{stem}': rename {file.name} or the other")
        found[stem] = file
    if not found:
        more = ", ..." if others[5:] else ""
        held = f"; it holds {', '.join(others[:5])}{more}" if others else ""
        raise UserError(f"{path} holds no .jsonl, .csv, .tsv or .parquet file (.json, .gz and .zst are read too){held}")
    wanted = replace(wanted, several=len(found) > 1)
    wanted.check(list(found), path)
    sources = [infer_source(file, wanted) for file in found.values()]
    if wanted.min_score is not None and not any(source.score is not None for source in sources):
        raise UserError(
            f"{wanted.prefix}min_score={wanted.min_score:g}: no file of {path} has a column of scores; name it: "
            f"{wanted.prefix}score=COLUMN"
        )
    return sources


def require_path(path: str | Path, prefix: str) -> Path:
    """The path of a user's folder of pairs. Raises UserError where it is not there; prefix: of the setting, `data.`."""
    if not Path(path).exists():
        raise UserError(f"there is no folder {path}; {prefix}path=FOLDER takes one of jsonl, csv, tsv or parquet files")
    return Path(path)


def pair_files(path: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder that may hold pairs, in order of name; and what else is there, with what to do about it."""
    if path.is_file():
        return ([path], []) if split_name(path)[1] in LOCAL_FORMATS else ([], [other_file(path)])
    files, others = [], []
    for file in sorted(path.iterdir()):
        stem, suffix = split_name(file)
        if not file.is_file() or file.name.startswith("."):
            continue
        rows = suffix in LOCAL_FORMATS and (suffix != "json" or holds_rows(file))
        if stem and rows:
            files.append(file)
        else:
            others.append(other_file(file))
    return files, others


def other_file(path: Path) -> str:
    """A file that is not read, by its name, and what makes it one that is."""
    suffix = split_name(path)[1]
    way_out = "no array and no lines of JSON" if suffix == "json" else OTHER_FILES.get(suffix)
    return f"{path.name} ({way_out})" if way_out else path.name


def holds_rows(path: Path) -> bool:
    """Whether a .json file is an array, SQuAD's object, or has a JSON value a line; a configuration is neither."""
    if named_format(path) == "squad":
        return True
    first = next(
        (item for item in lines(path, MAX_LINE) if isinstance(item, tuple) and not isinstance(item, Rejected)), None
    )
    if first is None or first[1].lstrip().startswith(b"["):
        return True
    try:
        return isinstance(json.loads(first[1]), dict)
    except (ValueError, RecursionError):
        return False


def split_name(path: Path) -> tuple[str, str]:
    """Stem and format of a file's name, compression aside: ('faq', 'csv') for faq.csv.gz."""
    stem, _, suffix = path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")
    return stem, suffix.lower()


def infer_source(path: Path, wanted: Wanted = FIND_OUT) -> Source:
    """One file of pairs as a source of its own folder, as in `infer_sources`. Raises UserError for what it is not."""
    source = local_source(path)
    return replace(source, **infer_columns(path, source, wanted))


def local_source(path: Path) -> Source:
    """One file as a source of its own folder, without fields. Raises UserError for a file of no such format."""
    stem, suffix = split_name(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if suffix not in LOCAL_FORMATS:
        raise UserError(f"{path}: its name must end in .{', .'.join(LOCAL_FORMATS)} (.gz and .zst may follow)")
    return Source(stem, LOCAL, STAGES, named_format(path), files=glob.escape(path.name), folder=".")


def named_format(path: Path) -> str:
    """The format of a user's file: of its name; squad, where a .json file holds SQuAD's articles.

    Raises UserError for one array in a file whose name says lines, and for lines that no line feed ends.
    """
    from gte.data.formats.arrays import head
    from gte.data.formats.squad import is_squad

    suffix = split_name(path)[1]
    if suffix == "jsonl" and re.match(r"\s*\[\s*[\[{]", head(path)):
        named = re.sub(r"\.jsonl(?=(\.gz|\.zst)?$)", ".json", path.name, flags=re.IGNORECASE)
        raise UserError(f"{path} is one JSON array, .jsonl files hold a value a line; rename it to {named}")
    if suffix in ("csv", "tsv", "jsonl") and "\n" not in (start := head(path)) and "\r" in start.strip():
        first = next(lines(path, MAX_LINE))
        if not isinstance(first, Rejected) and not first[1].endswith(b"\n"):
            raise UserError(
                f"{path} ends its lines by \\r alone, as old Macs did; convert it: tr '\\r' '\\n' <OLD >NEW"
            )
    return "squad" if suffix == "json" and is_squad(path) else suffix


def infer_columns(path: Path, source: Source, wanted: Wanted) -> dict:
    """Fields and options of a user's file as its first rows show them; of rows whose shape says it all no fields."""
    if source.reader == "parquet":
        columns, rows = parquet_sample(path)
        return choose_columns(path, source.name, columns, rows, wanted)
    if source.reader in ("csv", "tsv"):
        return infer_table(path, source, wanted)
    rows = [value for value in islice(json_values(path, source.reader), SAMPLE) if isinstance(value, dict | list)]
    refuse_layout(path, source.reader, rows)
    objects = [row for row in rows if isinstance(row, dict)]
    stated = wanted.of(source.name)
    if not stated and (not objects or any(has_shape(row) for row in objects)):
        if all(isinstance(record, Rejected) for row in rows for record in records(row, Fields(), 1)):
            raise UserError(f"{path}: a query and a document are needed, its first row is {json.dumps(rows[0])[:80]}")
        return {"columns": {"shape": shape(rows)}}
    if not objects:
        objects = [dict(enumerate(row)) for row in rows]
    columns = list(dict.fromkeys(key for row in objects for key in row))
    chosen = choose_columns(path, source.name, columns, objects, wanted)
    as_shape = chosen["query"] == "query" and chosen["document"] in ANY_POSITIVE and "score" not in chosen
    if not stated and as_shape and chosen["negatives"] in (None, "neg"):
        return {"columns": chosen["columns"]}  # by the row's shape: another row may have another one of ANY_POSITIVE
    return chosen


def refuse_layout(path: Path, format: str, rows: list) -> None:
    """Raises UserError for JSON whose rows are not where the file's name says, with the way out."""
    from gte.data.formats.arrays import starts_array

    if not rows and format == "json" and starts_array(path):
        raise UserError(
            f"{path}: its array holds neither objects nor lists within its first {SAMPLE:,} items; lines of lists "
            "belong into a .jsonl file"
        )
    if not rows:
        raise UserError(f"{path} holds no JSON row within its first {SAMPLE:,} lines")
    if len(rows) == 1 and isinstance(rows[0], dict):
        inner = [key for key, value in rows[0].items() if isinstance(value, list) and len(value) > 1]
        inner = [key for key in inner if all(isinstance(item, dict) for item in rows[0][key])]
        if len(inner) == 1 and not any(
            isinstance(value, str) for key, value in rows[0].items() if normal(key) in KNOWN
        ):
            raise UserError(
                f"{path} is one object whose '{inner[0]}' is an array; if these are the rows, write it alone to "
                "a .json file"
            )


def has_shape(row: dict) -> bool:
    """Whether an object is one of a shape that has no columns: a set of texts, or a pair as a list."""
    return isinstance(row.get("set"), list) or ("query" not in row and isinstance(row.get("text"), list))


def infer_table(path: Path, source: Source, wanted: Wanted) -> dict:
    """Fields and options of a csv or tsv file."""
    first = [
        item[1].decode(errors="replace") for item in islice(lines(path, MAX_LINE), 50) if isinstance(item[1], bytes)
    ]
    usual = "\t" if source.reader == "tsv" else ","
    delimiter = wanted.separator() or find_delimiter([line for line in first if line.strip()], usual)
    quoting = "none" if source.reader == "tsv" and delimiter == usual else "minimal"
    options = {} if delimiter == usual else {"delimiter": delimiter}
    if source.reader == "tsv" and options:
        options["quoting"] = quoting
    sample = table_rows(path, header=False, delimiter=delimiter, quoting=quoting)
    rows = [row[1] for row in islice(sample, SAMPLE) if not isinstance(row, Rejected)]
    if not rows or len(rows[0]) < 2:
        raise UserError(
            f"{path} has one column; a query and a document are needed; what separates its columns? "
            f"'{wanted.prefix}delimiter=\";\"'"
        )
    header = wanted.header
    if header is None:
        stated = [name for name in flat(wanted.of(source.name).values()) if not isinstance(name, dict)]
        header = any(isinstance(name, str) for name in stated) or (not stated and find_header(rows[0], rows[1:]))
    columns = [cell.strip() for cell in rows[0]] if header else list(range(len(rows[0])))
    as_dicts = [dict(zip(columns, row, strict=False)) for row in rows[header:]]
    try:
        chosen = choose_columns(path, source.name, columns, as_dicts, wanted)
    except UserError as error:
        if wanted.header is not None:
            raise
        other = "is a row" if header else "names them"
        raise UserError(f"{error}; {wanted.prefix}header={str(not header).lower()} if its first line {other}") from None
    if not header and wanted.header is None and could_be_names(rows[0]):
        chosen["columns"]["note"] = f"its first line is taken as a pair; {wanted.prefix}header=true if it is names"
    if "keep" in chosen:
        chosen["keep"] = {name: as_texts(values) for name, values in chosen["keep"].items()}
    return {**chosen, "options": {"header": bool(header), **options}}


def as_texts(values: object) -> list[str]:
    """The value or values that a cell must hold, as a table spells them."""
    return [str(value) for value in (values if isinstance(values, list) else [values])]


def parquet_sample(path: Path) -> tuple[list[str], list[dict]]:
    """The columns of a parquet file and its first rows. Raises UserError where it is none."""
    try:
        file = pq.ParquetFile(path)
        batch = next(file.iter_batches(batch_size=SAMPLE), None)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no parquet file: {first_line(error)}") from error
    rows = [] if batch is None else [row for row in decoded_rows(batch) if row is not None]
    return file.schema_arrow.names, rows


def json_values(path: Path, format: str) -> Iterator:
    """The values of a file's rows, None for one that is no JSON."""
    if format in ("json", "squad"):
        from gte.data.formats.arrays import json_rows
        from gte.data.formats.squad import question_rows

        read = {"json": json_rows, "squad": question_rows}[format]
        yield from (None if isinstance(row, Rejected) else row[1] for row in read(path, MAX_LINE))
        return
    for item in lines(path, MAX_LINE):
        try:
            yield None if isinstance(item, Rejected) else json.loads(item[1])
        except (ValueError, RecursionError):
            yield None
