"""Sources of text pairs: what conf/source/**/<name>.yaml states, and where their raw files are on this machine."""

import difflib
import fnmatch
import glob
import hashlib
import inspect
import json
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
import yaml

from gte.data.readers import MAX_LINE, join, lines, reader
from gte.data.records import Field, Fields, Keyed, KeyedRow, Record, Rejected, encodable, records
from gte.errors import UserError, first_line
from gte.offline import hub_reachable

FOLDER = Path(__file__).resolve().parents[3] / "conf" / "source"
STAGES = ("pretrain", "finetune")
LOCAL = "local"  # category of a user's own files
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
    files: glob of its raw files there; a zip counts as the folder that it holds. forms: other raw forms that the folder
    may hold instead, each as the keys that differ. url: where a person gets them. query, document, negatives, answers,
    id, keep, drop, replace, min_query, min_document, max_document: see `Fields`. options: further arguments of the
    reader. pairs: n_i of Eq. 4, an estimate where `estimate` says so.
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
    id: str | int | None = None
    keep: dict = field(default_factory=dict)
    drop: dict = field(default_factory=dict)
    replace: dict[str, str] = field(default_factory=dict)
    min_query: int = 0
    min_document: int = 0
    max_document: int | None = None
    options: dict = field(default_factory=dict)
    forms: list[dict] = field(default_factory=list)
    answers: str | None = None
    pairs: int | None = None
    estimate: bool = False
    licence: str = "unknown"

    @property
    def fields(self) -> Fields:
        return Fields(**{key.name: getattr(self, key.name) for key in fields(Fields)})

    @property
    def keyed(self) -> bool:
        """Whether its reader yields Keyed rows, of which `combine` makes the records."""
        return join(self.reader) is not None

    def in_folder(self, raw_folder: Path) -> "Source":
        """The source in the form that its raw folder holds, as it is where that holds none.

        Raises UserError where the folder holds two forms: which of them is meant, or whether both are, is not known.
        """
        if not self.forms:
            return self
        folder = raw_folder / (self.folder or self.name)
        forms = [self, *(replace(self, **form) for form in self.forms)]
        held = [form for form in forms if raw_files(form, folder, raw_folder)]
        if len(held) > 1:
            raise UserError(
                f"source {self.name}: {folder} holds files '{held[0].files}' and files '{held[1].files}', two forms of "
                "the same source; leave one"
            )
        return held[0] if held else self

    def read(self, raw: "Raw") -> Iterator[Record | Keyed]:
        """The records of one of its raw files, or of the hub's rows."""
        if raw.path is None:
            return read_hub(self)
        place = raw.path if raw.member is None else zipfile.Path(raw.path, raw.member)
        return reader(self.reader)(place, self.fields, **self.options)

    def combine(self, rows: Iterator[KeyedRow]) -> Iterator[tuple[str, Record]]:
        """The records, each with its file, of the rows of one key in their order."""
        return join(self.reader)(rows, self.fields, **self.options)


@dataclass(frozen=True)
class Raw:
    """One raw file of a source, or (path None) all of its rows on the hub.

    name: what provenance calls it. member: its name inside of `path`, then a zip.
    """

    name: str
    path: Path | None = None
    bytes: int = 0
    changed: int = 0  # time of the last change, in ns
    member: str | None = None

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
    keys = [key.name for key in fields(Source)]
    for key in [*facts, *(key for form in facts.get("forms", []) for key in form)]:
        if key not in keys:
            raise UserError(f"{path}: unknown key '{key}'{did_you_mean(key, keys)}; known: {', '.join(keys)}")
    for key in ("name", "category", "stages", "reader"):
        if not facts.get(key):
            raise UserError(f"{path}: the key '{key}' is missing")
    if facts["name"] != path.stem:
        raise UserError(f"{path}: its name is '{facts['name']}', the file's is '{path.stem}'; they must be equal")
    if unknown := set(facts["stages"]) - set(STAGES):
        raise UserError(f"{path}: unknown stage '{min(unknown)}' in stages; known: {', '.join(STAGES)}")
    for form in [facts, *facts.get("forms", [])]:
        check_addresses(path, form)
    for key in ("keep", "drop", "replace", "options"):
        if not isinstance(facts.get(key, {}), dict):
            raise UserError(f"{path}: {key} must be a mapping, is {facts[key]!r}")
    for pattern in facts.get("replace", {}):
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{path}: replace: '{pattern}' is no regular expression: {error}") from error
    return Source(**{**facts, "stages": tuple(facts["stages"])})


def check_addresses(path: Path, form: dict) -> None:
    """Raises UserError where a source would be read from elsewhere than its raw folder or the hub: `datasets` opens any
    URL and any folder of this machine that it is given for either of the two.
    """
    hub, files, url = (form.get(key) for key in ("hub", "hub_files", "url"))
    if hub is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(hub)):
        raise UserError(f"{path}: hub is '{hub}', which is no owner/name of a data set")
    if files is not None and ("://" in str(files) or {"", ".."} & set(str(files).split("/"))):
        raise UserError(f"{path}: hub_files is '{files}', which names no files within the data set")
    if url is not None and not str(url).startswith("https://"):
        raise UserError(f"{path}: url is '{url}'; only https:// is taken")


def did_you_mean(name: str, known) -> str:
    """', did you mean …?' with the closest of the known names, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f", did you mean {' or '.join(close)}?" if close else ""


def locate(source: Source, raw_folder: Path) -> list[Raw]:
    """Its raw files in order of name, or the hub where there is no such folder.

    Raises UserError where the format has no reader or the reader no such option, where neither files nor a hub are
    known, for a file outside of the raw folder, and for a zip that cannot be read or would lead outside of itself.
    """
    try:
        parameters = inspect.signature(reader(source.reader)).parameters.values()
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from None
    options = [option.name for option in parameters if option.kind is option.KEYWORD_ONLY]
    if unknown := [name for name in source.options if name not in options]:
        known = ", ".join(options)
        raise UserError(f"source {source.name}: {source.reader} has no option '{unknown[0]}'; it has: {known}")
    folder = raw_folder / (source.folder or source.name)
    if folder.is_dir() and source.files:
        if raws := raw_files(source, folder, raw_folder):
            return raws
        others = "".join(f" or '{form['files']}'" for form in source.forms)
        raise UserError(f"source {source.name}: no file '{source.files}'{others} in {folder}")
    if source.hub:
        return [Raw("/".join(filter(None, (f"hub:{source.hub}", source.hub_config, source.hub_split))))]
    where = f" (from {source.url})" if source.url else ""
    raise UserError(f"source {source.name}: there is no folder {folder}; make it and put '{source.files}' there{where}")


def raw_files(source: Source, folder: Path, raw_folder: Path) -> list[Raw]:
    """The files below a source's folder that its glob names, and such members of the zips there, at any depth."""
    try:
        paths = sorted(path for path in folder.glob(source.files) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"source {source.name}: '{source.files}' is no glob within a folder: {error}") from error
    zips = sorted(path for path in folder.glob("**/*.zip") if path.is_file()) if source.category != LOCAL else []
    for path in [*paths, *zips]:
        if not path.resolve().is_relative_to(raw_folder.resolve()):
            raise UserError(
                f"source {source.name}: {path} leads to {path.resolve()}, outside of {raw_folder}; "
                "put the file itself there, or name the folder that holds it: paths.raw=FOLDER"
            )
    found = [raw_file(path, folder) for path in paths if path not in zips]
    unpacked = {(raw.path.name, raw.bytes) for raw in found}  # beside the zip that they come from
    members = [raw for path in zips for raw in zip_members(path, source.files, folder)]
    return found + [raw for raw in members if (PurePosixPath(raw.member).name, raw.bytes) not in unpacked]


def raw_file(path: Path, folder: Path) -> Raw:
    """A raw file with its stamp, named relative to its source's folder. Raises UserError for a name that is no text."""
    status = path.stat()
    if not encodable(path.name):
        raise UserError(f"the name of {path!r} is no UTF-8; rename the file")
    return Raw(path.relative_to(folder).as_posix(), path, status.st_size, status.st_mtime_ns)


def zip_members(path: Path, pattern: str, folder: Path) -> list[Raw]:
    """The members of a zip that a glob names, at any depth.

    Nothing is ever unpacked to the disk; even so, UserError for a zip with such members that would lie outside of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no whole zip ({error}); get it again, or take it out of the folder") from error
    whole = raw_file(path, folder)
    found = []
    for member in sorted(members, key=lambda member: member.filename):
        name = PurePosixPath(member.filename)
        wanted = fnmatch.fnmatchcase(f"/{name}", f"*/{pattern.removeprefix('**/')}")
        if member.is_dir() or not wanted or "__MACOSX" in name.parts:  # where Macs keep icons, under the files' names
            continue
        if name.is_absolute() or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path} holds '{name}', which leads outside of it; unpack what is good of it")
        found.append(replace(whole, name=f"{whole.name}/{name}", bytes=member.file_size, member=member.filename))
    return found


def read_hub(source: Source) -> Iterator[Record]:
    """The rows that `datasets` streams for a source. Raises UserError where the hub cannot be reached."""
    import datasets

    datasets.config.HF_HUB_OFFLINE = not hub_reachable()
    try:
        rows = datasets.load_dataset(
            source.hub, source.hub_config, data_files=source.hub_files, split=source.hub_split, streaming=True
        )
        seen: set[int] = set()
        for row, value in enumerate(rows, 1):
            yield from records(value, source.fields, row, seen)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        reason = first_line(error)
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
    return Source(stem, LOCAL, STAGES, suffix, files=glob.escape(path.name), folder=".")


def infer_columns(path: Path, suffix: str, header: bool | None) -> dict:
    """Fields and options of a user's file as its first rows show them; {} where their shape says it all."""
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
    return {"options": {"header": header}, **(choose_columns(path, cells) if header else {"query": 0, "document": 1})}


def json_values(path: Path) -> Iterator:
    """The values of a jsonl file's rows, None for one that is no JSON."""
    for item in lines(path, MAX_LINE):
        try:
            yield None if isinstance(item, Rejected) else json.loads(item[1])
        except (ValueError, RecursionError):
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
    notes = ("url", "pairs", "estimate", "forms", "answers")  # of which nothing in the prepared folder depends
    stated = {key.name: getattr(source, key.name) for key in fields(Source) if key.name not in notes}
    digest = hashlib.sha256("\n".join(raw.stamp for raw in raws).encode()).hexdigest()
    return {**stated, "stages": list(source.stages), "raw files": digest}
