"""The hub asked patiently: again where it may only have failed for now; its refusals are one line."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
from huggingface_hub import constants, errors
from huggingface_hub.utils import parse_ratelimit_headers

from gte.errors import UserError, first_line
from gte.hub import hub_reachable

WAITS = (1, 2, 4, 8, 16, 32, 60, 60)  # seconds between tries without progress, three minutes in all
LONGEST = 600  # seconds that a server may ask to wait; a rate limit's window is five minutes
PASSING = {408, 429, 500, 502, 503, 504}  # what a server says that may answer later


class HubError(UserError):
    """The hub does not give what is asked for."""


class HubAway(HubError):
    """The hub does not answer for now; a later run resumes."""


class BadAnswer(OSError):
    """An answer without an error that is not what was asked for, such as a proxy's page; the next one may be."""


def patiently(call: Callable, what: str, progress: Callable[[], int] = lambda: 0):
    """Call the hub, again where it may only have failed for now.

    Args:
        call: without arguments.
        what: what it gets, for the line that the user reads.
        progress: how far it has come; while that grows, the number of tries is not bounded.

    Raises HubError with the reason where it fails for good, HubAway where it does for as long as WAITS.
    """
    if not hub_reachable():
        getattr(hub_reachable, "cache_clear", lambda: None)()  # the next file asks anew
        raise HubAway(f"the hub did not give {what} (it cannot be reached from here, or HF_HUB_OFFLINE is set)")
    waits, reached = iter(WAITS), progress()
    while True:
        try:
            return call()
        except (httpx2.HTTPError, OSError) as error:
            if getattr(error, "errno", None) and not isinstance(error, errors.HfHubHTTPError):
                raise  # the disk's fault
            if progress() > reached:
                waits, reached = iter(WAITS), progress()
            wait = next(waits, None)
            if wait is None or not may_pass(error):
                kind_of = HubAway if may_pass(error) else HubError
                raise kind_of(f"the hub did not give {what} ({reason(error)})") from error
            wait = max(wait, asked_wait(error_response(error)))
        time.sleep(wait)


def error_response(error: Exception):
    """The server's answer that an error reports, None where there was none."""
    return getattr(error, "response", None) if isinstance(error, errors.HfHubHTTPError) else None


def may_pass(error: Exception) -> bool:
    """Whether a later try may succeed: a cut connection, a server that is busy or limits the rate, a bad answer."""
    response = error_response(error)
    return response is None or response.status_code in PASSING


def reason(error: Exception) -> str:
    """A server's refusal in one line, and what to do where it wants to know who asks."""
    status, said = getattr(error_response(error), "status_code", None), first_line(error)
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/datasets/{error.repo_id}"
        return f"{status}: it is gated; ask for access at {page}, then hf auth login, or HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        said = f"{status}: there is no such data set, or it is private"
    elif isinstance(error, errors.RevisionNotFoundError):
        said = f"{status}: there is no such revision"
    elif isinstance(error, errors.EntryNotFoundError):
        said = f"{status}: there is no such file"
    elif getattr(error, "server_message", None):
        said = f"{said.rstrip(': ')}: {' '.join(error.server_message.split())}"
    return f"{said}; if it is private or gated: hf auth login, or HF_TOKEN" if status in (401, 403) else said


def asked_wait(response: httpx2.Response | None) -> int:
    """Seconds that a server asks to wait, LONGEST at most: a number, a date, or the rest of its rate limit's window."""
    if response is None:
        return 0
    limit = parse_ratelimit_headers(response.headers)
    wait = limit.reset_in_seconds if limit is not None and limit.remaining == 0 else 0
    said = response.headers.get("Retry-After", "").strip()
    if said.isdecimal():
        wait = max(wait, int(said))
    elif said:
        wait = max(wait, seconds_until(said))
    return min(wait, LONGEST)


def seconds_until(date: str) -> int:
    """Whole seconds until an HTTP date, rounded up; 0 for one that has passed or cannot be read."""
    try:
        left = parsedate_to_datetime(date) - datetime.now(UTC)
    except (TypeError, ValueError):  # TypeError: a date without a time zone
        return 0
    return max(0, int(left.total_seconds()) + 1)
