"""Embeddings of a stream of texts, in bounded memory, kept block by block until the result is complete.

Shapes: N texts of a block, D width.
"""

import copy
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.reasons import Reason
from gte.encoder import Encoder
from gte.errors import UserError
from gte.files import put, whole, write_json
from gte.inference.compact import (
    Scheme,
    as_lists,
    check_dtype,
    content_sum,
    list_column,
    scheme_file,
    scheme_for,
    with_metadata,
)
from gte.inference.texts import Text
from gte.models.broken import first_of_no_use
from gte.models.load import weights_checksum
from gte.prompts import find_prompt

BLOCK = 8_192  # rows that are encoded together and kept: what a kill loses, at most
CPU_BLOCK = 1_024  # the same on a CPU, which takes minutes for as many; smaller chunks fill it
POLICIES = ("keep", "skip", "refuse")


class Embedder:
    """An encoder, and the settings that it is run with.

    Args:
        encoder: the model.
        precision, batch_tokens, normalize, progress: of `Encoder.encode`.
        prefix: the words before each text; None is the model's default prompt.

    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> embedder = Embedder(model, prefix="query: ")
    >>> embedder(["a text"], where=lambda i: f"text {i}").shape
    (1, 16)
    """

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
        """A string that is equal where the same texts give the same vectors."""
        return json.dumps([self.checksum, self.settings, self.prefix, self.encoder.device.type])

    def prefixed(self, prefix: str) -> "Embedder":
        """Make a copy that puts other words before each text."""
        other = copy.copy(self)
        other.prefix = prefix
        return other

    def __call__(self, texts: list[str], where: Callable[[int], str]) -> np.ndarray:
        """Vectors float32 [N, D]. UserError where one is not finite, or 0; `where` names a text by its position."""
        x_ND = self.encoder.encode(texts, progress=self.progress, prompt=self.prefix, **self.settings)
        if found := first_of_no_use(x_ND, texts):
            first, what, _ = found
            raise UserError(
                f"{where(first)}: its embedding is {what} in {self.settings['precision']}; the "
                "weights are damaged or need precision=fp32"
            )
        return x_ND


@dataclass
class Account:
    """Counts of the rows of an input: every row is embedded or skipped."""

    embedded: int = 0
    empty: int = 0  # of the embedded ones
    reused: int = 0  # of the embedded ones, from a run before that was cut off
    beyond: int = 0  # of the embedded ones, with a value beyond the ranges of the codes
    left_out: Counter | None = None  # by reason
    first: dict | None = None  # row by reason

    def __str__(self) -> str:
        parts = [f"{self.embedded:,} embedded"]
        if self.empty:
            parts.append(f"of these {self.empty:,} empty texts")
        if self.reused:
            parts.append(f"{self.reused:,} before an interruption")
        if self.beyond:
            parts.append(f"{self.beyond:,} reach beyond the ranges given and are cut to them")
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
    dtype: str = "float32",
    scheme: Scheme | None = None,
    block: int | None = None,
) -> Account:
    """Embed a stream of texts into a file, in bounded memory; an interrupted run resumes with an equal result.

    Blocks of rows are kept in `work` under a digest of their texts and of the embedder: after an interruption the same
    command reads the texts again but encodes only what is missing. `out` appears complete.

    Args:
        texts: of `read_texts`.
        embedder: the model and its settings.
        out: .npy [rows, D], row for row as the texts, or .parquet with the columns row, id, embedding.
        work: a folder for the blocks, removed at the end.
        source: name of the input, for errors.
        empty: keep (embed), skip or refuse empty texts.
        unreadable: skip or refuse rows without a text.
        dtype: of `gte.inference.compact`; the scheme of codes is kept in <out>.json beside a .npy, in the metadata of a
            .parquet.
        scheme: another file's, which decides dtype and ranges; None takes the ranges of all vectors.
        block: rows of a block; None is BLOCK.
    Returns: the counts of the rows.
    Raises: UserError for a row that is refused, and where no text is left.

    >>> import tempfile
    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     work = Path(folder) / "work"
    ...     work.mkdir()
    ...     texts = [Text(1, "1", "a text"), Text(2, "2", "")]
    ...     print(embed_texts(texts, Embedder(model), Path(folder) / "x.parquet", work, source="texts", empty="skip"))
    1 embedded; 1 left out: empty text, first in row 2
    """
    check_policies(out, empty, unreadable, dtype)
    account, parts = Account(left_out=Counter(), first={}), []
    for number, rows in enumerate(blocks(texts, block or BLOCK)):
        kept = list(chosen(rows, source, empty, unreadable, account))
        if kept:
            parts.append(work / f"{number:08}.parquet")
            embed_block(kept, embedder, parts[-1], source, account)
    if not parts:
        raise UserError(f"{source} holds no text ({account})")
    if scheme is None:
        scheme = scheme_for(dtype, *extremes(parts))
    elif scheme.ranges_2D is not None:
        account.beyond = sum(scheme.beyond(vectors_of(part)) for part in parts)
    write_result(parts, account.embedded, work / out.name, out, scheme)
    shutil.rmtree(work)
    return account


def embed_block(kept: list[Text], embedder: Embedder, part: Path, source: str, account: Account) -> None:
    """Embeds a block into its file, or finds it there, and counts its rows."""
    digest = block_digest(kept, embedder.identity)
    if digest_of(part) == digest:
        account.reused += len(kept)
    else:
        x_ND = embedder([text.text for text in kept], lambda i: f"{source}, row {kept[i].row}")
        write_part(part, kept, x_ND, digest)
    account.embedded += len(kept)
    account.empty += sum(not text.text.strip() for text in kept)


def write_result(parts: list[Path], rows: int, temporary: Path, out: Path, scheme: Scheme) -> None:
    """Writes the vectors of all blocks, and their scheme where it is beside them; `out` appears complete."""
    write = write_npy if out.suffix == ".npy" else write_parquet
    write(parts, rows, temporary, scheme)
    beside = scheme_file(out)
    if out.suffix == ".npy" and scheme.dtype != "float32":
        out.unlink(missing_ok=True)  # a kill must not leave the codes of before beside the ranges of these
        write_json(beside, scheme.as_dict() | {"rows": rows})
    elif out.suffix == ".npy" and beside.exists():
        out.unlink(missing_ok=True)  # nor codes without ranges
        beside.unlink(missing_ok=True)  # of other vectors under this name
    put(temporary, out)


def check_policies(out: Path, empty: str, unreadable: str, dtype: str) -> None:
    """UserError for a result, a policy or a type that does not exist, or that do not go together."""
    check_dtype(dtype)
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


def block_for(device: str) -> int:
    """Rows that are encoded together and kept on such a device."""
    return min(BLOCK, CPU_BLOCK) if device == "cpu" else BLOCK


def blocks(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    """Cut a stream of texts into lists of at most `size`."""
    iterator = iter(texts)
    while block := list(islice(iterator, size)):
        yield block


def chosen(block: list[Text], source: str, empty: str, unreadable: str, account: Account) -> Iterator[Text]:
    """The texts of a block to embed; the others are counted, or refused with their row."""
    for text in block:
        reason, policy = (text.reason, unreadable) if text.text is None else (Reason.EMPTY.of("text"), empty)
        if (text.text or "").strip() or policy == "keep":
            yield text
        elif policy == "skip":
            account.left_out[reason] += 1
            account.first.setdefault(reason, text.row)
        else:
            key = "unreadable" if text.text is None else "empty"
            raise UserError(f"{source}, row {text.row}: {reason}; mend it, or leave such rows out: {key}=skip")


def block_digest(block: list[Text], identity: str) -> bytes:
    """Digest of everything that a block's file depends on."""
    content = json.dumps([identity, [(text.row, text.id, text.text) for text in block]])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest().encode()


def digest_of(part: Path) -> bytes | None:
    """Read the digest that a kept block was written under; None where there is none, or the file is not intact."""
    try:
        return read_part(part).schema.metadata[b"digest"]
    except (KeyError, UserError):
        return None


def read_part(part: Path) -> pa.Table:
    """A block as it was written. UserError where it is not."""
    try:
        table = pq.read_table(part)
        if table.schema.metadata[b"content"] == part_sum(table):
            return table
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{part} is damaged: it is not as it was written; the same command embeds its texts again")


def part_sum(table: pa.Table) -> bytes:
    """Checksum of a block's content."""
    x_ND = list_column(table)
    rows = zip(*(table[name].to_pylist() for name in ("row", "id")), strict=True)
    return content_sum(rows, x_ND, Scheme("float32", x_ND.shape[1]))


def write_part(part: Path, block: list[Text], x_ND: np.ndarray, digest: bytes) -> None:
    """One block, complete or not there."""
    columns = {"row": [text.row for text in block], "id": [text.id for text in block], "embedding": as_lists(x_ND)}
    table = pa.table(columns)
    table = table.replace_schema_metadata({"digest": digest, "content": part_sum(table)})
    with whole(part) as partial:
        pq.write_table(table, partial, compression="none", use_dictionary=False)


def vectors_of(part: Path) -> np.ndarray:
    """A block's vectors, float32 [N, D]."""
    return list_column(read_part(part))


def extremes(parts: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value [D] of each dimension in all blocks."""
    found = [(x_ND.min(0), x_ND.max(0)) for x_ND in map(vectors_of, parts)]
    return np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)


def write_npy(parts: list[Path], rows: int, file: Path, scheme: Scheme) -> None:
    """The blocks' vectors end to end, float32 [rows, D] or codes [rows, B]."""
    result, start = None, 0
    for part in parts:
        codes_NB = scheme.encode(vectors_of(part))
        if result is None:
            result = np.lib.format.open_memmap(file, "w+", codes_NB.dtype, (rows, codes_NB.shape[1]))
        result[start : start + len(codes_NB)] = codes_NB
        start += len(codes_NB)
    result.flush()


def write_parquet(parts: list[Path], rows: int, file: Path, scheme: Scheme) -> None:
    """The blocks as row groups."""
    writer = None
    for part in parts:
        table = read_part(part).replace_schema_metadata()
        codes = as_lists(scheme.encode(list_column(table)))
        table = table.set_column(table.column_names.index("embedding"), "embedding", codes)
        writer = writer or pq.ParquetWriter(
            file, with_metadata(table.schema, scheme), compression="none", use_dictionary=False
        )
        writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
    writer.close()
