"""Folders and files that one process writes at a time."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gte.errors import UserError, tell

HELD: set[int] = set()  # descriptors of the locks of this process
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}  # of a filesystem without them


@contextmanager
def locked(target: Path, doing: str, key: str) -> Iterator[None]:
    """Keeps other processes from writing the same file or folder while the block runs.

    The lock is a file beside the target, `.<name>.lock`, within it where its folder cannot be written to. It says who
    holds it. The kernel gives it back when the process dies, however that happens. On NFS it holds between machines
    unless mounted with nolock or local_lock; on a filesystem without locks there is none, and a note says so.

    Args:
        target: a file or folder, which need not exist yet.
        doing: the work, in the words of the line that another process gets: "another process is <doing> <target>".
        key: the setting that names another target.

    Raises UserError where another process holds the lock, or where no file can be made for it.
    """
    path = lock_file(target)
    try:
        lock = take(path)
    except BlockingIOError:
        raise UserError(
            f"another process is {doing} {target}{holder(path)}; wait for it, or give another {key}"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"cannot write to {path.parent} ({error.strerror}); give another {key}") from error
        none = f"{path.parent} is on a filesystem without locks"
        tell(f"note: {none}: nothing keeps a second process from {doing} {target}")
        yield
        return
    HELD.add(lock)
    try:
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.truncate(lock, 0)
        os.pwrite(lock, json.dumps(facts).encode(), 0)
        yield
    finally:
        if lock in HELD:  # not in a process forked from this one
            HELD.discard(lock)
            with suppress(OSError):
                path.unlink()  # while it is held: who waits for it looks whether the file is still there
            os.close(lock)


def lock_file(target: Path) -> Path:
    """Where the lock of a file or folder is."""
    target = target.resolve()  # one lock for all names of a folder
    beside = target.parent / f".{target.name}.lock"
    return target / ".lock" if target.is_dir() and not os.access(target.parent, os.W_OK) else beside


def take(path: Path) -> int:
    """The descriptor of a lock that was free. BlockingIOError where it was not, OSError where there can be none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its holder has removed it since: another process may hold the one that is there now


def holder(path: Path) -> str:
    """' (pid 12 on host since ...)' of the process that holds a lock; nothing where that is not said."""
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        return f" (pid {who['pid']} on {who['host']} since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def drop_locks() -> None:
    """A forked process must not hold its parent's locks: flock belongs to all that have the file open."""
    for lock in HELD:
        os.close(lock)
    HELD.clear()


os.register_at_fork(after_in_child=drop_locks)
