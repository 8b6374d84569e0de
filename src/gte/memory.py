"""Memory that a process has taken, and giving back the part that it does not need."""

import ctypes
import os
from pathlib import Path

# the variables by which oneDNN, and PyTorch in front of it, are told how many prepared products to keep
PRIMITIVES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
KEPT_PRIMITIVES = 128  # those of a chunk, which each layer uses again; most are of attention by lengths
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # glibc's


def peak_memory(device: str = "cpu") -> int:
    """Bytes: the most that this process has held so far, of the processor's memory or of the GPU's.

    Not ru_maxrss on Linux: a child process inherits its parent's, and small peaks vanish behind it.
    """
    if device != "cpu":
        import torch  # late: it takes some 200 MB itself

        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except FileNotFoundError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def resident_memory() -> int:
    """Bytes of the processor's memory that this process holds now; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bound_primitives() -> None:
    """Has oneDNN keep fewer of the products that it has prepared, unless the environment says how many.

    It keeps 1,024, one a shape, and in bf16 each with a buffer as large as its result. Packed texts have another shape
    with each chunk: a model of 8M parameters grew to 3.2 GB, now to 1.4. Acts where PyTorch has not computed yet.
    Sources: oneDNN's manual, "Primitive Cache"; PyTorch's environment variables.
    """
    for name in PRIMITIVES:
        os.environ.setdefault(name, str(KEPT_PRIMITIVES))


class EvenMemory:
    """Called after each of many like pieces of work: the process stays within a tenth of its size after the first.

    What a piece has freed lies in holes of the heap, into which the next one does not quite fit; where the process has
    grown, glibc gives them back to the system. Not after each piece: it would fault all of its memory in again. Does
    nothing where the C library is another one.
    """

    def __init__(self):
        self.first = None
        if TRIM:
            TRIM(0)

    def __call__(self) -> None:
        if TRIM and self.first is None:
            self.first = resident_memory()
        elif TRIM and resident_memory() > 1.1 * self.first:
            TRIM(0)
