"""Small files read and written in one way."""

import json
from pathlib import Path

from gte.errors import UserError


def read_json(file: Path, kind: type = dict):
    """The JSON object (dict) or array (list) of a file. Raises UserError where it holds none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}; get it again") from error
    if not isinstance(value, kind):
        raise UserError(f"{file} must hold a JSON {'object' if kind is dict else 'array'}; get it again")
    return value


def write_json(file: Path, content: dict | list) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
