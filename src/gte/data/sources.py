"""Sources of text pairs: what conf/source/**/<name>.yaml states, and where their raw files are on this machine."""

import difflib
import glob
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import yaml

from gte.data.readers import MAX_LINE, lines, reader
from gte.data.records import Field, Fields, Record, Rejected, records
from gte.errors import UserError
from gte.offline import hub_reachable

FOLDER = Path(__file__).resolve().parents[3] / "conf" / "source"
STAGES = ("pretrain", "finetune")
LOCAL_FORMATS = ("jsonl", "csv", "tsv", "parquet")

# column names by which a user's file is understood without being told
QUERY_NAMES = ("query", "question", "title", "anchor", "premise", "sentence1", "sent0", "text1", "headline", "comment")
DOCUMENT_NAMES = (
    "pos", "document", "positive", "passage", "answer", "body", "text", "abstract", "hypothesis", "sentence2", "sent1",
    "text2", "description", "code",
)  # fmt: skip
NEGATIVE_NAMES = ("neg", "negatives", "negative", "hard_neg")


@dataclass(frozen=True)
class Source:
    """One set of raw text pairs.

    name, category: as in Table 1. stages: which training stages may read it. reader: raw format (`gte.data.readers`).
    hub, hub_config, hub_split, hub_files: where `datasets` finds it. folder: below the raw folder, `name` by default.
    files: glob of its raw files there. url: where a person gets them. query, document, negatives, answers: see
    `Fields`. header, delimiter, quoting: of csv and tsv. pairs: n_i of Eq. 4, an estimate where `estimate` says so.
    """

    name: str
    category: str
    stages: tuple[str, ...]
    reader: str
    files: str | None = None
    folder: str | None = None
    hub: str | None = None
    hub_config: str | None = None
    hub_split: str = "train"
    hub_files: str | None = None
    url: str | None = None
    query: Field = None
    document: Field = None
    negatives: Field = None
    answers: str | None = None
    header: bool | None = None
    delimiter: str | None = None
    quoting: Literal["minimal", "none"] | None = None
    pairs: int | None = None
    estimate: bool = False
    licence: str = "unknown"

    @property
    def fields(self) -> Fields:
        return Fields(self.query, self.document, self.negatives, self.answers)

    def read(self, raw: "Raw") -> Iterator[Record]:
        """The records of one of its raw files, or of the hub's rows."""
        if raw.path is None:
            return read_hub(self)
        stated = {key: getattr(self, key) for key in ("header", "delimiter", "quoting")}
        options = {key: value for key, value in stated.items() if value is not None}
        return reader(self.reader)(raw.path, self.fields, **options)


@dataclass(frozen=True)
class Raw:
    """One raw file of a source, or (path None) all of its rows on the hub. `name`: what provenance calls it."""

    name: str
    path: Path | None = None
    bytes: int = 0
    changed: int = 0  # time of the last change, in ns

    @property
    def stamp(self) -> str:
        """What tells this raw input from an edited one, without reading it."""
        return f"{self.name} {self.bytes} {self.changed}"


def source_files(folder: Path = FOLDER) -> dict[str, Path]:
    """The YAML file of every source by its name."""
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}


def load_source(name: str, folder: Path = FOLDER) -> Source:
    """The source of that name. Raises UserError for an unknown name, an unknown key, or a value of no sense."""
    known = source_files(folder)
    if name not in known:
        raise UserError(f"unknown source '{name}'{did_you_mean(name, known)}; conf/source holds {len(known)} sources")
    path = known[name]
    facts = yaml.safe_load(path.read_text())
    keys = [field.name for field in fields(Source)]
    for key in facts:
        if key not in keys:
            raise UserError(f"{path}: unknown key '{key}'{did_you_mean(key, keys)}; known: {', '.join(keys)}")
    for key in ("name", "category", "stages", "reader"):
        if not facts.get(key):
            raise UserError(f"{path}: the key '{key}' is missing")
    if facts["name"] != path.stem:
        raise UserError(f"{path}: its name is '{facts['name']}', the file's is '{path.stem}'; they must be equal")
    if unknown := set(facts["stages"]) - set(STAGES):
        raise UserError(f"{path}: unknown stage '{min(unknown)}' in stages; known: {', '.join(STAGES)}")
    return Source(**{**facts, "stages": tuple(facts["stages"])})


def did_you_mean(name: str, known) -> str:
    """', did you mean …?' with the closest of the known names, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f", did you mean {' or '.join(close)}?" if close else ""


def locate(source: Source, raw_folder: Path) -> list[Raw]:
    """Its raw files in order of name, or the hub where there is no such folder.

    Raises UserError where the format has no reader yet, and where neither files nor a hub are known.
    """
    try:
        reader(source.reader)
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from None
    folder = raw_folder / (source.folder or source.name)
    if folder.is_dir() and source.files:
        paths = sorted(path for path in folder.glob(source.files) if path.is_file())
        if not paths:
            raise UserError(f"source {source.name}: no file '{source.files}' in {folder}")
        return [raw_file(path, folder) for path in paths]
    if source.hub:
        return [Raw("/".join(filter(None, (f"hub:{source.hub}", source.hub_config, source.hub_split))))]
    where = f" (from {source.url})" if source.url else ""
    raise UserError(f"source {source.name}: there is no folder {folder}; make it and put '{source.files}' there{where}")


def raw_file(path: Path, folder: Path) -> Raw:
    """A raw file with its stamp, named relative to its source's folder."""
    status = path.stat()
    return Raw(path.relative_to(folder).as_posix(), path, status.st_size, status.st_mtime_ns)


def read_hub(source: Source) -> Iterator[Record]:
    """The rows that `datasets` streams for a source. Raises UserError where the hub cannot be reached."""
    import datasets

    datasets.config.HF_HUB_OFFLINE = not hub_reachable()
    try:
        rows = datasets.load_dataset(
            source.hub, source.hub_config, data_files=source.hub_files, split=source.hub_split, streaming=True
        )
        for row, value in enumerate(rows, 1):
            yield from records(value, source.fields, row)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the hub did not give '{source.hub}' ({reason}); without it, make a folder "
            f"<paths.raw>/{source.folder or source.name} and put '{source.files}' there"
        ) from error


def infer_sources(folder: str | Path, header: bool | None = None) -> list[Source]:
    """Every jsonl, csv, tsv (each also .gz or .zst) and parquet file of a folder as a source for both stages.

    Names: the files' stems. Columns: well-known names, else the first two with text; a table whose first line holds no
    well-known name has no header, unless `header` says otherwise. Raises UserError for a missing folder, one without
    such files, two files of one stem, and a file whose first rows are understood by none of these.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; data.path=FOLDER takes one of jsonl, csv, tsv or parquet files")
    found: dict[str, Source] = {}
    for path in sorted(folder.iterdir()):
        stem, suffix = split_name(path)
        if not path.is_file() or not stem or suffix not in LOCAL_FORMATS:
            continue
        if stem in found:
            raise UserError(f"{folder} holds two files for the source '{stem}': rename {path.name} or the other")
        found[stem] = infer_source(path, header)
    if not found:
        raise UserError(f"{folder} holds no .jsonl, .csv, .tsv or .parquet file (.gz and .zst are read too)")
    return list(found.values())


def split_name(path: Path) -> tuple[str, str]:
    """Stem and format of a file's name, compression aside: ('faq', 'csv') for faq.csv.gz."""
    stem, _, suffix = path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")
    return stem, suffix


def infer_source(path: Path, header: bool | None = None) -> Source:
    """One file of pairs as a source of its own folder, as in `infer_sources`. Raises UserError for what it is not."""
    source = local_source(path)
    return replace(source, **infer_columns(path, source.reader, header))


def local_source(path: Path) -> Source:
    """One file as a source of its own folder, its fields not stated. Raises UserError for a file of no such format."""
    stem, suffix = split_name(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if suffix not in LOCAL_FORMATS:
        raise UserError(f"{path}: its name must end in .{', .'.join(LOCAL_FORMATS)} (.gz and .zst may follow)")
    return Source(stem, "local", STAGES, suffix, files=glob.escape(path.name), folder=".")


def infer_columns(path: Path, suffix: str, header: bool | None) -> dict:
    """query, document, negatives and header of a user's file, from its first rows; {} where their shape says it all."""
    if suffix == "parquet":
        try:
            columns = pq.ParquetFile(path).schema_arrow.names
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no parquet file: {error}") from error
        return choose_columns(path, columns)
    if suffix == "jsonl":
        rows = [value for value in islice(json_values(path), 100) if isinstance(value, dict | list)]
        if not rows:
            raise UserError(f"{path} holds no JSON row within its first 100 lines")
        if any(not isinstance(record, Rejected) for row in rows for record in records(row, Fields(), 1)):
            return {}
        objects = [row for row in rows if isinstance(row, dict)]
        columns = [[key for key, value in row.items() if isinstance(value, str | list)] for row in objects]
        return choose_columns(path, max(columns, key=len, default=[]))
    line = next((item[1] for item in lines(path, MAX_LINE) if not isinstance(item, Rejected)), b"")
    cells = line.decode(errors="replace").split("\t" if suffix == "tsv" else ",")
    cells = [cell.strip().strip('"') for cell in cells]
    if header is None:
        header = any(cell in QUERY_NAMES for cell in cells) and any(cell in DOCUMENT_NAMES for cell in cells)
    if len(cells) < 2:
        raise UserError(f"{path} has one column; a query and a document are needed")
    return {"header": header, **(choose_columns(path, cells) if header else {"query": 0, "document": 1})}


def json_values(path: Path) -> Iterator:
    """The values of a jsonl file's rows, None for one that is no JSON."""
    for item in lines(path, MAX_LINE):
        try:
            yield None if isinstance(item, Rejected) else json.loads(item[1])
        except ValueError:
            yield None


def choose_columns(path: Path, columns: list[str]) -> dict:
    """The well-known column names of a file, else its first two. Raises UserError for fewer than two."""
    query = next((name for name in QUERY_NAMES if name in columns), None)
    document = next((name for name in DOCUMENT_NAMES if name in columns and name != query), None)
    if query is None or document is None:
        if len(columns) < 2:
            raise UserError(f"{path} has the columns {columns}; a query and a document are needed")
        query, document = columns[:2]
    negatives = next((name for name in NEGATIVE_NAMES if name in columns and name not in (query, document)), None)
    return {"query": query, "document": document, "negatives": negatives}


def configuration(source: Source, raws: list[Raw]) -> dict:
    """What a prepared source depends on: its own statement and a digest of its raw files' names, sizes and times."""
    notes = ("url", "pairs", "estimate", "answers")  # of which nothing in the prepared folder depends
    stated = {field.name: getattr(source, field.name) for field in fields(Source) if field.name not in notes}
    digest = hashlib.sha256("\n".join(raw.stamp for raw in raws).encode()).hexdigest()
    return {**stated, "stages": list(source.stages), "raw files": digest}
