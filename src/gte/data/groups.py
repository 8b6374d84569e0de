"""Data sets of which each group of files is a source: the groups are those that the data set's own files name.

A file of conf/source stands for all of them, so that no list of them has to be right: with `groups:
"{group}-*.parquet"` what stands before the first dash of a file's name is its group, and each group is a source
NAME_GROUP, without those of `skip_groups`.
"""

import re
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from gte.data import hub_files
from gte.data.hub_client import HubError
from gte.data.hub_files import some
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


def load_family(name: str) -> Source:
    """The source of conf/source that is called so, or whose group is. Raises UserError for an unknown name."""
    return load_source(family_of(name) or name)


def load_sources(names: list[str], overrides: dict[str, dict], raw: Path) -> tuple[list[Source], list[str]]:
    """Load sources of conf/source, each group of files as one.

    Args:
        names: of sources; NAME stands for all groups of such a source, NAME_GROUP for one.
        overrides: as in `overridden`; {NAME: ...} reaches all groups of a source, {NAME_GROUP: ...} one.
        raw: the raw folder, where the files or what is pinned of the hub are.
    Returns: the sources in order, and a line for people about each data set of which all groups are taken.
    Raises: UserError for an unknown name, group or override, and where nobody can tell the groups.
    """
    wanted = [(str(name), load_family(str(name))) for name in names]
    families = {source.name: source for _, source in wanted if source.groups}
    reached = {key for source in families.values() for key in (source.name, source.hub)}
    changes = {key: value for key, value in overrides.items() if key in reached}
    rest = {key: value for key, value in overrides.items() if key not in reached}
    refuse_keys(changes, ("files", "hub_files"), "groups says which files")
    refuse_keys(rest, ("groups", "skip_groups"), "only a source of conf/source that has groups is asked for them")
    families = {source.name: source for source in overridden(list(families.values()), changes)}
    groups = {name: groups_of(source, raw) for name, source in families.items()}
    found, notes = [], []
    for name, source in wanted:
        if source.name not in families:
            found.append(source)
            continue
        source, (chosen, others) = families[source.name], groups[source.name]
        if name == source.name:
            unread = f"; of no group, not read: {some(others)}" if others else ""
            notes.append(f"{name}: each of its {len(chosen)} groups of files is a source: {', '.join(chosen)}{unread}")
        else:
            chosen = [known_group(name.removeprefix(f"{source.name}_"), source, chosen)]
        found += [member(source, group) for group in chosen]
    return overridden(found, rest), notes


def refuse_keys(overrides: dict[str, dict], keys: tuple[str, ...], why: str) -> None:
    """Raises UserError for overrides that nobody would read."""
    for name, changes in overrides.items():
        for key in keys:
            if isinstance(changes, dict) and key in changes:
                raise UserError(f"data.overrides: {name}: {key} is not read there: {why}")


def known_group(group: str, source: Source, groups: list[str]) -> str:
    """The group; UserError where it is not among those of the source that are taken."""
    if group in source.skip_groups:
        raise UserError(f"source {source.name}: the group '{group}' is asked for, and left out by skip_groups")
    if group not in groups:
        line = f"{did_you_mean(group, groups)}; it has: {some(groups)}"
        raise UserError(f"source {source.name} has no group '{group}'{line}")
    return group


def groups_of(source: Source, raw: Path) -> tuple[list[str], list[str]]:
    """(the groups that its files are of, in order, files of none): in its raw folder, or on the hub where that is not.

    Raises UserError where there is no group, and where one of `skip_groups` is not there.
    """
    if str(source.groups).count(MARK) != 1 or "/" in source.groups:
        raise UserError(f"source {source.name}: groups is '{source.groups}'; it must be a file name with one {MARK}")
    if not isinstance(source.skip_groups, list):
        raise UserError(f"source {source.name}: skip_groups is {source.skip_groups!r}; it must be a list of groups")
    folder = raw / (source.folder or source.name)
    if folder.is_dir():
        where, paths = str(folder), [path.name for path in folder.iterdir()]
    else:
        try:
            pinned = hub_files.pin(source.hub, source.revision, raw)
        except HubError as error:
            raise UserError(f"source {source.name}: {error}; {source.way_on(error)}") from error
        where, paths = f"{pinned.repo} at {pinned.revision[:12]}", list(pinned.files)
    # up to the first dash, say, so that no group's files are another's as well
    before, after = (re.escape(part).replace(r"\*", "[^/]*") for part in source.groups.split(MARK))
    pattern = re.compile(rf"{before}(\w[\w.]*?){after}")
    group_of = {path: match[1] for path in paths if (match := pattern.fullmatch(path))}
    groups = sorted(set(group_of.values()))
    for group in source.skip_groups:
        known_group(group, replace(source, skip_groups=[]), groups)
    found = [group for group in groups if group not in source.skip_groups]
    if not found:
        raise UserError(f"source {source.name}: {where} has no file '{source.groups}'; it has: {some(paths)}")
    return found, [path for path in paths if path not in group_of and fnmatch(path, source.files)]


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
