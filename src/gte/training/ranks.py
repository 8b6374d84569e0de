"""Ranks that Lightning starts on this machine, until they train: they end with the one that started them."""

import ctypes
import os
import signal
import sys

STARTER = "GTE_STARTER"  # the process that starts the others: in the environment that they inherit
PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def tie_to_starter() -> None:
    """Lets the kernel end this rank, on Linux, where the one that started it dies before both of them train.

    It would wait for that one for hours, as long as the strategy's `timeout` allows, with its memory. A rank that
    nobody started, or torchrun or SLURM, which end theirs by themselves, is to be the starter of others.
    """
    if STARTER not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" in os.environ:
        os.environ[STARTER] = str(os.getpid())
    elif send_at_death_of_parent(signal.SIGTERM) and os.getppid() != int(os.environ[STARTER]):
        sys.exit(128 + signal.SIGTERM)  # it has died already


def untie() -> None:
    """Leaves the end of such a rank to itself: from the first step on, a signal to one of them ends all, saved."""
    if os.environ.get(STARTER) not in (None, str(os.getpid())):
        send_at_death_of_parent(0)


def send_at_death_of_parent(number: int) -> bool:
    """Asks the kernel for a signal, 0 for none; False where it is not Linux."""
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, int(number)) == 0
