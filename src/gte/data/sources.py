"""Sources of text pairs: what conf/source/**/<name>.yaml states, and where their raw files are on this machine."""

import difflib
import fnmatch
import glob
import hashlib
import inspect
import json
import re
import shlex
import stat
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
import yaml

from gte.data import hub_files
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
from gte.data.hub_files import HubError, HubFile
from gte.data.readers import MAX_LINE, decoded_rows, join, lines, reader, table_rows
from gte.data.records import ANY_POSITIVE, Field, Fields, Keyed, KeyedRow, Record, Rejected, Triple, encodable, records
from gte.errors import UserError, did_you_mean, first_line

FOLDER = Path(__file__).resolve().parents[3] / "conf" / "source"
STAGES = ("pretrain", "finetune")
LOCAL = "local"  # category of a user's own files
LOCAL_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
PLAIN_FORMATS = ("jsonl", "csv", "tsv", "parquet")  # whose rows have the columns that a source names

OTHER_FILES = {
    "xlsx": "save it as CSV",
    "xls": "save it as CSV",
    "ods": "save it as CSV",
    "txt": "name it .tsv or .csv",
}


@dataclass(frozen=True)
class Source:
    """One set of raw text pairs.

    name, category: as in Table 1. stages: which training stages may read it. reader: raw format (`gte.data.readers`).
    hub, revision: its data set there, and the branch, tag or commit, main by default. hub_config, hub_split: which of
    its files, as the data set's card says; hub_files: patterns of them in place of the card. folder: below the raw
    folder, `name` by default. files: glob of its raw files there; a zip counts as the folder that it holds. companions:
    globs of those that the others need beside them. forms: other raw forms that the folder may hold instead, each as
    the keys that differ. url: where a person gets them. query, document, negatives, answers,
    id, keep, drop, replace, min_query, min_document, max_document, score, min_score: see `Fields`. options: further
    arguments of the reader. pairs: n_i of Eq. 4, an estimate where `estimate` says so. columns: of a user's file, which
    are used as what, for people. mined: a file of negatives that `mine` found for its rows.
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
    hub_files: str | list[str] | None = None
    revision: str | None = None
    companions: list[str] | None = None
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
    score: str | int | None = None
    min_score: float | None = None
    options: dict = field(default_factory=dict)
    forms: list[dict] = field(default_factory=list)
    answers: str | None = None
    pairs: int | None = None
    estimate: bool = False
    licence: str = "unknown"
    columns: dict = field(default_factory=dict)
    mined: str | None = None

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
        """The records of one of its raw files; one on the hub is downloaded first, unless it is here."""
        if raw.hub is not None:
            form = self.fetched(raw)
            return reader(form.reader)(raw.path, form.fields, **form.options)
        place = raw.path if raw.member is None else zipfile.Path(raw.path, raw.member)
        found = reader(self.reader)(place, self.fields, **self.options)
        return found if self.mined is None else with_mined(found, Path(self.mined), place)

    def fetched(self, raw: "Raw") -> "Source":
        """Downloads a file on the hub, unless it is here; the source in the form of that file.

        Raises UserError where it is not to be had, or lacks a column.
        """
        try:
            for one in (*raw.companions, raw):
                hub_files.download(one.hub, one.raw_folder)
            form = self.hub_form(raw)
            form.check_columns(raw)
        except HubError as error:
            raise UserError(f"{error}; {self.way_on}") from error
        return form

    def hub_form(self, raw: "Raw") -> "Source":
        """The source in the form of one of its files on the hub: that of a local file of its name.

        A parquet file of no form has the columns that rows of the plain formats name.
        """
        forms = [self, *(replace(self, **form) for form in self.forms)]
        form = next((form for form in forms if form.files and fits(raw.hub.path, form.files)), self)
        if form is self and raw.name.endswith(".parquet") and self.reader in PLAIN_FORMATS:
            return replace(self, reader="parquet", options={})
        return form

    def check_columns(self, raw: "Raw") -> None:
        """Raises UserError where a file on the hub lacks a column that the source names."""
        if self.reader not in ("jsonl", "parquet") or not self.fields.names:
            return
        held = hub_files.columns(raw.hub, raw.raw_folder)
        missing = [name for name in self.fields.names if held is not None and name not in held]
        if not missing:
            return
        keys = {key.name: getattr(self, key.name) for key in fields(Fields)}
        key = next(key for key, value in keys.items() if names_column(value, missing[0]))
        if isinstance(keys[key], dict):
            kept = [f"{name}: {json.dumps(value)}" for name, value in keys[key].items() if name in held]
            stand_in = "{" + ", ".join(kept) + "}"
        else:
            stand_in = next(iter(difflib.get_close_matches(missing[0], held, 1)), "COLUMN")
        raise UserError(
            f"{raw.hub} has no column '{missing[0]}'; expected: {', '.join(self.fields.names)}; it has: "
            f"{', '.join(held)}; say what takes its place: 'data.overrides={{{self.hub}: {{{key}: {stand_in}}}}}'"
        )

    @property
    def way_on(self) -> str:
        """What to do about a hub that gives nothing, for the end of a line."""
        script = Path(sys.argv[0]).name == "prepare.py"
        again = shlex.join(["python", *sys.argv]) if script else "the same command"
        folder = f"<paths.raw>/{self.folder or self.name}"
        return f"{again} goes on from there; without the hub, make a folder {folder} and put '{self.files}' there"

    def combine(self, rows: Iterator[KeyedRow]) -> Iterator[tuple[str, Record]]:
        """The records, each with its file, of the rows of one key in their order."""
        return join(self.reader)(rows, self.fields, **self.options)


@dataclass(frozen=True)
class Raw:
    """One raw file of a source.

    name: what provenance calls it. member: its name inside of `path`, then a zip. hub: the file on the hub that `path`
    is a copy of, once `Source.read` has downloaded it. companions: files that must lie beside it.
    """

    name: str
    path: Path
    bytes: int = 0
    changed: int = 0  # time of the last change, in ns
    member: str | None = None
    hub: HubFile | None = None
    companions: tuple["Raw", ...] = ()

    @property
    def stamp(self) -> str:
        """What tells this raw input from an edited one, without reading it."""
        own = f"{self.name} {self.bytes} {self.changed}"
        return "\n".join([own, *(companion.stamp for companion in self.companions)])

    @property
    def raw_folder(self) -> Path:
        """The raw folder that a file on the hub is downloaded into."""
        return self.path.parents[len(Path(self.hub.path).parts) + 1]


def names_column(value, name: str) -> bool:
    """Whether a field of `Fields` names a column: it is its name, or one of several, or it is filtered by."""
    return name == value or (isinstance(value, list | dict) and name in value)


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


def overridden(sources: list[Source], overrides: dict[str, dict]) -> list[Source]:
    """The sources with keys of their files replaced.

    overrides: {name of a source, or of a data set on the hub: {key: value}}. Raises UserError for an unknown name, an
    unknown key, and for one that says what a source is.
    """
    known = {name for source in sources for name in (source.name, source.hub) if name}
    keys = [key.name for key in fields(Source) if key.name not in ("name", "category", "stages", "columns", "mined")]
    for name, changes in overrides.items():
        if name not in known:
            raise UserError(
                f"data.overrides: no source is '{name}'{did_you_mean(name, known)}; name one of data.sources"
            )
        if not isinstance(changes, dict):
            raise UserError(f"data.overrides: {name} must be a mapping of keys, is {changes!r}")
        for key in changes:
            if key not in keys:
                raise UserError(
                    f"data.overrides: unknown key '{key}'{did_you_mean(key, keys)}; known: {', '.join(keys)}"
                )
        check_addresses(Path(f"data.overrides.{name}"), changes)
    result = []
    for source in sources:
        changes = overrides.get(source.hub, {}) | overrides.get(source.name, {})
        forms = [{**form, **{key: value for key, value in changes.items() if key in form}} for form in source.forms]
        result.append(replace(source, forms=forms, **changes) if changes else source)
    return result


def check_addresses(path: Path, form: dict) -> None:
    """Raises UserError where a source would be read from elsewhere than its raw folder or the hub."""
    hub, patterns, revision, url = (form.get(key) for key in ("hub", "hub_files", "revision", "url"))
    if hub is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(hub)):
        raise UserError(f"{path}: hub is '{hub}', which is no owner/name of a data set")
    for files in hub_files.as_list(patterns):
        if "://" in str(files) or {"", ".."} & set(str(files).split("/")):
            raise UserError(f"{path}: hub_files is '{files}', which names no files within the data set")
    if revision is not None and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", str(revision)):
        raise UserError(f"{path}: revision is '{revision}', which is no branch, tag or commit")
    if url is not None and not str(url).startswith("https://"):
        raise UserError(f"{path}: url is '{url}'; only https:// is taken")


def locate(source: Source, raw_folder: Path) -> list[Raw]:
    """Its raw files in order of name, or those on the hub where there is no such folder.

    Raises UserError where the format has no reader or the reader no such option, where neither files nor a hub are
    known, for a file outside of the raw folder, for a zip that cannot be read or would lead outside of itself, and
    where the hub has no such files, or its first one not the columns that the source names.
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
            return with_companions(source, raws)
        others = "".join(f" or '{form['files']}'" for form in source.forms)
        raise UserError(f"source {source.name}: no file '{source.files}'{others} in {folder}")
    if source.hub:
        return hub_raws(source, raw_folder)
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


def fits(name: str, pattern: str) -> bool:
    """Whether the name of a file of an archive or of the hub ends as a source's glob says."""
    return fnmatch.fnmatchcase(f"/{name}", f"*/{pattern.removeprefix('**/')}")


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
        icon = "__MACOSX" in name.parts  # where Macs keep them, under the files' names
        if member.is_dir() or icon or not fits(str(name), pattern):
            continue
        if name.is_absolute() or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path} holds '{name}', which leads outside of it; unpack what is good of it")
        found.append(replace(whole, name=f"{whole.name}/{name}", bytes=member.file_size, member=member.filename))
    return found


def with_companions(source: Source, raws: list[Raw]) -> list[Raw]:
    """The raw files of a source, each with those that it needs beside it, which are none by themselves."""
    if source.companions is None:
        return raws
    patterns = [pattern for one in source.companions for pattern in (one, f"*/{one}")]
    beside = tuple(raw for raw in raws if any(fnmatch.fnmatchcase(raw.name, pattern) for pattern in patterns))
    rest = [replace(raw, companions=beside) for raw in raws if raw not in beside]
    if not rest:
        raise UserError(
            f"source {source.name}: there are only files that stand beside others ({', '.join(source.companions)}); "
            "those others are missing"
        )
    return rest


def hub_raws(source: Source, raw_folder: Path) -> list[Raw]:
    """Its files on the hub, at the commit that is pinned in the raw folder, in order of path."""
    try:
        pinned = hub_files.pin(source.hub, source.revision, raw_folder)
        found = hub_files.find(pinned, source.hub_config, source.hub_split, source.hub_files, raw_folder)
        raws = [Raw(file.name, file.place(raw_folder), file.bytes, hub=file) for file in found]
        raws = with_companions(source, raws)
        source.hub_form(raws[0]).check_columns(raws[0])
    except HubError as error:
        raise UserError(f"source {source.name}: {error}; {source.way_on}") from error
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from error
    return raws


def hub_notes(sources: list[Source], raws: dict[str, list[Raw]], raw_folder: Path) -> list[str]:
    """A line for each data set on the hub that has changed since it was pinned."""
    used = {(source.hub, source.revision): None for source in sources if raws[source.name][0].hub}
    return list(filter(None, (hub_files.newer(hub, revision, raw_folder) for hub, revision in used)))


def release(raws: list[Raw]) -> None:
    """Removes what was downloaded from the hub for a source whose pairs are written."""
    for raw in raws:
        for one in (raw, *raw.companions):
            if one.hub is not None:
                hub_files.remove(one.hub, one.raw_folder)


def infer_sources(path: str | Path, wanted: Wanted = FIND_OUT) -> list[Source]:
    """Every jsonl, json, csv, tsv (each also .gz or .zst) and parquet file of a folder as a source for both stages.

    path: the folder, or one such file. Names: the files' stems. Which column is what: `gte.data.columns`. Raises
    UserError for a missing folder, one without such files, two files of one stem, and a file that is not understood.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"there is no folder {path}; {wanted.prefix}path=FOLDER takes one of jsonl, csv, tsv or parquet files"
        )
    files, others = pair_files(path)
    found: dict[str, Path] = {}
    for file in files:
        stem, _ = split_name(file)
        if stem in found:
            raise UserError(f"{path} holds two files for the source '{stem}': rename {file.name} or the other")
        found[stem] = file
    if not found:
        held = f"; it holds {', '.join(others[:5])}{', ...' if others[5:] else ''}" if others else ""
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
    """One file as a source of its own folder, its fields not stated. Raises UserError for a file of no such format."""
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
        return {"columns": {"shape": "lists and sets of texts"}}
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


def as_texts(values) -> list[str]:
    """What a cell must hold, as a table spells it."""
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


def with_mined(found: Iterator[Record], file: Path, raw) -> Iterator[Record]:
    """The records of a file with the negatives that `mine` found for them, in the same order, beside their own.

    Raises UserError where these were mined for other rows.
    """
    again = f"mine them again: python src/mine.py in={raw}, or leave them out: data.mined=null"
    rows = (json.loads(item[1]) for item in lines(file, MAX_LINE) if not isinstance(item, Rejected))
    for record in found:
        row = None if isinstance(record, Rejected) else next(rows, None)
        if row is None:
            yield record
            continue
        if (row["query"], row["pos"]) != record[:2]:
            raise UserError(f"{file} has the negatives of other rows than {raw}, from row {record.row} on; {again}")
        own = record.negatives if isinstance(record, Triple) else []
        texts = list(dict.fromkeys([*own, *(text for text in row["neg"] if text != record.document)]))
        if texts:
            record = Triple(record.query, record.document, texts, record.row, record.answers, record.way)
        yield record
    if next(rows, None) is not None:
        raise UserError(f"{file} has the negatives of more rows than {raw} has; {again}")


def configuration(source: Source, raws: list[Raw]) -> dict:
    """What a prepared source depends on: its own statement, a digest of its raw files' names, sizes and times, and the
    commit and files of the hub.
    """
    notes = (
        "url",
        "pairs",
        "estimate",
        "forms",
        "answers",
        "columns",
    )  # nothing in the prepared folder depends on them
    stated = {key.name: getattr(source, key.name) for key in fields(Source) if key.name not in notes}
    stated = {
        key: value
        for key, value in stated.items()
        if value is not None or key not in ("score", "min_score", "mined", "revision", "companions")
    }
    if raws and raws[0].hub:
        files = sorted({one.hub.path for raw in raws for one in (raw, *raw.companions)})
        stated["pinned"] = {"revision": raws[0].hub.revision, "files": files}
        if source.forms:
            stated["forms"] = source.forms  # which of them reads a file is known when it is read
    stamps = [raw.stamp for raw in raws]
    if source.mined is not None:
        mined = Path(source.mined)
        stamps.append(raw_file(mined, mined.parent).stamp)
    digest = hashlib.sha256("\n".join(stamps).encode()).hexdigest()
    return {**stated, "stages": list(source.stages), "raw files": digest}
