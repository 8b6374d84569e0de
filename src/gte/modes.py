"""A module's one lock, and its evaluation mode for a while."""

import threading
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
NEW_LOCK = threading.Lock()


def lock_of(module: nn.Module) -> threading.RLock:
    """The one lock of a module, kept beside it: a lock within could be neither copied nor pickled."""
    with NEW_LOCK:
        return LOCKS.setdefault(module, threading.RLock())


@contextmanager
def evaluating(module: nn.Module):
    """Switches dropout off, and puts each submodule's own mode back afterwards, after an error too."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
