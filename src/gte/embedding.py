"""Embeddings of a stream of texts, in bounded memory, kept block by block until the result is complete.

Shapes: N texts of a block, D width.
"""

import copy
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gte.encoder import Encoder
from gte.errors import UserError
from gte.evaluation.model import weights_checksum
from gte.prompts import find_prompt
from gte.texts import Text

BLOCK = 8_192  # rows that are encoded together and kept: what a kill loses, at most
POLICIES = ("keep", "skip", "refuse")


class Embedder:
    """An encoder and how it is run. `prefix`: the words before each text, None for the model's default prompt."""

    def __init__(
        self,
        encoder: Encoder,
        precision: str = "fp32",
        batch_tokens: int | None = None,
        normalize: bool = True,
        prefix: str | None = None,
        progress: bool = False,
    ):
        self.encoder, self.progress = encoder, progress
        self.prefix = find_prompt(encoder.settings, words=prefix)
        self.settings = {"precision": precision, "batch_tokens": batch_tokens, "normalize": normalize}
        self.checksum = weights_checksum(encoder)

    @property
    def identity(self) -> str:
        """Equal where the same texts give the same vectors."""
        return json.dumps([self.checksum, self.settings, self.prefix, self.encoder.device.type])

    def prefixed(self, prefix: str) -> "Embedder":
        """The same with other words before each text."""
        other = copy.copy(self)
        other.prefix = prefix
        return other

    def __call__(self, texts: list[str], where: Callable[[int], str]) -> np.ndarray:
        """Vectors float32 [N, D]. UserError where one is not finite; `where` names a text by its position."""
        x_ND = self.encoder.encode(texts, progress=self.progress, prompt=self.prefix, **self.settings)
        finite_N = np.isfinite(x_ND).all(axis=1)
        if not finite_N.all():
            raise UserError(
                f"{where(int(np.argmin(finite_N)))}: its embedding is not finite in {self.settings['precision']}; the "
                "weights are damaged or need precision=fp32"
            )
        return x_ND


@dataclass
class Account:
    """What became of the rows: every row is one of these."""

    embedded: int = 0
    empty: int = 0  # of the embedded ones
    reused: int = 0  # of the embedded ones, from a run before that was cut off
    left_out: Counter | None = None  # by reason
    first: dict | None = None  # row by reason

    def __str__(self) -> str:
        parts = [f"{self.embedded:,} embedded"]
        if self.empty:
            parts.append(f"of these {self.empty:,} empty texts")
        if self.reused:
            parts.append(f"{self.reused:,} before an interruption")
        parts += [f"{n:,} left out: {why}, first in row {self.first[why]}" for why, n in self.left_out.most_common()]
        return "; ".join(parts)


def embed_texts(
    texts: Iterable[Text],
    embedder: Embedder,
    out: Path,
    work: Path,
    *,
    source: str,
    empty: str = "keep",
    unreadable: str = "refuse",
) -> Account:
    """Writes `out`: .npy [rows, D], row for row as the texts, or .parquet with the columns row, id, embedding.

    `empty`: what becomes of empty texts, keep (embed them), skip or refuse; `unreadable`: of rows without a text, skip
    or refuse. Blocks are kept in `work` under a digest of their texts and of the embedder: after an interruption the
    same command reads the texts again but encodes only what is missing, with an equal result. `out` appears complete.
    Raises UserError for a row that is refused, and where no text is left.
    """
    check_policies(out, empty, unreadable)
    account = Account(left_out=Counter(), first={})
    parts = []
    for number, block in enumerate(blocks(texts)):
        kept = list(chosen(block, source, empty, unreadable, account))
        if not kept:
            continue
        part = work / f"{number:08}.parquet"
        if digest_of(part) == (digest := block_digest(kept, embedder.identity)):
            account.reused += len(kept)
        else:
            x_ND = embedder([text.text for text in kept], lambda i, kept=kept: f"{source}, row {kept[i].row}")
            write_part(part, kept, x_ND, digest)
        account.embedded += len(kept)
        account.empty += sum(not text.text for text in kept)
        parts.append(part)
    if not parts:
        raise UserError(f"{source} holds no text ({account})")
    temporary = work / out.name
    (write_npy if out.suffix == ".npy" else write_parquet)(parts, account.embedded, temporary)
    os.replace(temporary, out)
    shutil.rmtree(work)
    return account


def check_policies(out: Path, empty: str, unreadable: str) -> None:
    """UserError for a result or a policy that does not exist, or that do not go together."""
    if out.suffix not in {".npy", ".parquet"}:
        raise UserError(f"out={out.name}: its name must end in .npy or .parquet")
    if empty not in POLICIES:
        raise UserError(f"empty={empty} is not one of {', '.join(POLICIES)}")
    if unreadable not in POLICIES[1:]:
        raise UserError(f"unreadable={unreadable} is not one of {', '.join(POLICIES[1:])}")
    if out.suffix == ".npy" and "skip" in (empty, unreadable):
        raise UserError(
            "a .npy holds no row numbers, so no row of it can be left out; name an out= that ends in .parquet"
        )


def blocks(texts: Iterable[Text]) -> Iterator[list[Text]]:
    iterator = iter(texts)
    while block := list(islice(iterator, BLOCK)):
        yield block


def chosen(block: list[Text], source: str, empty: str, unreadable: str, account: Account) -> Iterator[Text]:
    """The texts of a block to embed; the others are counted, or refused with their row."""
    for text in block:
        reason, policy = (text.reason, unreadable) if text.text is None else ("empty text", empty)
        if text.text or policy == "keep":
            yield text
        elif policy == "skip":
            account.left_out[reason] += 1
            account.first.setdefault(reason, text.row)
        else:
            key = "unreadable" if text.text is None else "empty"
            raise UserError(f"{source}, row {text.row}: {reason}; mend it, or leave such rows out: {key}=skip")


def block_digest(block: list[Text], identity: str) -> bytes:
    """Of all that a block's file depends on."""
    content = json.dumps([identity, [(text.row, text.id, text.text) for text in block]])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest().encode()


def digest_of(part: Path) -> bytes | None:
    """The digest that a kept block was written under; None where there is none, or no whole one."""
    try:
        return (pq.read_schema(part).metadata or {}).get(b"digest")
    except (OSError, pa.ArrowException):
        return None


def write_part(part: Path, block: list[Text], x_ND: np.ndarray, digest: bytes) -> None:
    """One block, complete or not there."""
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.ravel()), x_ND.shape[1])
    columns = {"row": [text.row for text in block], "id": [text.id for text in block], "embedding": embeddings}
    table = pa.table(columns).replace_schema_metadata({"digest": digest})
    temporary = part.with_suffix(".partial")
    pq.write_table(table, temporary, compression="none", use_dictionary=False)
    os.replace(temporary, part)


def write_npy(parts: list[Path], rows: int, file: Path) -> None:
    """The blocks' vectors end to end, float32 [rows, D]."""
    result, start = None, 0
    for part in parts:
        x_ND = pq.read_table(part)["embedding"].combine_chunks().flatten().to_numpy().reshape(
            pq.read_metadata(part).num_rows, -1)  # fmt: skip
        if result is None:
            result = np.lib.format.open_memmap(file, "w+", np.float32, (rows, x_ND.shape[1]))
        result[start : start + len(x_ND)] = x_ND
        start += len(x_ND)
    result.flush()


def write_parquet(parts: list[Path], rows: int, file: Path) -> None:
    """The blocks as row groups."""
    schema = pq.read_schema(parts[0]).remove_metadata()
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part).replace_schema_metadata())
