"""How much memory a process has taken."""

from pathlib import Path


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
