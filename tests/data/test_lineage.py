"""A finished step is recognised by the code that makes it, and by no other."""

import re
import shutil
from pathlib import Path

import pytest

from gte.data import lineage
from gte.data.lineage import changed, code, code_of
from gte.data.made_by import PAIRS_CODE, SHARDS_CODE, TOKENIZER_CODE, TRIPLES_CODE
from gte.data.readers import READERS

SRC = Path(__file__).parents[2] / "src"
STEPS = {
    "jsonl": [PAIRS_CODE, READERS["jsonl"]],
    "warc": [PAIRS_CODE, READERS["warc"]],
    "shards": SHARDS_CODE,
    "triples": TRIPLES_CODE,
    "tokenizer": TOKENIZER_CODE,
}
READ = {"jsonl", "warc"}


@pytest.fixture
def source(tmp_path) -> Path:
    shutil.copytree(SRC / "gte", tmp_path / "gte", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def edit(src: Path, file: str, old: str, new: str) -> None:
    path = src / "gte" / file
    text = path.read_text()
    assert re.search(old, text, re.MULTILINE), (file, old)
    path.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))
    lineage.read_module.cache_clear()


def made_by_others(src: Path) -> set[str]:
    """The steps that the code in `src` would make again."""
    return {step for step, entries in STEPS.items() if code_of(entries) != code_of(entries, src)}


@pytest.mark.parametrize(
    ("file", "old", "new", "steps"),
    [
        ("demo/corpus.py", r"\Z", "\nNEW = 1\n", set()),
        ("data/collate.py", r"^def collate\(", "NEW = 1\n\n\ndef collate(", set()),
        ("data/mixture.py", r"\Z", "\nNEW = 1\n", set()),
        (
            "data/shards.py",
            r"    def __len__\(self\) -> int:\n",
            "    def __len__(self) -> int:\n        1 + 1\n",
            set(),
        ),
        ("errors.py", r"cutoff=0.6", "cutoff=0.7", set()),
        ("data/raw_lines.py", r"^def lines\(", "def decorate(f): return f\n\n\n@decorate\ndef lines(", READ),
        ("data/raw_lines.py", r"^MAX_LINE = 16", "MAX_LINE = 8", READ),
        ("data/records.py", r"both >> 64", "both >> 63", READ),
        ("data/records.py", r"return xxh3_64_intdigest\(", "return 1 + xxh3_64_intdigest(", READ),
        ("data/pairs.py", r"^BUCKET_BYTES = 32", "BUCKET_BYTES = 16", READ),
        ("data/slots.py", r"^WAITS = 0.02", "WAITS = 0.03", set()),
        ("cores.py", r"^SLACK = 0.35", "SLACK = 0.3", set()),
        ("data/formats/warc.py", r"^from", "from", set()),
        ("data/formats/html.py", r"main_content: bool = False", "main_content: bool = True", {"warc"}),
        ("data/tokens.py", r"^BYTES_PER_TOKEN = 16", "BYTES_PER_TOKEN = 17", {"shards"}),
        ("data/shards.py", r"^SHARD_ROWS = 2", "SHARD_ROWS = 1", {"shards"}),
        ("data/ranking.py", r"^BM25_SCORES = 2", "BM25_SCORES = 3", {"triples"}),
        ("data/tokenizer.py", r"^ALPHABET = 400", "ALPHABET = 300", {"tokenizer"}),
        ("data/readers.py", r'"""Read one JSON value a line', '"""Another text', set()),
        ("data/raw_lines.py", r"^def lines\(", "# another comment\ndef lines(", set()),
    ],
)
def test_an_edit_invalidates_the_steps_that_run_the_edited_code_and_no_other(source, file, old, new, steps):
    assert made_by_others(source) == set()
    edit(source, file, old, new)
    assert made_by_others(source) == steps


def test_the_module_that_changed_is_named(source):
    entries = STEPS["jsonl"] + list(SHARDS_CODE)
    edit(source, "data/raw_lines.py", r"^MAX_LINE = 16", "MAX_LINE = 8")
    edit(source, "data/tokens.py", r"^BYTES_PER_TOKEN = 16", "BYTES_PER_TOKEN = 17")
    assert changed(code_of(entries), code_of(entries, source)) == ["gte.data.raw_lines", "gte.data.tokens"]


def test_every_reader_has_a_lineage_of_its_own_module():
    for name, entry in READERS.items():
        modules = code_of([PAIRS_CODE, entry])
        assert entry.split(":")[0] in modules and "gte.data.pairs" in modules, name
        assert not {"gte.demo.corpus", "gte.data.collate", "gte.data.module"} & set(modules)
    formats = [name for name in code_of([PAIRS_CODE, READERS["jsonl"]]) if "formats" in name]
    assert len(code_of([PAIRS_CODE, READERS["warc"]])) > len(code_of([PAIRS_CODE, READERS["jsonl"]])) and not formats


def test_a_move_to_another_module_makes_no_step_anew(source):
    records = source / "gte" / "data" / "records.py"
    text = records.read_text()
    start = text.index("def pair_hash(")  # the last two functions
    line = "from xxhash import xxh3_64_intdigest, xxh3_128_intdigest\n"
    assert line in text
    moved = line + "\n\n" + text[start:]
    (source / "gte" / "data" / "hashes.py").write_text(moved)
    imported = "from gte.data.hashes import pair_hash, text_hash\n"
    records.write_text(text[:start].rstrip().replace(line, imported) + "\n")
    lineage.read_module.cache_clear()
    for step, entries in STEPS.items():
        assert code(*entries) == code(*entries, src=source), step
    assert changed(code_of(STEPS["jsonl"]), code_of(STEPS["jsonl"], source)) == ["gte.data.hashes", "gte.data.records"]
    edit(source, "data/hashes.py", "both >> 64", "both >> 63")
    assert code(*STEPS["jsonl"]) != code(*STEPS["jsonl"], src=source)
