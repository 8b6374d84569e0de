"""The raw files of sources, in a folder of this machine or on the hub, and what a prepared source depends on."""

import fnmatch
import hashlib
import inspect
from dataclasses import fields, replace
from pathlib import Path

from gte.data import hub_download, hub_files
from gte.data.hub_client import HubError
from gte.data.readers import reader
from gte.data.sources import Raw, Source, raw_file, raw_files
from gte.errors import UserError


def locate(source: Source, raw_folder: Path) -> list[Raw]:
    """Find the raw files of a source in the raw folder, or on the hub where its folder is not there.

    Args:
        source: the source.
        raw_folder: the folder with a folder a source.
    Returns: its files in order of name.
    Raises: UserError where the format has no reader or the reader no such option, where neither files nor a hub are
        known, for a file outside of the raw folder, for a zip that cannot be read or would lead outside of itself, and
        where the hub has no such files, or its first one not the columns that the source names.

    >>> import tempfile
    >>> faq = Source("faq", "local", ("finetune",), "jsonl", files="*.jsonl")
    >>> with tempfile.TemporaryDirectory() as raw:
    ...     (Path(raw) / "faq").mkdir()
    ...     for name in ("b.jsonl", "a.jsonl", "notes.txt"):
    ...         _ = (Path(raw) / "faq" / name).write_text("[1]")
    ...     [file.name for file in locate(faq, Path(raw))]
    ['a.jsonl', 'b.jsonl']
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
        raise UserError(f"source {source.name}: {error}; {source.way_on(error)}") from error
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
                hub_download.remove(one.hub, one.raw_folder)


def configuration(source: Source, raws: list[Raw]) -> dict:
    """Collect everything that a prepared source depends on.

    Returns: its own settings, a digest of its raw files' names, sizes and times, and the commit and files of the hub.
    """
    # nothing in the prepared folder depends on them
    notes = ("url", "pairs", "estimate", "forms", "answers", "columns", "groups", "skip_groups")
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
