"""The exceptions that mean: the user can fix this; and the common parts of their lines."""

import difflib
import sys
from collections.abc import Iterable
from dataclasses import fields

ERASE = "\r\x1b[K"  # to the beginning of a terminal's line, and nothing of it left


class UserError(ValueError):
    """An error that the user can fix: a single line that names the file, row or key at fault and the way out.

    Scripts print it without a traceback and exit with 2.

    >>> str(UserError("optim.lr must be positive and finite, got -1"))
    'optim.lr must be positive and finite, got -1'
    """

    exit_code = 2


class PointsFailed(UserError):
    """Some points of a sweep failed, the others are done; the script exits with 1."""

    exit_code = 1


class Stopped(UserError):
    """The work was told to stop, and what is done is kept: the script exits with 75, EX_TEMPFAIL of sysexits.h."""

    exit_code = 75


def say(line: str) -> None:
    """Print a line to stdout at once, also into a pipe."""
    print(line, flush=True)


def tell(line: str, last: bool = False) -> None:
    """Prints a line to stderr, on a line of its own also where a progress bar stands.

    last: the work of the bars is over, so that none is drawn again below the line.
    """
    kind = getattr(sys.modules.get("tqdm"), "tqdm", None)  # not loaded: no bar
    for bar in list(getattr(kind, "_instances", ())):
        bar.close() if last else bar.clear()
    if sys.stderr.isatty():
        line = f"{ERASE}{line}"  # the bar may be another process's
    print(line, file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """Reduce an exception to one line.

    Args:
        error: any exception.
    Returns: the first line of its message; the name of its class where it has none.

    >>> first_line(ValueError("no such column")), first_line(KeyboardInterrupt())
    ('no such column', 'KeyboardInterrupt')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, known: Iterable) -> str:
    """Suggest the closest of the known names, for the end of an error's line.

    Args:
        name: as the user typed it.
        known: the names that there are; upper and lower case count as equal.
    Returns: ", did you mean …?", or "" where no known name is close.

    >>> did_you_mean("cosin", ["linear", "cosine", "wsd"])
    ', did you mean cosine?'
    >>> did_you_mean("step", ["linear", "cosine", "wsd"])
    ''
    """
    folded = {str(one).casefold(): str(one) for one in known}
    close = difflib.get_close_matches(str(name).casefold(), list(folded), n=3, cutoff=0.6)
    if close and close[0] == str(name).casefold():
        close = close[:1]
    return f", did you mean {' or '.join(folded[one] for one in close)}?" if close else ""


def check_numbers(group: str, settings: object) -> None:
    """Raises UserError where a field of a dataclass that is declared as a number is none.

    group: of conf, as the user types it. An integer may be a float's, and None where it is declared.
    """
    kinds = {int: "a whole number", float: "a number"}
    for one in fields(settings):
        value, declared = getattr(settings, one.name), str(getattr(one.type, "__name__", one.type))
        kind = next((kind for kind in kinds if kind.__name__ in declared), None)
        if kind is None or "tuple" in declared or (value is None and "None" in declared):
            continue
        fits = isinstance(value, int) if kind is int else isinstance(value, int | float)
        if isinstance(value, bool) or not fits:
            raise UserError(f"{group}.{one.name}={value} must be {kinds[kind]}")
