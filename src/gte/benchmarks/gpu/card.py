"""Whether this machine has a CUDA device, asked of its driver: `python card.py` says so where it has none, exit 2.

Standard library only, so that `make gpu` can ask before it installs anything.
"""

import ctypes
import sys

NO_CARD = (
    "error: this machine has no CUDA device ({reason}); run `make gpu` on one that has: "
    "experiments/gpu/README.md says how, also without a network"
)


def cuda_devices() -> tuple[int, str]:
    """Count the CUDA devices that the driver shows.

    Returns: their number, and where it is 0 the reason in a few words.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no driver: libcuda.so.1 is not there"
    code = driver.cuInit(0)
    if code:
        return 0, f"the driver does not start, cuInit answers {code}"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value, "the driver shows none; see CUDA_VISIBLE_DEVICES"


def main() -> int:
    count, reason = cuda_devices()
    if count:
        return 0
    print(NO_CARD.format(reason=reason), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
