"""Lines that are Python literals, as UCSD's Amazon questions are in spite of their name, *.json.gz."""

import ast
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.raw_lines import MAX_LINE, lines
from gte.data.readers import paired
from gte.data.reasons import Reason
from gte.data.records import Fields, Record, Rejected
from gte.data.tables import Row


def read_literals(path: Path | zipfile.Path, fields: Fields, *, max_line: int = MAX_LINE) -> Iterator[Record]:
    """One literal a line, in any of the shapes of `Fields`. Nothing of it is executed."""
    return paired(literals(path, max_line), fields)


def literals(path: Path | zipfile.Path, max_line: int) -> Iterator[Row | Rejected]:
    """(row, value) of the lines; blank ones are no rows."""
    for item in lines(path, max_line):
        if isinstance(item, Rejected):
            yield item
        elif not item[1].isspace():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # invalid escapes in other people's strings
                    yield item[0], ast.literal_eval(item[1].decode().strip())
            except UnicodeDecodeError:
                yield Rejected(Reason.INVALID_UTF8, item[0])
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                yield Rejected(Reason.INVALID_LITERAL, item[0])
