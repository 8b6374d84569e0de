"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A single line that names the file, row or key at fault and the way out; scripts print it and exit with 2."""
