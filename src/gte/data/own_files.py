"""A user's own files as sources: their formats, and which of their columns is what."""

import glob
import json
import os
import re
import shlex
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gte.data.columns import (
    FIND_OUT,
    KNOWN,
    SAMPLE,
    Wanted,
    choose_columns,
    flat,
    is_text,
    listed,
    normal,
    score_columns,
)
from gte.data.own_tables import infer_table
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.records import ANY_POSITIVE, Fields, Rejected, records, shape
from gte.data.samples import json_sample, parquet_sample, parquet_values
from gte.data.sources import LOCAL, STAGES, Source
from gte.errors import UserError, did_you_mean
from gte.files import is_held_out

LOCAL_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
FOLDERS = 1_000  # below a folder, in which files are looked for
OTHER_FILES = {
    "ndjson": "name it .jsonl",
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
    files, others = pair_files(path, f"{wanted.prefix}path")
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
    require_scores(sources, path, wanted)
    return sources


def require_scores(sources: list[Source], path: str | Path, wanted: Wanted) -> None:
    """Raises UserError where the user names a column of scores, or a least one, and no file has such a column."""
    if not sources or any(source.score is not None for source in sources):
        return
    if isinstance(wanted.score, str):
        roles = [list(value) if isinstance(value, dict) else value for source in sources
                 for role, value in source.columns.items() if role not in ("shape", "notes")]  # fmt: skip
        known = list(dict.fromkeys(flat(roles)))
        raise UserError(
            f"{wanted.prefix}score={wanted.score}: no file of {path} has that column"
            f"{did_you_mean(wanted.score, known)}; there are: {listed(known)}"
        )
    if wanted.min_score is not None:
        raise UserError(
            f"{wanted.prefix}min_score={wanted.min_score:g}: no file of {path} has a column of scores; name it: "
            f"{wanted.prefix}score=COLUMN"
        )


def require_path(path: str | Path, prefix: str) -> Path:
    """The path of a user's folder of pairs. Raises UserError where it is not there; prefix: of the setting, `data.`."""
    if not Path(path).exists():
        raise UserError(f"there is no folder {path}; {prefix}path=FOLDER takes one of jsonl, csv, tsv or parquet files")
    return Path(path)


def refuse_saved(path: Path) -> None:
    """Raises UserError for a folder that save_to_disk of `datasets` wrote, with the way out."""
    splits = (path / "dataset_dict.json").is_file()
    if not splits and not ((path / "state.json").is_file() and any(path.glob("*.arrow"))):
        return
    data = f"load_from_disk({str(path)!r})" + ("['train']" if splits else "")
    program = f"from datasets import load_from_disk; {data}.to_parquet('pairs/train.parquet')"
    raise UserError(
        f"{path} is what save_to_disk of datasets wrote, which is not read; write it as parquet: "
        f"mkdir -p pairs && python -c {shlex.quote(program)}"
    )


def held_out(names: list[str]) -> list[str]:
    """The names of files that say they are for evaluation, where others do not."""
    found = [name for name in names if is_held_out(name)]
    return found if len(found) < len(names) else []


def pair_files(path: Path, setting: str = "data.path") -> tuple[list[Path], list[str]]:
    """The files of a folder that may hold pairs, in order of name; and what else is there, with what to do about it.

    setting: that names the folder, as the user types it. Raises UserError for a folder of save_to_disk.
    """
    refuse_saved(path)
    if path.is_file():
        return ([path], []) if split_name(path)[1] in LOCAL_FORMATS else ([], [other_file(path)])
    files, others = [], []
    for file in sorted(path.iterdir()):
        if file.name.startswith("."):
            continue
        if file.is_dir() and (folder := folder_of_pairs(file)):
            others.append(f"{file.name}/ (a folder: {setting}={folder})")
        elif file.is_symlink() and not file.exists():
            others.append(f"{file.name} (a link to nothing)")
        elif file.is_file() and may_hold_pairs(file):
            files.append(file)
        elif file.is_file():
            others.append(other_file(file))
    return files, others


def may_hold_pairs(path: Path) -> bool:
    """Whether a file's name says so, and of a .json file what it begins with."""
    stem, suffix = split_name(path)
    return bool(stem) and suffix in LOCAL_FORMATS and (suffix != "json" or holds_rows(path))


def folder_of_pairs(folder: Path) -> Path | None:
    """The first folder, this one or below it, with a file that may hold pairs; None where FOLDERS hold none."""
    for root, folders, files in islice(os.walk(folder), FOLDERS):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(may_hold_pairs(Path(root, name)) for name in sorted(files) if not name.startswith(".")):
            return Path(root)
    return None


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
        rows += [{name: value} for name in score_columns(columns) for value in parquet_values(path, name)]
        return choose_columns(path, source.name, columns, rows, wanted)
    if source.reader in ("csv", "tsv"):
        return infer_table(path, source, wanted)
    rows, later, unseen = json_sample(path, source.reader)
    refuse_layout(path, source.reader, rows)
    rows += later
    objects = [row for row in rows if isinstance(row, dict)]
    stated = wanted.of(source.name)
    if not stated and by_shape(objects):
        if all(isinstance(record, Rejected) for row in rows for record in records(row, Fields(), 1)):
            raise UserError(f"{path}: a query and a document are needed, its first row is {json.dumps(rows[0])[:80]}")
        return {"columns": {"shape": shape(rows)}}
    of_shape = any(map(has_shape, objects))
    objects = objects or [dict(enumerate(row)) for row in rows]
    columns = list(dict.fromkeys(key for row in objects for key in row))
    try:
        chosen = choose_columns(path, source.name, columns, objects, wanted)
    except UserError as error:
        hint = "; lists in 'text' are pairs by themselves only where no other column holds text" if of_shape else ""
        raise UserError(f"{error}{hint}") from None
    as_shape = (
        chosen["query"] == "query" and chosen["document"] in ANY_POSITIVE and not {"score", "keep"} & chosen.keys()
    )
    if not stated and as_shape and chosen["negatives"] in (None, "neg"):
        # by the row's shape: another row may have another one of ANY_POSITIVE
        return {"columns": {"shape": shape(rows)} if of_shape else chosen["columns"]}
    if unseen and not chosen["negatives"]:
        chosen["columns"]["notes"] = [
            f"no row behind its first {unseen} was looked at: negatives that begin there are not read; in a plain "
            ".jsonl file they are found"
        ]
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


def by_shape(objects: list[dict]) -> bool:
    """Whether rows have no columns to choose from: all are lists or sets, or lists in `text` are the only texts.

    Beside them may stand words and lists of unknown names, such as a language and tags.
    """
    if all(isinstance(row.get("set"), list) for row in objects):
        return True
    names = dict.fromkeys(key for row in objects for key in row if key not in ("set", "text"))
    for name in names:
        values = [row.get(name) for row in objects]
        sentences = any(isinstance(value, str) and len(value.split()) > 1 for value in values)
        if (sentences or normal(name) in KNOWN) and is_text(name, values):
            return False
    return any(map(has_shape, objects))


def has_shape(row: dict) -> bool:
    """Whether an object is one of a shape that has no columns: a set of texts, or a pair as a list."""
    return isinstance(row.get("set"), list) or ("query" not in row and isinstance(row.get("text"), list))
