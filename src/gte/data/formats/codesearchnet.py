"""CodeSearchNet as first published: functions of six languages with their documentation."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gte.data.cleaning import clean
from gte.data.raw_lines import MAX_LINE, lines
from gte.data.readers import json_values, paired
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Record

LITERAL = re.compile(r"""^[ \t]*[rRuUbB]{0,2}(\"{3}|'{3}|"|')(.*?)(?<!\\)\1[ \t]*\n?""", re.DOTALL | re.MULTILINE)
FEW_WORDS = 3  # so short a docstring may stand in the code by chance


def read_codesearchnet(path: Path | zipfile.Path, fields: Fields, *, max_line: int = MAX_LINE) -> Iterator[Record]:
    """Docstring and code of each row; Python's docstring is taken out of the code, which holds it whole."""
    return paired(json_values(lines(path, max_line)), fields, split_docstring)


def split_docstring(value: dict, fields: Fields) -> tuple:
    """(docstring without comment marks, [code without docstring], no negatives)."""
    docstring, code = clean(value.get(fields.query), "query"), clean(value.get(fields.document), "document")
    words = docstring.split()
    for literal in LITERAL.finditer(code):
        if literal[2].split() == words:
            code = code[: literal.start()] + code[literal.end() :]
            break
    if len(words) > FEW_WORDS and " ".join(words) in " ".join(code.split()):
        raise Unfit(Reason.DOCSTRING_IN_CODE)
    if value.get("language") == "go":
        docstring = re.sub(r"^[ \t]*//+[ \t]?", "", docstring, flags=re.MULTILINE)
    return docstring, [code], None
