"""Ids that `gte.data.tokens` gives by array operations against the Rust tokenizer's, on distinct real texts.

Table "Ids" of README.md: PYTHONPATH=src python experiments/data/ids.py MODEL COUNT FOLDER...
MODEL: a directory with a tokenizer.json. COUNT: texts to compare. FOLDER: searched in this order; of JSON lines each
string is a text, of .tsv each line, of other UTF-8 files (.gz unpacked) each paragraph. Ends with 1 at a difference.
"""

import gzip
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer
from xxhash import xxh3_128_digest

from gte.data.tokens import Tokens

BATCH, MAX_TOKENS, MOST_BYTES = 8_192, 510, 2**26


def strings(value: object) -> Iterator[str]:
    """All strings of a JSON value, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a file; none of one that is not UTF-8."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        content = data[:MOST_BYTES].decode()
    except (OSError, EOFError, UnicodeDecodeError):
        return
    name = path.name.removesuffix(".gz")
    if "\0" in content:
        return
    if name.endswith(".jsonl"):
        for line in content.splitlines():
            yield from strings(json.loads(line))
    elif name.endswith(".tsv"):
        yield from content.splitlines()
    else:
        yield from content.split("\n\n")


def distinct_texts(folders: list[Path]) -> Iterator[str]:
    """Every text once, blank ones aside."""
    seen: set[bytes] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            for text in texts_of(path) if path.is_file() else ():
                digest = xxh3_128_digest(text.encode())
                if text.strip() and digest not in seen:
                    seen.add(digest)
                    yield text


def main(model: str, count: str, *folders: str) -> None:
    rust = Tokenizer.from_file(f"{model}/tokenizer.json")
    rust.no_padding()
    rust.no_truncation()
    tokens = Tokens(rust, MAX_TOKENS)
    tokens.nanotoken = None  # which is compared with Rust in each run
    cut = Tokenizer.from_str(rust.to_str())
    cut.enable_truncation(MAX_TOKENS)
    read = size = plain = 0
    seconds = [0.0, 0.0]
    texts = islice(distinct_texts([Path(folder) for folder in folders]), int(count))
    while batch := list(islice(texts, BATCH)):
        clock = time.process_time()
        ours = tokens.encode(pa.array(batch, pa.string())).to_pylist()
        seconds[0] += time.process_time() - clock
        clock = time.process_time()
        theirs = [encoding.ids for encoding in cut.encode_batch_fast(batch, add_special_tokens=False)]
        seconds[1] += time.process_time() - clock
        for text, own, others in zip(batch, ours, theirs, strict=True):
            if own != others:
                sys.exit(f"differs: {text!r}: {own} and {others}")
        read += len(batch)
        size += sum(map(len, batch))
        plain += sum(map(str.isascii, batch))
    share = 100 * (1 - plain / max(1, read))
    print(f"equal ids of {read:,} distinct texts, {size / 1e6:.0f} M characters, {share:.1f} % of them not ASCII alone")
    print(f"CPU s: ours {seconds[0]:.1f}, encode_batch_fast {seconds[1]:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
