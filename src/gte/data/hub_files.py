"""Files of data sets on the hub: which of them a source reads, at one commit, and the columns that they have.

The first look at a data set pins it: its commit and the sizes and checksums of its files are kept in a small file in
the raw folder, which every later run reads instead of asking. So a run that was cut resumes with the data that it began
with, and needs no network for what it has.
"""

import contextlib
import json
import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard
from fsspec.utils import glob_translate
from huggingface_hub import HfApi, errors, metadata_load
from huggingface_hub.hf_api import DatasetInfo, RepoSibling

from gte.data.hub_client import BadAnswer, HubError, patiently
from gte.data.hub_download import FOLDER, HubFile, download, piece
from gte.data.raw_lines import KINDS
from gte.errors import UserError, did_you_mean, first_line
from gte.files import read_json, write_json
from gte.hub import hub_reachable

TAIL, HEAD = 2**16, 2**18  # bytes of a file that are read for its columns
SECONDS = 60  # for one answer of the hub
COMMIT = r"[0-9a-f]{40}"
NAME_THEM = "; name the files: hub_files: PATTERN"


@dataclass(frozen=True)
class Pin:
    """A data set as the first run found it.

    asked: branch, tag or commit. revision: the commit. files: their sizes. checksums: of the files, as HubFile has
    them, where the listing gave them.
    """

    repo: str
    asked: str
    revision: str
    files: dict[str, int]
    checksums: dict[str, str] = field(default_factory=dict)

    def file(self, path: str) -> HubFile:
        return HubFile(self.repo, self.revision, path, self.files[path], self.checksums.get(path))


def pin(repo: str, asked: str | None, folder: Path) -> Pin:
    """Pin a data set, or find it pinned.

    Args:
        repo: owner/name.
        asked: branch, tag or commit; None is main.
        folder: the raw folder, where the pin is kept.

    Returns: its commit and files. Raises HubError where the hub does not tell, UserError for a damaged pin.
    """
    kept = pin_file(repo, asked, folder)
    if kept.exists():
        facts = read_json(kept)
        return Pin(repo, facts["asked"], facts["revision"], facts["files"], facts.get("checksums", {}))
    what = f"the files of {repo} at {asked or 'main'}"
    try:
        info = patiently(lambda: listing(repo, asked), what)
    except HubError as error:
        if not isinstance(error.__cause__, errors.RevisionNotFoundError):
            raise
        another = f"'data.overrides={{{repo}: {{revision: main}}}}'"
        raise HubError(f"{repo} has no revision '{asked}'; to take another one: {another}") from error
    files = {one.rfilename: one.size for one in info.siblings}
    for path in files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise HubError(f"{repo} lists the file '{path}', which leads outside of it")
    checksums = {one.rfilename: told for one in info.siblings if (told := listed_checksum(one))}
    made = Pin(repo, asked or "main", info.sha, files, checksums)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"repo": repo, "asked": made.asked, "revision": info.sha, "pinned": when}
    write_json(kept, {**facts, "files": files, "checksums": checksums}, indent=None)
    return made


def listing(repo: str, asked: str | None) -> DatasetInfo:
    """Ask once for a data set's commit and files. Raises BadAnswer where the answer does not tell them."""
    try:
        info = HfApi().dataset_info(repo, revision=asked, files_metadata=True, timeout=SECONDS)
        commit = asked if re.fullmatch(COMMIT, asked or "") else info.sha
        told = re.fullmatch(COMMIT, info.sha) and info.sha == commit and all(one.size >= 0 for one in info.siblings)
    except errors.HFValidationError as error:
        raise HubError(f"the hub has no data set of that name: {first_line(error)}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # the client's, for a page or other JSON
        raise BadAnswer(f"its answer is no listing: {type(error).__name__}: {first_line(error)}") from error
    if not told:
        raise BadAnswer(f"its answer is a listing of the commit {info.sha}")
    return info


def listed_checksum(file: RepoSibling) -> str | None:
    """The checksum of a file that a listing gives: of its bytes where Git LFS keeps it, else of git's blob."""
    if file.lfs is not None:
        return f"sha256:{file.lfs.sha256}"
    return f"sha1:{file.blob_id}" if re.fullmatch(COMMIT, file.blob_id or "") else None


def pin_file(repo: str, asked: str | None, folder: Path) -> Path:
    """Where a data set's pin is kept; who removes it asks for the newest commit."""
    return folder / FOLDER / f"{repo}@{asked or 'main'}.json".replace("/", "--")


def newer(repo: str, asked: str | None, folder: Path) -> str | None:
    """One line where a pinned data set has a newer commit; None where it has not, or nobody can tell."""
    if re.fullmatch(COMMIT, asked or "") or not hub_reachable():
        return None
    pinned = pin(repo, asked, folder)
    with contextlib.suppress(Exception):  # a question on the side, which stops nothing
        newest = HfApi().dataset_info(repo, revision=asked, timeout=SECONDS).sha
        if newest != pinned.revision:
            return (
                f"note: {repo} is read at {pinned.revision[:12]}, where an earlier run pinned it; it is at "
                f"{newest[:12]} now: to take that, remove {pin_file(repo, asked, folder)}"
            )
    return None


def find(pinned: Pin, config: str | None, split: str, patterns: str | list[str] | None, folder: Path) -> list[HubFile]:
    """The files of a configuration's split, or of patterns, in order of path.

    config, split: as in the data set's card, which names the files of each; config None: the default one. patterns:
    globs within the repository, `*` within a folder and `**` across folders, in place of the card. Raises HubError
    where nothing fits.
    """
    if patterns is None:
        patterns = card_patterns(pinned, config, split, folder)
    wanted = [re.compile(glob_translate(one)) for one in ([patterns] if isinstance(patterns, str) else patterns)]
    paths = sorted(path for path in pinned.files if any(one.fullmatch(path) for one in wanted))
    if not paths:
        raise HubError(
            f"{pinned.repo} at {pinned.revision[:12]} has no file '{patterns}'; it has: {some(list(pinned.files))}"
        )
    return [pinned.file(path) for path in paths]


def card_patterns(pinned: Pin, config: str | None, split: str, folder: Path) -> list[str]:
    """The patterns of the files of a split, from the data set's card. Raises HubError where it names none."""
    where = f"the card of {pinned.repo} at {pinned.revision[:12]}"
    if "README.md" not in pinned.files:
        raise HubError(f"{pinned.repo} at {pinned.revision[:12]} has no card{NAME_THEM}")
    card = download(pinned.file("README.md"), folder)
    return stated_patterns(card_configs(card), where, config, split)


def card_configs(card: Path) -> dict[str, dict]:
    """The configurations that a card states, by name. Raises HubError where its head is no YAML."""
    try:
        stated = (metadata_load(card) or {}).get("configs") or []
    except (yaml.YAMLError, ValueError) as error:
        raise HubError(f"the card {card} cannot be read: {first_line(error)}{NAME_THEM}") from error
    return {str(one.get("config_name", "default")): one for one in stated}


def stated_patterns(configs: dict[str, dict], where: str, config: str | None, split: str) -> list[str]:
    """The patterns of the files of a split, of a card's configurations. Raises HubError where it is not among them."""
    if config is None:
        marked = [name for name, one in configs.items() if one.get("default")]
        alone = list(configs) if len(configs) == 1 else []
        config = next(iter([*marked, *alone]), "default")
    if config not in configs:
        held = f"{did_you_mean(config, configs)}; it has: {some(list(configs))}"
        raise HubError(f"{where} has no configuration '{config}'{held}{NAME_THEM}")
    splits: dict[str, list[str]] = {}
    for one in as_list(configs[config].get("data_files")):
        named = one if isinstance(one, dict) else {"split": "train", "path": one}
        splits.setdefault(str(named.get("split", "train")), []).extend(as_list(named.get("path")))
    if split not in splits:
        raise HubError(f"{where} has no split '{split}' of '{config}'; it has: {some(list(splits))}{NAME_THEM}")
    return splits[split]


def as_list(value: object) -> list:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def some(names: list[str]) -> str:
    """Names for a line: the first ten, and how many more."""
    return ", ".join(names[:10]) + (f", and {len(names) - 10:,} more" if len(names) > 10 else "") or "none"


def columns(file: HubFile, folder: Path) -> list[str] | None:
    """The columns of a parquet file, or of the first row of a JSON lines file; None where rows have no names.

    Of a file that is not here yet only its end or its beginning is asked for. Raises HubError as `download` does,
    UserError for a parquet file that is none.
    """
    kept = folder / FOLDER / "columns" / file.place(folder).relative_to(folder / FOLDER)
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    found = None
    if file.path.endswith(".parquet"):
        found = parquet_columns(file, folder)
    elif kind(file.path) in ("jsonl", "json"):
        found = first_keys(unpacked(file.path, piece(file, 0, min(HEAD, file.bytes), folder)))
    write_json(kept, found, indent=None)
    return found


def parquet_columns(file: HubFile, folder: Path) -> list[str]:
    """The columns of a parquet file, from its footer. Raises UserError where it has none."""
    tail = piece(file, max(0, file.bytes - TAIL), file.bytes, folder)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > len(tail):
        tail = piece(file, max(0, file.bytes - length), file.bytes, folder)
    try:
        return pq.read_schema(pa.BufferReader(tail)).names
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{file} is no parquet file, as it is in the data set, of {file.bytes:,} bytes ({first_line(error)}); name "
            f"the others: 'data.overrides={{{file.repo}: {{hub_files: PATTERN}}}}', or another commit: revision: COMMIT"
        ) from error


def unpacked(path: str, head: bytes) -> bytes:
    """The beginning of a file that may be an archive."""
    packed = KINDS.get(PurePosixPath(path).suffix)
    try:
        if packed == "gzip":
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head)
        return zstandard.ZstdDecompressor().decompressobj().decompress(head) if packed == "zstd" else head
    except (zlib.error, zstandard.ZstdError):
        return b""  # the reader says what is wrong with it


def first_keys(head: bytes) -> list[str] | None:
    """The keys of the first row of JSON lines, None where it is none or a list."""
    try:
        row = json.loads(head.split(b"\n", 1)[0])
    except ValueError:
        return None
    return list(row) if isinstance(row, dict) else None


def kind(path: str) -> str:
    """The format of a file by its name, compression aside."""
    name = PurePosixPath(path).name
    for suffix in KINDS:
        name = name.removesuffix(suffix)
    return name.rpartition(".")[2].lower()
