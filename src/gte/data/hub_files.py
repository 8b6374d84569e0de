"""Files of data sets on the hub: which of them a source reads, at one commit, and their download.

The first look at a data set pins it: its commit and the sizes of its files are kept in a small file in the raw folder,
which every later run reads instead of asking. So a run that was cut resumes with the data that it began with, and needs
no network for what it has. A download resumes at the byte where it stopped, in this process or a later one.
"""

import contextlib
import fcntl
import json
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TextIO

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard
from fsspec.utils import glob_translate
from huggingface_hub import HfApi, constants, errors, hf_hub_url, metadata_load
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, get_session, hf_raise_for_status

from gte.data.raw_lines import KINDS
from gte.errors import UserError, did_you_mean, first_line
from gte.files import put, read_json, write_json
from gte.hub import hub_reachable

FOLDER = ".hub"  # in the raw folder: what is pinned, and downloads until their pairs are written
WAITS = (1, 2, 4, 8, 16, 32, 60, 60)  # seconds between tries without progress, three minutes in all
LONGEST = 600  # seconds that a server may ask to wait; a rate limit's window is five minutes
PASSING = {408, 429, 500, 502, 503, 504}  # what a server says that may answer later
TAIL, HEAD = 2**16, 2**18  # bytes of a file that are read for its columns
SECONDS = 60  # for one answer of the hub
COMMIT = r"[0-9a-f]{40}"
NAME_THEM = "; name the files: hub_files: PATTERN"


@dataclass(frozen=True)
class HubFile:
    """One file of a data set. repo: owner/name. revision: the commit. path: in the repository. bytes: its size."""

    repo: str
    revision: str
    path: str
    bytes: int

    @property
    def name(self) -> str:
        """Name in the provenance."""
        return f"hub:{self.repo}@{self.revision[:12]}/{self.path}"

    def __str__(self) -> str:
        return f"{self.path} of {self.repo} at {self.revision[:12]}"

    def place(self, folder: Path) -> Path:
        """Where it is downloaded to, `folder` being the raw folder."""
        return folder / FOLDER / f"{self.repo.replace('/', '--')}@{self.revision[:12]}" / self.path


@dataclass(frozen=True)
class Pin:
    """A data set as the first run found it. asked: branch, tag or commit. revision: the commit. files: their sizes."""

    repo: str
    asked: str
    revision: str
    files: dict[str, int]

    def file(self, path: str) -> HubFile:
        return HubFile(self.repo, self.revision, path, self.files[path])


class HubError(UserError):
    """The hub does not give what is asked for."""


class HubAway(HubError):
    """The hub does not answer for now; a later run resumes."""


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
        return Pin(repo, facts["asked"], facts["revision"], facts["files"])
    what = f"the files of {repo} at {asked or 'main'}"
    try:
        info = patiently(lambda: HfApi().dataset_info(repo, revision=asked, files_metadata=True, timeout=SECONDS), what)
    except HubError as error:
        if not isinstance(error.__cause__, errors.RevisionNotFoundError):
            raise
        another = f"'data.overrides={{{repo}: {{revision: main}}}}'"
        raise HubError(f"{repo} has no revision '{asked}'; to take another one: {another}") from error
    revision, files = info.sha, {one.rfilename: one.size or 0 for one in info.siblings or ()}
    for path in files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise HubError(f"{repo} lists the file '{path}', which leads outside of it")
    made = Pin(repo, asked or "main", revision, files)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"repo": repo, "asked": made.asked, "revision": revision, "pinned": when, "files": files}
    write_json(kept, facts, indent=None)
    return made


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


def download(file: HubFile, folder: Path) -> Path:
    """Copy a file into the raw folder, unless it is there.

    What was copied of it before, by whichever process, is not asked for again, but for the client's last chunk of
    10 MB; processes that want the same file wait for each other.

    Raises HubError where the hub does not give it, OSError where the disk takes no more.
    """
    target = file.place(folder)
    if target.is_file() and target.stat().st_size == file.bytes:
        return target
    disable_progress_bars()
    part = target.with_name(f"{target.name}.part")
    url = hf_hub_url(file.repo, file.path, repo_type="dataset", revision=file.revision)

    def go_on() -> None:
        with part.open("ab") as stream:
            if stream.tell() > file.bytes:
                stream.seek(0)
                stream.truncate()
            http_get(url, stream, resume_size=stream.tell(), headers=build_hf_headers(), expected_size=file.bytes)

    with opened_lock(part.with_name(f"{part.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target.is_file() and target.stat().st_size == file.bytes):
            patiently(go_on, str(file), progress=lambda: part.stat().st_size if part.exists() else 0)
            put(part, target)
    return target


def opened_lock(path: Path) -> TextIO:
    """A new file in a folder that another source of the same data set may be removing, because it is empty."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w")
        except (FileNotFoundError, FileExistsError):
            continue


def remove(file: HubFile, folder: Path) -> None:
    """Remove a downloaded file, and what stands beside it on its account."""
    target = file.place(folder)
    for end in ("", ".part", ".part.lock", ".lock", ".arrow", ".arrow.part"):
        target.with_name(f"{target.name}{end}").unlink(missing_ok=True)
    for parent in (target.parent, *target.parent.parents):
        if parent == folder / FOLDER:
            break
        try:
            parent.rmdir()
        except OSError:  # not empty, or another's
            break


def patiently(call: Callable, what: str, progress: Callable[[], int] = lambda: 0):
    """Call the hub, again where it may only have failed for now.

    Args:
        call: without arguments.
        what: what it gets, for the line that the user reads.
        progress: how far it has come; while that grows, the number of tries is not bounded.

    Raises HubError with the reason where it fails for good, HubAway where it does for as long as WAITS.
    """
    if not hub_reachable():
        getattr(hub_reachable, "cache_clear", lambda: None)()  # the next file asks anew
        raise HubAway(f"the hub did not give {what} (it cannot be reached from here, or HF_HUB_OFFLINE is set)")
    waits, reached = iter(WAITS), progress()
    while True:
        try:
            return call()
        except (httpx2.HTTPError, OSError) as error:
            if getattr(error, "errno", None) and not isinstance(error, errors.HfHubHTTPError):
                raise  # the disk's fault
            if progress() > reached:
                waits, reached = iter(WAITS), progress()
            wait = next(waits, None)
            if wait is None or not may_pass(error):
                kind_of = HubAway if may_pass(error) else HubError
                raise kind_of(f"the hub did not give {what} ({reason(error)})") from error
            wait = max(wait, asked_wait(error_response(error)))
        time.sleep(wait)


def error_response(error: Exception):
    """The server's answer that an error reports, None where there was none."""
    return getattr(error, "response", None) if isinstance(error, errors.HfHubHTTPError) else None


def may_pass(error: Exception) -> bool:
    """Whether a later try may succeed: a cut connection, a server that is busy or limits the rate."""
    response = error_response(error)
    return response is None or response.status_code in PASSING


def reason(error: Exception) -> str:
    """A server's refusal in one line, and what to do where it wants to know who asks."""
    status, said = getattr(error_response(error), "status_code", None), first_line(error)
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/datasets/{error.repo_id}"
        return f"{status}: it is gated; ask for access at {page}, then hf auth login, or HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        said = f"{status}: there is no such data set, or it is private"
    elif isinstance(error, errors.RevisionNotFoundError):
        said = f"{status}: there is no such revision"
    elif isinstance(error, errors.EntryNotFoundError):
        said = f"{status}: there is no such file"
    elif getattr(error, "server_message", None):
        said = f"{said.rstrip(': ')}: {' '.join(error.server_message.split())}"
    return f"{said}; if it is private or gated: hf auth login, or HF_TOKEN" if status in (401, 403) else said


def asked_wait(response: httpx2.Response | None) -> int:
    """Seconds that a server asks to wait, LONGEST at most."""
    said = "" if response is None else response.headers.get("Retry-After", "").strip()
    return min(int(said), LONGEST) if said.isdigit() else 0


def columns(file: HubFile, folder: Path) -> list[str] | None:
    """The columns of a parquet file, or of the first row of a JSON lines file; None where rows have no names.

    Of a file that is not here yet only its end or its beginning is asked for. Raises HubError as `download` does.
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
    """The columns of a parquet file, from its footer. Raises HubError where it has none."""
    tail = piece(file, max(0, file.bytes - TAIL), file.bytes, folder)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > len(tail):
        tail = piece(file, max(0, file.bytes - length), file.bytes, folder)
    try:
        return pq.read_schema(pa.BufferReader(tail)).names
    except (pa.ArrowException, OSError) as error:
        raise HubError(f"{file} is no parquet file: {first_line(error)}") from error


def piece(file: HubFile, start: int, end: int, folder: Path) -> bytes:
    """The bytes of a file from start to end, from here where it has been downloaded."""
    if start >= end:
        return b""
    here = file.place(folder)
    if here.is_file() and here.stat().st_size == file.bytes:
        with here.open("rb") as stream:
            stream.seek(start)
            return stream.read(end - start)
    url = hf_hub_url(file.repo, file.path, repo_type="dataset", revision=file.revision)

    def get() -> bytes:
        response = get_session().get(
            url, headers=build_hf_headers() | {"Range": f"bytes={start}-{end - 1}"}, timeout=30
        )
        hf_raise_for_status(response)
        return response.content if response.status_code == 206 else response.content[start:end]

    return patiently(get, str(file))


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
