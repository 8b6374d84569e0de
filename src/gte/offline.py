"""Whether the model hub can be asked at all: without a network its client retries for a minute before it says no."""

import os
import socket
import urllib.request
from functools import cache
from urllib.parse import urlsplit

from huggingface_hub import constants

SECONDS = 5


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
