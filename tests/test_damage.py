"""Raw files damaged at random: whatever they hold, rows come out of them that the engine can take."""

import gzip
import random
from collections.abc import Callable

import pyarrow as pa
import pytest
import zstandard
from conftest import records_of
from test_source_formats import RAW, write

from gte.data import pairs as engine
from gte.data.sources import load_source, locate
from gte.errors import UserError


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A file cut, with some bytes changed, some left out, or some put in."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 1, 4, 50]))
    noise = rng.choice(
        [rng.randbytes(end - start), b"\xff", b"\\ud800", b"&e;", b"<", b'"', b"null", b"\0", b"\n", b"9" * 25]
    )
    return rng.choice([data[:start], data[:start] + noise + data[end:], data[:start] + data[end:]])


def take_rows(schema: pa.Schema, make_row: Callable, found: list[tuple]) -> None:
    """As the engine does it."""
    for file, record in found:
        cells = zip(make_row(file, record, 1)[1], schema, strict=True)
        pa.record_batch([pa.array([cell], kind.type) for cell, kind in cells], schema=schema)


@pytest.mark.parametrize("key", RAW, ids=lambda key: key if isinstance(key, str) else f"{key[0]}-{key[1]}")
def test_no_damage_raises_anything_but_what_the_user_is_told(tmp_path, key):
    rng = random.Random(str(key))
    name = key if isinstance(key, str) else key[0]
    write(tmp_path / name, RAW[key][0])
    source = load_source(name).in_folder(tmp_path)
    files = sorted({raw.path for raw in locate(source, tmp_path)})
    for _ in range(40):
        path = rng.choice(files)
        whole = path.read_bytes()
        if path.suffix in (".gz", ".zst") and rng.random() < 0.8:  # of the text itself
            packed = gzip if path.suffix == ".gz" else zstandard
            path.write_bytes(packed.compress(damaged(rng, packed.decompress(whole))))
        else:
            path.write_bytes(damaged(rng, whole))
        try:
            raws = locate(source, tmp_path)
            if source.keyed:
                take_rows(engine.KEYED, engine.keyed_row, [(raw.name, row) for raw in raws for row in source.read(raw)])
            take_rows(engine.PART, engine.part_row, records_of(source, *raws))
        except (UserError, OSError) as error:  # prepare tells both in one line
            assert "\n" not in str(error)
        path.write_bytes(whole)
