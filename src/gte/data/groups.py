"""Data sets of which each group of files is a source: the groups are those that the data set's own files name.

A file of conf/source stands for all of them, so that no list of them has to be right: with `groups:
"{group}-*.parquet"` what stands before the first dash of a file's name is its group, and each group is a source
NAME_GROUP, without those of `skip_groups`.
"""

import re
from dataclasses import replace
from pathlib import Path

from gte.data import hub_files
from gte.data.hub_files import HubError, some
from gte.data.sources import Source, load_source, overridden, source_files
from gte.errors import UserError, did_you_mean

MARK = "{group}"


def family_of(name: str) -> str | None:
    """The name in conf/source that a source has or is a group of; None where it is neither.

    >>> family_of("lighton_curated_npr"), family_of("npr"), family_of("my_pairs")
    ('lighton_curated', 'npr', None)
    """
    known = source_files()
    if name in known:
        return name
    begun = [one for one in known if name.startswith(f"{one}_") and load_source(one).groups]
    return max(begun, key=len, default=None)


def load_sources(names: list[str], overrides: dict[str, dict], raw: Path) -> tuple[list[Source], list[str]]:
    """Load sources of conf/source, each group of files as one.

    Args:
        names: of sources; NAME stands for all groups of such a source, NAME_GROUP for one.
        overrides: as in `overridden`; {NAME: ...} reaches all groups of a source, {NAME_GROUP: ...} one.
        raw: the raw folder, where the files or what is pinned of the hub are.
    Returns: the sources in order, and a line for people about each data set of which all groups are taken.
    Raises: UserError for an unknown name, group or override, and where nobody can tell the groups.
    """
    wanted = [(str(name), load_source(family_of(str(name)) or str(name))) for name in names]
    families = {source.name: source for _, source in wanted if source.groups}
    reached = {key for source in families.values() for key in (source.name, source.hub)}
    changes = {key: value for key, value in overrides.items() if key in reached}
    families = {source.name: source for source in overridden(list(families.values()), changes)}
    groups = {name: groups_of(source, raw) for name, source in families.items()}
    found, notes = [], []
    for name, source in wanted:
        if source.name not in families:
            found.append(source)
            continue
        source = families[source.name]
        chosen = list(groups[source.name]) if name == source.name else [name.removeprefix(f"{source.name}_")]
        if name == source.name:
            notes.append(f"{name}: each of its {len(chosen)} groups of files is a source: {', '.join(chosen)}")
        elif chosen[0] not in groups[source.name]:
            held = f"{did_you_mean(chosen[0], groups[source.name])}; it has: {some(groups[source.name])}"
            raise UserError(f"source {source.name} has no group '{chosen[0]}'{held}")
        found += [member(source, group) for group in chosen]
    rest = {key: value for key, value in overrides.items() if key not in changes}
    return overridden(found, rest), notes


def groups_of(source: Source, raw: Path) -> list[str]:
    """The groups that its files are of, in order: those in its raw folder, or on the hub where there is none.

    Raises UserError where there is none.
    """
    if source.groups.count(MARK) != 1 or "/" in source.groups:
        raise UserError(f"source {source.name}: groups is '{source.groups}'; it must be a file name with one {MARK}")
    folder = raw / (source.folder or source.name)
    if folder.is_dir():
        where, paths = str(folder), [path.name for path in folder.iterdir()]
    else:
        try:
            pinned = hub_files.pin(source.hub, source.revision, raw)
        except HubError as error:
            raise UserError(f"source {source.name}: {error}; {source.way_on}") from error
        where, paths = f"{pinned.repo} at {pinned.revision[:12]}", list(pinned.files)
    # up to the first dash, say, so that no group's files are another's as well
    before, after = (re.escape(part).replace(r"\*", "[^/]*") for part in source.groups.split(MARK))
    pattern = re.compile(rf"{before}(\w[\w.]*?){after}")
    found = sorted({match[1] for path in paths if (match := pattern.fullmatch(path))})
    found = [group for group in found if group not in source.skip_groups]
    if not found:
        raise UserError(f"source {source.name}: {where} has no file '{source.groups}'; it has: {some(paths)}")
    return found


def member(source: Source, group: str) -> Source:
    """The source of one group of files."""
    files = source.groups.replace(MARK, group)
    return replace(
        source,
        name=f"{source.name}_{group}",
        folder=source.folder or source.name,
        files=files,
        hub_files=files,
        groups=None,
        skip_groups=[],
        pairs=None,
    )
