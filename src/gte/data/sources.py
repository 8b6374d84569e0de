"""Sources of text pairs, as conf/source/**/<name>.yaml configures them."""

import difflib
import fnmatch
import json
import re
import shlex
import stat
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath

import yaml

from gte.data import hub_copies, hub_download, hub_files
from gte.data.cleaning import encodable
from gte.data.hub_client import HubAway, HubError
from gte.data.hub_download import HubFile
from gte.data.mined import with_mined
from gte.data.readers import join, reader
from gte.data.records import Field, Fields, Keyed, KeyedRow, Record
from gte.errors import UserError, did_you_mean
from gte.files import is_hidden
from gte.shipped import shipped

FOLDER = shipped("conf") / "source"
STAGES = ("pretrain", "finetune")
LOCAL = "local"  # category of a user's own files
PLAIN_FORMATS = ("jsonl", "csv", "tsv", "parquet")  # whose rows have the columns that a source names


@dataclass(frozen=True)
class Source:
    """One set of raw text pairs, as a file of conf/source describes it.

    Args:
        name: of its YAML file, and in Table 1.
        category: of Table 1; `local` for a user's own files.
        stages: the training stages that may read it, of pretrain and finetune.
        reader: its raw format, a key of `gte.data.readers.READERS`.
        files: glob of its raw files below `folder`; a zip counts as the folder that it holds.
        folder: below the raw folder; None is `name`.
        hub: its data set on the hub, owner/name, downloaded where there is no folder.
        hub_config: the data set's configuration, as its card names it.
        hub_split: the data set's split.
        hub_files: patterns of its files on the hub in place of the card's.
        revision: branch, tag or commit on the hub; None is main.
        groups, skip_groups: see `gte.data.groups`.
        companions: globs of files that the others need beside them.
        url: where a person gets the files.
        query, document, negatives, id, keep, drop, replace: see `gte.data.records.Fields`.
        min_query, min_document, max_document, score, min_score, answers: see `gte.data.records.Fields`.
        options: further arguments of the reader.
        forms: other raw forms that the folder may hold instead, each as the keys that differ.
        pairs: n_i of Eq. 4.
        estimate: whether `pairs` is an estimate.
        licence: of the data.
        columns: the columns of a user's file that are used, by role, for people to read.
        mined: a file of negatives that `mine` found for its rows.

    >>> faq = Source("faq", "local", ("finetune",), "jsonl", files="faq.jsonl", query="question", document="answer")
    >>> faq.fields.names
    ['question', 'answer']
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
    groups: str | None = None
    skip_groups: list[str] = field(default_factory=list)
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
        """The part of it that says where the texts are in a row."""
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
                hub_download.download(one.hub, one.raw_folder)
            form = self.hub_form(raw)
            form.check_columns(raw)
        except HubError as error:
            raise UserError(f"{error}; {self.way_on(error)}") from error
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

    def way_on(self, error: HubError) -> str:
        """Advice for the end of a line about a hub that gives nothing, or nothing for now."""
        script = Path(sys.argv[0]).name == "prepare.py"
        again = shlex.join(["python", *sys.argv]) if script else "the same command"
        folder = f"<paths.raw>/{self.folder or self.name}"
        resume = f"{again} goes on from there; " if isinstance(error, HubAway) else ""
        return f"{resume}without the hub, make a folder {folder} and put '{self.files}' there"

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
        """A digest that tells this raw input from an edited one, without reading it."""
        own = f"{self.name} {self.bytes} {self.changed}"
        return "\n".join([own, *(companion.stamp for companion in self.companions)])

    @property
    def raw_folder(self) -> Path:
        """The raw folder that a file on the hub is downloaded into."""
        return self.path.parents[len(Path(self.hub.path).parts) + 1]


def names_column(value: object, name: str) -> bool:
    """Whether a field of `Fields` names a column: it is its name, or one of several, or it is filtered by."""
    return name == value or (isinstance(value, list | dict) and name in value)


def source_files(folder: Path = FOLDER) -> dict[str, Path]:
    """The YAML file of every source by its name."""
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}


def load_source(name: str, folder: Path = FOLDER) -> Source:
    """Load a source of conf/source by its name.

    Args:
        name: of the source.
        folder: with a YAML file a source, at any depth.
    Raises: UserError for an unknown name, an unknown key, or a value that makes no sense.

    >>> gooaq = load_source("gooaq")
    >>> gooaq.category, gooaq.stages, gooaq.query, gooaq.document
    ('others', ('pretrain',), 'question', 'answer')
    """
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
    """Replace keys of sources, as `data.overrides` does.

    Args:
        sources: the configured ones.
        overrides: {name of a source, or of a data set on the hub: {key: value}}.
    Returns: the sources in their order, changed ones as copies.
    Raises: UserError for an unknown name, an unknown key, and for a key that says what a source is.

    >>> faq = Source("faq", "local", ("finetune",), "jsonl", files="*.jsonl")
    >>> overridden([faq], {"faq": {"query": "question"}})[0].query
    'question'
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


def fits(name: str, pattern: str) -> bool:
    """Whether the name of a file of an archive or of the hub ends as a source's glob says."""
    return fnmatch.fnmatchcase(f"/{name}", f"*/{pattern.removeprefix('**/')}")


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The files that a glob names, in order."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def raw_files(source: Source, folder: Path, raw_folder: Path) -> list[Raw]:
    """The files below a source's folder that its glob names, and such members of the zips there, at any depth.

    Copies of the hub's parquet files are those that the source would read from there. Raises UserError for files that
    lie outside of the raw folder, damaged zips, and where such copies are all of others.
    """
    try:
        paths = files_below(folder, source.files)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"source {source.name}: '{source.files}' is no glob within a folder: {error}") from error
    if source.category == LOCAL:  # a user's own, each by its name; it may be a link, as in a hub's cache
        return [raw_file(path, folder) for path in paths]
    paths = [path for path in paths if not is_hidden(path.relative_to(folder))]
    zips = [path for path in files_below(folder, "**/*.zip") if not is_hidden(path.relative_to(folder))]
    for path in [*paths, *zips]:
        if not path.resolve().is_relative_to(raw_folder.resolve()):
            raise UserError(
                f"source {source.name}: {path} leads to {path.resolve()}, outside of {raw_folder}; "
                "put the file itself there, or name the folder that holds it: paths.raw=FOLDER"
            )
    found = [raw_file(path, folder) for path in paths if path not in zips]
    unpacked = {(raw.path.name, raw.bytes) for raw in found}  # beside the zip that they come from
    members = [raw for path in zips for raw in zip_members(path, source.files, folder)]
    found += [raw for raw in members if (PurePosixPath(raw.member).name, raw.bytes) not in unpacked]
    if source.hub is None:
        return found
    copies = [raw for raw in found if raw.name.endswith(".parquet")]
    rest = [raw for raw in found if raw not in copies]
    return rest + hub_copies.of_source(source, copies, folder)


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
        if member.is_dir() or is_hidden(name) or not fits(str(name), pattern):
            continue
        if name.is_absolute() or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path} holds '{name}', which leads outside of it; unpack what is good of it")
        found.append(replace(whole, name=f"{whole.name}/{name}", bytes=member.file_size, member=member.filename))
    return found
