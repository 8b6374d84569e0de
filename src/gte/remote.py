"""Where a checkpoint is: on this machine, or on any filesystem that fsspec knows, s3:// and gs:// among them."""

import atexit
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gte.errors import UserError, did_you_mean, first_line

if TYPE_CHECKING:
    from upath import UPath

ADDRESS = re.compile(r"(?!(?:https?|ftp|file|local)://)[a-z][a-z0-9+.-]*://.")  # web pages are no filesystems
ZERO_FILE = Path("checkpoint/mp_rank_00_model_states.pt")  # in the directory that DeepSpeed writes as a checkpoint


def is_address(path: "str | Path | UPath") -> bool:
    """Whether a path is an address like s3://bucket/folder."""
    return bool(ADDRESS.match(str(path)))


def place(path: "str | Path | UPath") -> "Path | UPath":
    """A pathlib.Path; for an address a upath.UPath, which has the same methods.

    Raises UserError where the packages for it are not installed.
    """
    if not is_address(path):
        return Path(path)
    try:
        from upath import UPath

        found = UPath(path)
        found.fs  # noqa: B018  looks for the package of this kind of filesystem
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{path}: {error}; pip install -r requirements-remote.txt, for other kinds see fsspec"
        ) from error
    return found


def local_copy(path: "str | Path | UPath") -> Path:
    """The path itself; of what an address names, a file or a directory, a copy that lives as long as this process."""
    return path if isinstance(path, Path) else fetch(path, stamp(path))


def look_anew(path: "str | Path | UPath") -> None:
    """Forget what was listed below an address: s3fs answers from its cache, which another writer does not change."""
    if not isinstance(path, Path):
        path.fs.invalidate_cache()


def stamp(address: "UPath") -> str:
    """Sizes, times and checksums of the files at an address, which another writer's would not share."""
    look_anew(address)
    try:
        found = address.fs.find(address.path, detail=True)
    except Exception as error:  # filesystems have kinds of their own
        raise UserError(f"cannot read {address}: {first_line(error)}") from error
    facts = ("size", "ETag", "LastModified", "mtime", "md5Hash", "created")
    return str([(name, [str(entry.get(fact)) for fact in facts]) for name, entry in sorted(found.items())])


@cache
def fetch(address: "UPath", stamp: str) -> Path:
    folder = tempfile.mkdtemp(prefix="gte-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder) / address.name
    try:
        address.fs.get(address.path, str(copy), recursive=address.is_dir())
    except Exception as error:  # filesystems have kinds of their own
        raise UserError(f"cannot read {address}: {first_line(error)}") from error
    return copy


def find_checkpoint(path: str | Path) -> Path | str:
    """Find the file or directory that `checkpoint=` names.

    Args:
        path: a run directory (its last.ckpt), a .ckpt, a model directory, a name on the hub, or an address (s3://...),
            of which a copy is made. RUN/best.ckpt and RUN/step-0001000.ckpt are found wherever in the run's directory
            they lie.
    Returns: a file or a directory; the name itself where it is the hub's.
    Raises: UserError for a path where nothing is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     (Path(run) / "checkpoints").mkdir()
    ...     (Path(run) / "checkpoints" / "last.ckpt").touch()
    ...     find_checkpoint(run).name
    'last.ckpt'
    """
    if is_address(path):
        there = place(path)
        found = next((file for file in newest_of_run(there) if file.exists()), None)
        if found is None:
            raise UserError(f"checkpoint {path} does not exist; name the address of a .ckpt file, or of its folder")
        return find_checkpoint(local_copy(found))
    folder = Path(path)
    if folder.suffix == ".ckpt" and not folder.exists():
        folder = next((file for file in newest_of_run(folder) if file.exists()), folder)
    if folder.is_file():
        return folder
    if folder.is_dir():
        for last in newest_of_run(folder):
            for file in (last, last / ZERO_FILE):
                if file.is_file():
                    return file
        if (folder / "modules.json").exists() or (folder / "config.json").exists():
            return folder
        check_adapter(folder)
        raise UserError(
            f"{folder} is neither a run directory (checkpoints/last.ckpt) nor a model directory (config.json)"
        )
    beside = folder.parent != Path() and folder.parent.is_dir()  # runs/pretrian beside runs/pretrain is no hub's name
    if folder.is_absolute() or str(path).startswith(".") or folder.suffix == ".ckpt" or len(folder.parts) > 2 or beside:
        close = did_you_mean(folder.name, [one.name for one in folder.parent.iterdir()]) if beside else ""
        raise UserError(
            f"checkpoint {path} does not exist{close}; name a run directory, a .ckpt file or a model directory"
        )
    return str(path)


def newest_of_run(folder: "Path | UPath") -> tuple:
    """Where a run's newest checkpoint is, if `folder` is a run's, or of checkpoints, or the checkpoint itself."""
    within = folder.parent / "checkpoints" / folder.name  # RUN/best.ckpt
    return folder / "checkpoints" / "last.ckpt", folder / "last.ckpt", folder, within


def check_adapter(folder: Path) -> None:
    """Raise UserError for a directory of an adapter, as PEFT saves it: it is a change of another model's weights."""
    file = folder / "adapter_config.json"
    if file.exists():
        raise UserError(f"{file}: adapters are not read; merge it into the weights first (PEFT: merge_and_unload)")


def check_revision(name: str | Path, revision: str | None, setting: str = "revision") -> None:
    """Raise UserError for a revision of a directory; names on the hub have one. `setting`: its name for a user."""
    if revision is not None and Path(name).exists():
        raise UserError(f"{setting}={revision} is of a name on the hub, {name} is a directory; set it to null")
