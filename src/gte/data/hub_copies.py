"""Copies of a data set's parquet files in a source's own folder: those that the source would read from the hub."""

import re
import shlex
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fsspec.utils import glob_translate

from gte.data import hub_files
from gte.data.hub_client import HubError
from gte.data.hub_files import some
from gte.errors import UserError
from gte.files import is_held_out

if TYPE_CHECKING:
    from gte.data.sources import Raw, Source

CARD = "README.md"
PART = re.compile(r"/|-\d{5}-of-\d{5}\.|^\d{4}\.")  # as the hub names files


def wanted(source: "Source", folder: Path) -> list[str]:
    """The patterns of a source's files in its data set, as far as they are known without the hub.

    Those of `hub_files`; else the card's, which comes with a download of the whole data set; else the names that the
    hub gives to what is pushed to it, CONFIGURATION/SPLIT-*, and to what it converts, CONFIGURATION/SPLIT/0000.parquet.
    Raises HubError for a card without the source's configuration or split.
    """
    if source.hub_files is not None:
        return hub_files.as_list(source.hub_files)
    card = folder / CARD
    if card.is_file() and (configs := hub_files.card_configs(card)):
        return hub_files.stated_patterns(configs, f"the card {card}", source.hub_config, source.hub_split)
    split = "/".join(filter(None, (source.hub_config, source.hub_split)))
    return [f"{split}[-.]*", f"{split}/0*"]


def of_source(source: "Source", raws: list["Raw"], folder: Path) -> list["Raw"]:
    """The copies that are a source's, of the parquet files in its folder.

    Args:
        source: one that is on the hub.
        raws: the files, in the folder or in a zip there.
        folder: the source's own.
    Returns: those that `wanted` names, at any depth; where there are none, those at the top whose names alone fit; then
        all, where they are no copies: at the top, and named neither as the hub names its parts nor as another split.
    Raises: UserError where none fits: they are another configuration's or split's.
    """
    if not raws:
        return []
    try:
        patterns = wanted(source, folder)
    except HubError as error:
        raise UserError(f"source {source.name}: {error}") from error
    found = fitting(raws, [f"**/{pattern}" for pattern in patterns])
    found = found or fitting(raws, [PurePosixPath(pattern).name for pattern in patterns])
    if found:
        return found
    if not any(PART.search(path) or is_held_out(Path(path).stem) for path in map(path_of, raws)):
        return raws
    revision = ["--revision", source.revision] if source.revision else []
    command = ["hf", "download", source.hub, "--repo-type", "dataset", *revision]
    command += ["--include", CARD, *patterns, "--local-dir", str(folder)]
    there = some([raw.name for raw in raws])
    raise UserError(
        f"source {source.name}: no parquet file in {folder} is named as its files in {source.hub} are, "
        f"{' or '.join(patterns)}; there are: {there}; get its own: {shlex.join(command)}"
    )


def fitting(raws: list["Raw"], patterns: list[str]) -> list["Raw"]:
    """The files whose paths fit one of the patterns."""
    compiled = [re.compile(glob_translate(pattern)) for pattern in patterns]
    return [raw for raw in raws if any(one.fullmatch(path_of(raw)) for one in compiled)]


def path_of(raw: "Raw") -> str:
    """A file's path in the folder, or in its zip."""
    return raw.member or raw.name
