"""The exceptions that mean: the user can mend this."""


class UserError(ValueError):
    """A single line that names the file, row or key at fault and the way out; scripts print it and exit with 2."""

    exit_code = 2


class PointsFailed(UserError):
    """Some points of a sweep failed, the others are done; the script exits with 1."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
