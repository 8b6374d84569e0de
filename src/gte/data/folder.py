"""A folder that is complete or not there: one process makes it, aside, in steps that a killed run need not repeat."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gte.data.shards import MANIFEST, Manifest, checked, with_pages
from gte.errors import UserError
from gte.files import flush, put, write_json

WORK = "work"  # subfolder of the building site: intermediate files and the records of finished steps


@contextmanager
def building_site(out: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """The hidden folder beside `out` in which it is made; a killed run's is taken over.

    At the end the site is `out`, unless an exception goes through: then finished steps stay for the next run, which is
    told to the user, and a site without any is removed. Raises UserError for what the disk refuses.
    """
    site = out.parent / f".{out.name}.building"
    try:
        (site / WORK).mkdir(parents=True, exist_ok=True)
        yield site
        shutil.rmtree(site / WORK)
        put(site, out)
    except OSError as error:
        if not error.errno:
            raise
        raise UserError(
            f"cannot write {out} ({os.strerror(error.errno)}); make room, or give another data.dir"
        ) from error
    finally:
        if any((site / WORK).glob("*.json")):
            report(f"what is finished of {out} is kept in {site}: the next run goes on from there")
        else:
            shutil.rmtree(site, ignore_errors=True)


def once(site: Path, step: str, key: dict, make: Callable[[], dict]) -> tuple[dict, bool]:
    """Make a step and return its result and True; or an earlier run's result with an equal key, and False.

    The record is written after everything else that `make` writes: a step that a kill cuts short is made again, as a
    whole. `make` replaces what is there, and returns JSON values; "files" among them, [{"file", "bytes", ...}], must
    still have their sizes.
    """
    record, key = site / WORK / f"{step}.json", plain(key)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["key"] == key:
            for file in known["facts"]["files"]:
                for part in with_pages(file):
                    checked(site, part)
            return known["facts"], False
    except (FileNotFoundError, ValueError):  # no record, or one that a failing machine cut short
        pass
    record.unlink(missing_ok=True)
    facts = plain(make())
    for file in facts["files"]:
        for part in with_pages(file):
            flush(site / part["file"])  # a power cut must not leave the record alone
    write_json(record, {"key": key, "facts": facts}, indent=None)
    return facts, True


def plain(value: object):
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value))


def find_complete(out: Path, stated: dict) -> Manifest | None:
    """The manifest of a complete folder of this very configuration, None where there is nothing yet.

    Nor is there where only a tokenizer is named now, and the one there was trained for want of a name. Raises UserError
    where the folder was prepared from another configuration, or a shard of it is missing.
    """
    if not (out / MANIFEST).exists():
        return None
    made = Manifest.load(out)
    stated = plain(stated)
    if made.configuration != stated and gets_tokenizer(made.configuration, stated):
        return None
    if made.configuration != stated:
        raise UserError(
            f"{out} was prepared from another configuration ({first_difference(made.configuration, stated)}); "
            "force=true replaces it, data.dir=FOLDER leaves it and writes elsewhere"
        )
    for facts in made.sources.values():
        for shard in facts["shards"]:
            for part in with_pages(shard):
                checked(out, part)
    return made


def gets_tokenizer(old: dict, new: dict) -> bool:
    """Whether a folder whose tokenizer was trained for want of a name is now given one, and nothing else is new."""
    tokenizer = ("tokenizer", "vocab_size")
    named = old.get("tokenizer") is None and new.get("tokenizer") is not None
    return named and all(old.get(key) == new.get(key) for key in {*old, *new} if key not in tokenizer)


def first_difference(old: object, new: object, key: str = "") -> str:
    """'key: old -> new' of the first value in which two configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *new]:
            if old.get(name) != new.get(name):
                return first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    if key.endswith(".raw files"):
        return f"{key.removesuffix('.raw files')}: its raw files have changed"
    known = {True: "there", False: "not there"}
    shown = [known[value is not None] if isinstance(value, dict) or isinstance(other, dict) else value
             for value, other in ((old, new), (new, old))]  # fmt: skip
    return f"{key}: {shown[0]} -> {shown[1]}"


def refuse_foreign(out: Path) -> None:
    """Raises UserError where `out` holds something that prepare has not written, and must not replace."""
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise UserError(f"{out} exists and is no prepared folder; give another one: data.dir=FOLDER")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder: data.dir=FOLDER")
