"""The model hub, which may be out of reach: without a network its client retries for a minute before it says no."""

import logging
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from gte.errors import UserError

SECONDS = 5
SMALL_FILES = ["*.json", "*.txt", "*.model"]  # configuration and tokenizer of a model on the hub


@cache
def hub_reachable() -> bool:
    """False where HF_HUB_OFFLINE is set or no connection to the hub opens; a proxy is trusted to reach it."""
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") in {"1", "true", "TRUE", "yes"}:
        return False
    endpoint = urlsplit(constants.ENDPOINT)
    if endpoint.scheme in urllib.request.getproxies():
        return True
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        socket.create_connection((endpoint.hostname, port), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def ask_no_hub() -> None:
    """From here on only what was downloaded before is used, instead of retrying for a minute each time."""
    import datasets

    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def download(name: str, local: bool, files: list[str], revision: str | None = None) -> Path:
    """Copy some files of a model on the hub into the hub's cache, where they lie as in a model directory.

    Args:
        name: the model's name on the hub.
        local: ask nothing of the hub: only what was copied before is there.
        files: patterns of file names.
        revision: branch, tag or commit; None is the newest.

    Returns: the directory, which is named like the commit. Raises the hub client's errors, see `loading`.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    return Path(snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=local))


@contextmanager
def loading(what: str, name: str, way_out: str) -> Iterator[bool]:
    """Around a call of transformers that loads a directory or a hub name; yields whether it may read local files only.

    Turns the many ways in which transformers fails to find or read a model into one line with the way out.
    """
    from transformers.utils import logging as transformers_logging  # late: not every caller gets as far as a model

    transformers_logging.disable_progress_bar()
    for client in ("httpx", "httpx2"):  # tell each request at INFO, which Hydra shows
        logging.getLogger(client).setLevel(logging.WARNING)
    is_local = Path(name).exists()
    try:
        yield not is_local and not hub_reachable()
    except UserError:
        raise
    except Exception as error:  # of every kind, for what is damaged or was never a model
        first, *others = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{first} {others[0].strip()}" if first.endswith(":") and others else first
        if "trust_remote_code" in str(error):
            reason = "it brings Python files, which export.py, embed.py and search.py run with trust_remote_code=true"
        if is_local:
            raise UserError(f"cannot load a {what} from {name}: {reason}") from error
        raise UserError(
            f"cannot load the {what} '{name}': it is no local directory and the hub did not give it ({reason}); "
            f"{way_out}"
        ) from error
