"""What a user can fix, as the one line that a script prints of it in place of a traceback."""

import errno
import re

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from gte.errors import UserError

DIED = re.compile(  # a data worker, or a rank: what PyTorch and gloo say of it
    r"DataLoader worker \(pid.*?\) (is killed by signal: \w+|exited unexpectedly)|Connection (closed|reset) by peer"
)
NO_ROOM = re.compile("No space left on device|File too large|Disk quota exceeded")
NO_MEMORY = re.compile(r"^OutOfMemoryError: |^MemoryError: |DefaultCPUAllocator: (can't|not enough)|CUDA out of memory")
NO_SUCH_PATH = {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}


def one_line(error: BaseException) -> str | None:
    """Say in one line what a user can fix; None where the error is a bug of ours and wants its traceback."""
    if isinstance(error, UserError):
        return str(error).rsplit("UserError: ", 1)[-1].strip()  # a data worker's comes with its traceback before it
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if isinstance(cause, UserError):
            return str(cause)
        if located := re.match(r"Error locating target '(\S+)'", str(error)):
            key = re.search(r"full_key: (\S+)", str(error))
            told = [line.strip() for line in str(cause).splitlines() if line.strip()]
            return f"{key[1] if key else 'configuration'}: {located[1]} cannot be imported: {told[-1]}"
        if isinstance(cause, TypeError) and re.search(r"unexpected keyword|missing .* required", str(cause)):
            key = re.search(r"full_key: (\S+)", str(error))
            return f"configuration {key[1] if key else ''}: {cause}"
        return None
    if isinstance(error, OSError) and error.errno in NO_SUCH_PATH and error.filename is not None:
        return f"{error.filename}: {error.strerror}; name another path"
    if full := NO_ROOM.search(str(error)):  # libraries have exceptions of their own for it
        return f"cannot write, {full[0].lower()}; make room, or name another out="
    if NO_MEMORY.search(f"{type(error).__name__}: {error}"):
        return (
            "out of memory: in training lower stage.batch_tokens and set stage.recompute_fraction=1.0 (then "
            "stage.recompute_layers=true), elsewhere lower batch_tokens"
        )
    if died := dead_process(error):
        return f"a process of this run died ({died}); its last checkpoint is kept: go on with resume=auto and its out="
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = f"{error}\n{error.__cause__ or ''}" if isinstance(error, HydraException) else str(error)
        text = text.split("Config search path")[0]
        if missing := re.search(r"Missing mandatory value: (\S+)", text):
            return f"{missing[1]}= is missing: give it a value"
        lines = [line.strip() for line in text.splitlines()]
        skipped = ("To append", "full_key", "object_type", "reference_type")
        lines = [line for line in lines if line and not line.startswith(skipped)]
        return re.sub(r"(Available options[^:]*:) \| ", r"\1 ", " | ".join(lines)).replace(". | ", ". ")
    return None


def dead_process(error: BaseException) -> str | None:
    """Find what PyTorch says of a data worker or a rank that died; a lost connection to the hub is no RuntimeError."""
    died = DIED.search(str(error)) if isinstance(error, RuntimeError) else None
    return died and died[0]
