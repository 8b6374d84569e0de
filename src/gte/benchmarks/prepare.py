"""Preparation: unique pairs in hash order, and their tokens, against `datasets`, DuckDB and `tokenizers`.

The same work for all: read jsonl.gz, strip, drop rows with an empty text, drop repeated pairs, write what is left to
parquet in order of a hash; then the token ids of these pairs, cut to 510. Ours also keeps each row's file and
number and counts why rows were dropped. Each measurement is a process of its own:
`python -m gte.benchmarks.prepare VARIANT INPUT OUT TOKENIZER` prints its seconds, imports aside, and its peak.
"""

import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from gte.errors import UserError
from gte.memory import peak_memory

FILES = 8  # of generated rows
EMPTY = 0.01  # of the generated rows have no query
MAX_TOKENS = 510
BATCH = 8_192  # pairs tokenised at a time
TOKENIZER_TEXTS = 20_000  # a tokenizer is trained on so many texts where none is given
VOCABULARY = 16_384


def run(
    path: str | None = None,
    *,
    rows: int = 200_000,
    repeated: float = 0.2,
    tokenizer: str | None = None,
    rounds: int = 3,
    pairs: tuple[str, ...] = ("ours", "datasets", "duckdb"),
    tokens: tuple[str, ...] = ("ours tokens", "encode_batch tokens", "datasets tokens"),
) -> list[dict]:
    """A row a variant: seconds, pairs/s and peak memory; medians of `rounds` in which the variants take turns.

    path: a folder of jsonl.gz files with {"query", "pos"} a line; None generates `rows`, of which the share `repeated`
    repeats earlier ones. tokenizer: a directory; None trains a WordPiece on the pairs. Raises RuntimeError where
    variants do not keep the same pairs or give the same tokens, UserError for tokens of pairs that ours does not make.
    """
    if tokens and "ours" not in pairs:
        raise UserError(
            "benchmark.tokens are of the pairs that ours makes: add ours to benchmark.pairs, or set it to []"
        )
    from gte.benchmarks.measure import compare, in_child, take_turns  # late: torch would count in a child's memory

    with tempfile.TemporaryDirectory() as folder:
        raw, unique = Path(path) if path else Path(folder) / "raw", Path(folder) / "ours" / "pairs.parquet"
        if not path:
            generate(raw, rows, repeated)

        def turns(names: tuple[str, ...], source: Path, tokenizer: str | Path = "") -> dict[str, list[dict]]:
            child = partial(in_child, "gte.benchmarks.prepare")
            return take_turns(
                {name: partial(child, name, source, f"{folder}/{name}", tokenizer) for name in names}, rounds
            )

        measured = {"unique pairs": turns(pairs, raw)}
        if tokens:
            measured["tokens"] = turns(tokens, unique, tokenizer or train(unique, Path(folder) / "tokenizer"))
    result = []
    for work, of_variant in measured.items():
        digests = {name: {one.pop("digest") for one in times} for name, times in of_variant.items()}
        if len(set().union(*digests.values())) > 1:
            raise RuntimeError(f"the variants do not give the same {work}: {digests}")
        for one in sum(of_variant.values(), []):
            one["rows_per_s"] = one["rows"] / one["seconds"]
        result += compare(
            of_variant, pairs[0] if work == "unique pairs" else tokens[0], work=work, cores=os.cpu_count()
        )
    return result


def generate(folder: Path, rows: int, repeated: float) -> None:
    """Writes `rows` pairs of made-up words, some 40 of them a pair, to FILES files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "in", "or", "us")]
    words = ["".join(rng.choice(syllables, size)) for size in rng.integers(1, 4, 40_000)]
    text = [words[number] for number in (rng.zipf(1.3, 500_000) - 1) % len(words)]
    starts = np.concatenate([[0], np.cumsum([len(word) + 1 for word in text])])
    text = " ".join(text)
    first = rng.integers(0, len(starts) - 100, (rows, 2))
    length = np.stack([rng.integers(3, 12, rows), rng.integers(10, 60, rows)], axis=1)
    earlier = np.where(rng.random(rows) < repeated, (np.arange(rows) * rng.random(rows)).astype(int), np.arange(rows))
    begin, end = starts[first[earlier]], starts[(first + length)[earlier]] - 1
    empty = rng.random(rows) < EMPTY
    for file, places in enumerate(np.array_split(np.arange(rows), FILES)):
        with gzip.open(folder / f"{file}.jsonl.gz", "wt", compresslevel=1) as lines:
            for row in places.tolist():
                query = "" if empty[row] else text[begin[row, 0] : end[row, 0]]
                lines.write(f'{{"query": "{query} ", "pos": " {text[begin[row, 1] : end[row, 1]]}"}}\n')


def train(pairs: Path, folder: Path) -> Path:
    """A tokenizer trained on the first pairs, as a directory."""
    from gte.data.tokenizer import train_tokenizer

    texts = [text for batch in islice(batches(pairs), 1 + TOKENIZER_TEXTS // BATCH) for text in batch]
    train_tokenizer(texts[:TOKENIZER_TEXTS], VOCABULARY).save_pretrained(folder)
    return folder


def batches(pairs: Path) -> Iterator[list[str]]:
    """The texts of a parquet file of pairs, those of BATCH pairs at a time."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(pairs, page_checksum_verification=True).iter_batches(
        BATCH, columns=["query", "document"]
    ):
        yield batch.column("query").to_pylist() + batch.column("document").to_pylist()


def ours(raw: Path, out: Path) -> Callable[[], Path]:
    import pandas  # noqa: F401 pyarrow does, with its first array

    from gte.data.locate import locate
    from gte.data.pairs import make_pairs, use_engine
    from gte.data.sources import Source

    use_engine("native")

    source = Source(
        "raw", "local", ("pretrain",), "jsonl", files="*.jsonl.gz", folder=".", query="query", document="pos"
    )

    def work() -> Path:
        make_pairs(source, locate(source, raw), out / "pairs.parquet", out / "work", max_rejected=1)
        return out / "pairs.parquet"

    return work


def with_datasets(raw: Path, out: Path) -> Callable[[], Path]:
    import datasets

    datasets.disable_progress_bars()
    seen: set[str] = set()

    def clean(batch: dict) -> dict:
        queries, documents = ([text.strip() for text in batch[name]] for name in ("query", "pos"))
        keys = [
            hashlib.blake2b(f"{len(q)}:{q}{d}".encode(), digest_size=16).hexdigest()
            for q, d in zip(queries, documents, strict=True)
        ]
        return {"query": queries, "document": documents, "key": keys}

    def first(keys: list[str]) -> list[bool]:
        return [not (key in seen or seen.add(key)) for key in keys]

    def work() -> Path:
        files = [str(file) for file in sorted(raw.glob("*.jsonl.gz"))]
        rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
        rows = rows.map(clean, batched=True, remove_columns=["pos"])
        filled = lambda queries, documents: [bool(q and d) for q, d in zip(queries, documents, strict=True)]  # noqa: E731
        rows = rows.filter(filled, batched=True, input_columns=["query", "document"])
        rows = rows.filter(first, batched=True, input_columns=["key"]).sort("key").remove_columns("key")
        rows.to_parquet(str(out / "pairs.parquet"))
        return out / "pairs.parquet"

    return work


def with_duckdb(raw: Path, out: Path) -> Callable[[], Path]:
    import duckdb

    def work() -> Path:
        duckdb.sql(f"SET temp_directory = '{out}/temp'")
        columns = "format = 'newline_delimited', columns = {query: 'VARCHAR', pos: 'VARCHAR'}"
        texts = f"SELECT trim(query) AS query, trim(pos) AS document FROM read_json('{raw}/*.jsonl.gz', {columns})"
        filled = f"SELECT query, document FROM ({texts}) WHERE query <> '' AND document <> ''"
        unique = f"{filled} GROUP BY query, document ORDER BY md5_number(query || chr(0) || document)"
        duckdb.sql(f"COPY ({unique}) TO '{out}/pairs.parquet' (FORMAT parquet, COMPRESSION zstd)")
        return out / "pairs.parquet"

    return work


def our_tokens(pairs: Path, out: Path, tokenizer: str) -> Callable[[], Iterator]:
    from gte.data.tokenizer import load_tokenizer
    from gte.data.tokens import Tokens

    tokens = Tokens(load_tokenizer(tokenizer), MAX_TOKENS)
    return lambda: (tokens.encode(texts) for texts in batches(pairs))


def encode_batch(pairs: Path, out: Path, tokenizer: str) -> Callable[[], Iterator]:
    from tokenizers import Tokenizer

    rust = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    rust.no_padding()
    rust.enable_truncation(MAX_TOKENS)

    def work() -> Iterator:
        for texts in batches(pairs):
            yield [encoding.ids for encoding in rust.encode_batch(texts, add_special_tokens=False)]

    return work


def datasets_tokens(pairs: Path, out: Path, tokenizer: str) -> Callable[[], Iterator]:
    import datasets

    from gte.data.tokenizer import load_tokenizer

    datasets.disable_progress_bars()
    fast = load_tokenizer(tokenizer)

    def encode(batch: dict) -> dict:
        options = {"add_special_tokens": False, "truncation": True, "max_length": MAX_TOKENS}
        return {name: fast(batch[name], **options)["input_ids"] for name in ("query", "document")}

    def work() -> Iterator:
        rows = datasets.Dataset.from_parquet(str(pairs), columns=["query", "document"], cache_dir=str(out / "cache"))
        for batch in rows.map(encode, batched=True, batch_size=BATCH).iter(BATCH):
            yield batch["query"] + batch["document"]

    return work


VARIANTS: dict[str, Callable] = {
    "ours": ours,
    "datasets": with_datasets,
    "duckdb": with_duckdb,
    "ours tokens": our_tokens,
    "encode_batch tokens": encode_batch,
    "datasets tokens": datasets_tokens,
}


def clocks() -> np.ndarray:
    """Seconds on the wall and of this process on all cores; other work on the machine stretches the first alone."""
    return np.array([time.perf_counter(), time.process_time()])


def count_lines(file: Path) -> int:
    """Lines of a gzip file."""
    with gzip.open(file) as lines:
        return sum(1 for _ in lines)


def digest_pairs(pairs: Path) -> str:
    """A digest of the pairs of a file as a set."""
    total = 0
    for texts in batches(pairs):
        for query, document in zip(texts[: len(texts) // 2], texts[len(texts) // 2 :], strict=True):
            total += int.from_bytes(hashlib.blake2b(f"{query}\0{document}".encode(), digest_size=16).digest())
    return hex(total % 2**128)


def measure_pairs(variant: str, raw: Path, out: Path) -> dict:
    """Seconds, those of all cores, peak in MiB, rows read, pairs kept, and a digest of these."""
    import pyarrow.parquet as pq

    work = VARIANTS[variant](raw, out)
    start_2 = clocks()
    pairs = work()
    seconds, cpu = (clocks() - start_2).tolist()
    peak = peak_memory()
    rows = sum(map(count_lines, raw.glob("*.jsonl.gz")))
    facts = {"rows": rows, "kept": pq.ParquetFile(pairs).metadata.num_rows, "digest": digest_pairs(pairs)}
    return {"seconds": seconds, "cpu_s": cpu, "peak_mb": peak / 2**20, **facts}


def measure_tokens(variant: str, pairs: Path, out: Path, tokenizer: str) -> dict:
    """Seconds, those of all cores, peak in MiB, pairs and tokens, and a digest of these."""
    work = VARIANTS[variant](pairs, out, tokenizer)()
    clocks_2, texts, tokens, digest = np.zeros(2), 0, 0, hashlib.sha256()
    start_2 = clocks()
    for lists in work:
        clocks_2 += clocks() - start_2
        if isinstance(lists, list):
            flat, lengths = np.fromiter(chain.from_iterable(lists), np.uint32), list(map(len, lists))
        else:
            flat, lengths = lists.values.to_numpy().astype(np.uint32), lists.value_lengths().to_pylist()
        digest.update(flat.tobytes() + str(lengths).encode())
        texts, tokens = texts + len(lists), tokens + len(flat)
        start_2 = clocks()
    seconds, cpu = clocks_2.tolist()
    facts = {"rows": texts // 2, "tokens": tokens, "digest": digest.hexdigest()}
    return {"seconds": seconds, "cpu_s": cpu, "peak_mb": peak_memory() / 2**20, **facts}


if __name__ == "__main__":
    variant, source, out, tokenizer = sys.argv[1:]
    shutil.rmtree(out, ignore_errors=True)  # of the round before: datasets would find its results there
    Path(out).mkdir()
    if tokenizer:
        result = measure_tokens(variant, Path(source), Path(out), tokenizer)
    else:
        result = measure_pairs(variant, Path(source), Path(out))
    print(json.dumps(result))
