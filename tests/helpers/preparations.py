"""Raw files for preparations, what a prepared folder holds, and preparations in processes of their own."""

import gzip
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from gte.data import tasks
from gte.data.own_files import infer_sources
from gte.data.prepare import prepare
from gte.data.recipe import Recipe
from gte.data.sources import Source
from gte.errors import UserError

WORDS = [
    "model",
    "text",
    "pair",
    "query",
    "graph",
    "token",
    "loss",
    "batch",
    "vector",
    "search",
    "space",
    "rank",
    "code",
]
BAD = {
    '{"query": "q"}': "missing document",
    '{"query": "", "pos": "d"}': "empty query",
    "no json": "invalid JSON",
    '{"query": 1, "pos": "d"}': "wrong type of query",
    '{"query": "q", "pos": "\\ud800"}': "invalid UTF-8",
}


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def make_rows(rng: random.Random, count: int, bad: float = 0.05) -> list[str]:
    """JSON lines of which some are bad and many are equal: texts of two words repeat."""
    lines = []
    for _ in range(count):
        pair = {"query": sentence(rng, 2), "pos": sentence(rng, rng.choice([1, 1, 12]))}
        lines.append(rng.choice(list(BAD)) if rng.random() < bad else json.dumps(pair))
    return lines


def make_raw(folder: Path, seed: int = 0) -> list[Source]:
    """Two sources, one of three files with equal pairs across them, one of triples."""
    rng = random.Random(seed)
    (folder / "words").mkdir(parents=True)
    (folder / "triples").mkdir()
    for name in ("b", "a", "c"):
        text = "\n".join(make_rows(rng, 700))
        (folder / "words" / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    triples = []
    for number in range(300):
        query, document, negative = sentence(rng, 3), sentence(rng, 8), sentence(rng, 9)
        negatives = [f"{negative} {words}" for words in ("one", "two")[: number % 3]]
        triples.append({"query": query, "pos": document, "neg": negatives})
    (folder / "triples" / "t.jsonl").write_text("\n".join(map(json.dumps, triples)))
    return [
        Source("words", "web", ("pretrain",), "jsonl", files="*.jsonl.gz", licence="CC0"),
        Source("triples", "web", ("pretrain", "finetune"), "jsonl", files="t.jsonl"),
    ]


def recipe_of(raw: Path, sources: list[Source], **settings) -> Recipe:
    return Recipe("test", sources, raw, **{"vocab_size": 300, "max_tokens": 16, **settings})


def silent(line: str) -> None:
    """No report."""


def read_pairs(out: Path, source: str) -> list[dict]:
    return pq.read_table(out / "pairs" / f"{source}.parquet").to_pylist()


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a prepared folder; the manifest without its time and command, and its checksum over them."""
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    manifest = json.loads(files["manifest.json"])
    del manifest["created"], manifest["command"], manifest["checksum"]
    files["manifest.json"] = json.dumps(manifest).encode()
    return files


def raw_lines(raw: Path) -> list[tuple[str, int, str]]:
    """(file, row, line) of the source words."""
    return [
        (path.name, row, line)
        for path in sorted((raw / "words").iterdir())
        for row, line in enumerate(gzip.decompress(path.read_bytes()).decode().splitlines(), 1)
    ]


def prepare_undisturbed(folder: Path) -> tuple[Path, Path, Recipe]:
    """(raw, out, recipe) of a preparation of `make_raw` that nobody disturbed."""
    recipe = recipe_of(folder / "raw", make_raw(folder / "raw"))
    prepare(recipe, folder / "out", report=silent)
    return folder / "raw", folder / "out", recipe


def prepare_folder(
    raw: Path, out: Path, force: bool = False, before: Callable | None = None, argument: object = None
) -> None:
    """Prepares the raw files, in a process of its own (`trainings.Begun`), after a call of before(argument)."""
    if before is not None:
        before(argument)
    try:
        prepare(Recipe("test", infer_sources(raw), raw, vocab_size=300), out, force=force)
    except UserError as error:
        sys.exit(str(error))


def prepare_by_ranges(raw: Path, out: Path) -> None:
    """The same on two workers, a task a row group."""
    tasks.RANGE_BYTES = 1
    prepare(Recipe("test", infer_sources(raw), raw, vocab_size=300), out, workers=2)
