"""Vectors in fewer bytes: codes of one byte or one bit a dimension, with what is needed to read them, and their search.

On SciFact with all-MiniLM-L6-v2 (experiments/evaluation) products of one-byte codes that have a range a dimension
rank worse than the vectors, and as well as they do once scale and offset are undone. So int8 has one scale for all
dimensions and no offset: products of its codes are those of the vectors but for a factor, also in programs that know no
ranges. uint8 has the ranges of sentence-transformers, a least and a greatest value a dimension, which `search` undoes.

Shapes: N vectors or queries, M documents, D dimensions, B bytes of a code, K best.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gte.errors import UserError, did_you_mean
from gte.files import read_json
from gte.nearest import best_documents, merge

DTYPES = ("float32", "int8", "uint8", "binary", "ubinary")
BITS = ("binary", "ubinary")
BLOCK = 8_192  # binary codes that are compared at a time
DECODED = 1_024  # codes that are decoded at a time; the vectors of 8,192 leave the processor's cache
QUERIES = 512  # whose Hamming distances to a block are held at a time: 48 MiB
RESCORED = 4  # of binary codes, the best so many times the wanted number are ranked again, by the query's own vector
KEY = b"gte.vectors"  # of a parquet file's metadata


@dataclass(frozen=True)
class Scheme:
    """How vectors float32 [N, D] become codes [N, B] and are read again.

    dtype: one of DTYPES, as sentence-transformers names them. int8, uint8: B = D, a code is a step of the range;
    binary, ubinary: B = D / 8, rounded up, a bit is 1 where the value is above 0 (binary is ubinary - 128, as int8).
    width: D. ranges_2D: of int8 and uint8 the least and the greatest value of each dimension that a code reaches.
    """

    dtype: str
    width: int
    ranges_2D: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """Of one vector."""
        return {"float32": 4 * self.width, "int8": self.width, "uint8": self.width}.get(self.dtype, -(-self.width // 8))

    @property
    def steps_D(self) -> np.ndarray:
        """The difference between two values whose codes are neighbours."""
        return (self.ranges_2D[1] - self.ranges_2D[0]) / 255

    def encode(self, x_ND: np.ndarray) -> np.ndarray:
        """Codes [N, B] of vectors float32 [N, D]; what lies beyond the ranges gets the nearest code."""
        if self.dtype == "float32":
            return x_ND
        if self.dtype in BITS:
            packed = np.packbits(x_ND > 0, axis=-1)
            return packed if self.dtype == "ubinary" else (packed ^ 0x80).view(np.int8)
        steps_D = np.where(self.steps_D > 0, self.steps_D, 1)
        if self.dtype == "int8":
            return np.clip(np.rint(x_ND / steps_D), -127, 127).astype(np.int8)
        return np.clip(np.floor((x_ND - self.ranges_2D[0]) / steps_D), 0, 255).astype(np.uint8)

    def decode(self, codes_NB: np.ndarray) -> np.ndarray:
        """Vectors float32 [N, D] that the codes stand for: the middle of a step, for a bit 1 or -1 over sqrt(D)."""
        if self.dtype == "float32":
            return np.asarray(codes_NB, np.float32)
        if self.dtype in BITS:
            signs_ND = np.unpackbits(self.packed(codes_NB), axis=-1)[:, : self.width]
            return (2 * signs_ND.astype(np.float32) - 1) / np.float32(np.sqrt(self.width))
        if self.dtype == "int8":
            return codes_NB.astype(np.float32) * self.steps_D
        return (codes_NB.astype(np.float32) + np.float32(0.5)) * self.steps_D + self.ranges_2D[0]

    def packed(self, codes_NB: np.ndarray) -> np.ndarray:
        """The bits of binary or ubinary codes as uint8 [N, B]."""
        codes_NB = np.ascontiguousarray(codes_NB)
        return codes_NB if self.dtype == "ubinary" else codes_NB.view(np.uint8) ^ 0x80

    def as_dict(self) -> dict:
        """What `from_dict` reads, in types of JSON."""
        ranges = {} if self.ranges_2D is None else dict(zip(("low", "high"), self.ranges_2D.tolist(), strict=True))
        return {"dtype": self.dtype, "dimensions": self.width, **ranges}

    @classmethod
    def from_dict(cls, values: dict, file: Path) -> "Scheme":
        """Raises UserError, with `file`, where the values make no scheme."""
        try:
            ranges_2D = np.array([values["low"], values["high"]], np.float32) if "low" in values else None
            scheme = cls(values["dtype"], int(values["dimensions"]), ranges_2D)
            needed = scheme.dtype in ("int8", "uint8")
            sound = scheme.dtype in DTYPES and needed == (ranges_2D is not None)
            sound = sound and (not needed or (ranges_2D.shape == (2, scheme.width) and np.isfinite(ranges_2D).all()))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} does not say how its codes are read ({error}); embed the texts again") from error
        if not sound:
            raise UserError(f"{file} does not say how its codes are read; embed the texts again")
        return scheme


def check_dtype(dtype: str, key: str = "dtype") -> None:
    """UserError where vectors are not kept like that; `key` is the setting."""
    if dtype not in DTYPES:
        raise UserError(f"{key}={dtype} is not one of {', '.join(DTYPES)}{did_you_mean(dtype, DTYPES)}")


def scheme_for(dtype: str, low_D: np.ndarray, high_D: np.ndarray) -> Scheme:
    """The scheme for vectors whose least and greatest values by dimension, float32 [D], are these.

    Raises UserError for an unknown dtype.
    """
    check_dtype(dtype)
    if dtype == "int8":
        scale = np.float32(max(np.abs(low_D).max(), np.abs(high_D).max()) / 127 or 1)
        low_D, high_D = np.full(len(low_D), -128 * scale), np.full(len(low_D), 127 * scale)
    ranges_2D = np.stack([low_D, high_D]).astype(np.float32) if dtype in ("int8", "uint8") else None
    return Scheme(dtype, len(low_D), ranges_2D)


def scheme_of(file: str | Path | None, dtype: str, width: int) -> Scheme | None:
    """The scheme of another file of vectors, for new ones of this dtype and width; None without a file.

    Raises UserError where that file is of another dtype or width.
    """
    if file is None:
        return None
    scheme = read_vectors(file).scheme
    if (scheme.dtype, scheme.width) != (dtype, width):
        raise UserError(
            f"ranges={file} is of {scheme.dtype} with {scheme.width} dimensions, not of {dtype} with {width}; set "
            f"dtype={scheme.dtype} truncate_dim={scheme.width}, or leave ranges= out"
        )
    return scheme


@dataclass(frozen=True)
class Vectors:
    """Codes [M, B], in memory or mapped from a file, and how they are read.

    vectors = read_vectors("corpus.npy")
    scores_NK, rows_NK = vectors.search(encoder.encode(["a query"]), k=10)
    """

    codes_MB: np.ndarray
    scheme: Scheme

    def __len__(self) -> int:
        return len(self.codes_MB)

    @property
    def nbytes(self) -> int:
        return len(self) * self.scheme.bytes

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first and vectors float32 of one block after the other."""
        for first in range(0, len(self), DECODED):
            yield first, self.scheme.decode(self.codes_MB[first : first + DECODED])

    def search(self, q_ND: np.ndarray, k: int, rescored: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores [N, K] of each query's k best vectors, best first, and their rows [N, K]; equal scores by row.

        Args:
            q_ND: the queries' own vectors, float32, unit length for cosines.
            k: how many are wanted; K is less where there are fewer vectors.
            rescored: of binary codes the nearest so many by Hamming distance are ranked again by the inner product of
                query and bits; None is RESCORED times k. Those behind them score 2 less than their bits' cosine.
        Returns: inner products of the queries with what the codes stand for.
        """
        if self.scheme.dtype not in BITS:
            return best_documents(q_ND, self.blocks(), k)
        rescored = min(RESCORED * k if rescored is None else rescored, len(self))
        starts = range(0, max(1, len(q_ND)), QUERIES)
        found = [self.search_bits(q_ND[start : start + QUERIES], k, rescored) for start in starts]
        scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, rows

    def search_bits(self, q_ND: np.ndarray, k: int, rescored: int) -> tuple[np.ndarray, np.ndarray]:
        """`search` over binary codes, for as many queries as fit."""
        cosines, rows = self.nearest_bits(q_ND, max(k, rescored))
        scores = cosines - np.float32(2)
        for query, vector in enumerate(q_ND if rescored else ()):
            again = np.sort(rows[query, :rescored])  # by row, so that equal scores stay so
            block = self.scheme.decode(self.codes_MB[again])
            scores[query, :rescored], order = (part[0] for part in best_documents(vector[None], [(0, block)], rescored))
            rows[query, :rescored] = again[order]
        return scores[:, :k], rows[:, :k]

    def nearest_bits(self, q_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines [N, K] of the signs of queries and vectors, and rows [N, K], by Hamming distance, then by row."""
        q_NW = as_words(np.packbits(q_ND > 0, axis=-1))
        values, numbers = torch.empty(len(q_NW), 0), torch.empty(len(q_NW), 0, dtype=torch.int64)
        for first in range(0, len(self), BLOCK):
            d_MW = as_words(self.scheme.packed(self.codes_MB[first : first + BLOCK]))
            distances_NM = np.zeros((len(q_NW), len(d_MW)), np.int32)
            for q_N, d_M in zip(q_NW.T, d_MW.T, strict=True):
                distances_NM += np.bitwise_count(q_N[:, None] ^ d_M)
            cosines_NM = 1 - distances_NM.astype(np.float32) * np.float32(2 / self.scheme.width)
            values, numbers = merge(values, numbers, torch.from_numpy(cosines_NM), first, k)
        return values.numpy(), numbers.numpy()


def as_words(packed_NB: np.ndarray) -> np.ndarray:
    """Bytes as 64-bit words [N, W], filled up with zeros."""
    rest = -packed_NB.shape[1] % 8
    return np.ascontiguousarray(np.pad(packed_NB, ((0, 0), (0, rest)))).view(np.uint64)


def scheme_file(file: Path) -> Path:
    """Where the scheme of a .npy of codes stands: beside it."""
    return file.with_name(f"{file.name}.json")


def read_vectors(file: str | Path) -> Vectors:
    """The vectors that `embed` wrote, memory-mapped where they are a .npy.

    Raises UserError where the file is none, and for codes whose scheme is not there: beside a .npy, <name>.npy.json, in
    a .parquet its metadata. Codes without it cannot be told apart, let alone read.
    """
    file = Path(file)
    try:
        if file.suffix == ".npy":
            codes = np.load(file, mmap_mode="r")
            found = scheme_file(file)
            values = read_json(found) if found.exists() else None
        else:
            table = pq.read_table(file, columns=["embedding"])
            codes = list_column(table)
            values = metadata_of(table.schema)
            found = file
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} holds no vectors that can be read; embed the texts again") from error
    return Vectors(codes, checked_scheme(values, codes, file, found))


def checked_scheme(values: dict | None, codes: np.ndarray, file: Path, found: Path) -> Scheme:
    """The scheme that a file's codes are read by. UserError where there is none, or another array's."""
    if codes.ndim == 2 and values is None and codes.dtype in (np.float32, np.float16):
        return Scheme("float32", codes.shape[1])
    if values is None:
        way = f"{found.name} is not beside it; copy it there, or" if found != file else "its metadata are gone;"
        raise UserError(
            f"{file} holds {codes.dtype} codes, and what they mean (dtype, ranges) is not known: {way} make the file "
            "again"
        )
    scheme = Scheme.from_dict(values, found)
    stored = {"binary": np.int8, "ubinary": np.uint8}.get(scheme.dtype, scheme.dtype)
    width = scheme.bytes // (4 if scheme.dtype == "float32" else 1)
    if codes.dtype != stored or codes.shape != (values.get("rows", len(codes)), width):
        raise UserError(
            f"{file} holds {codes.dtype} {list(codes.shape)}, but {found.name} is of {scheme.dtype} with "
            f"{scheme.width} dimensions: they do not belong together; embed the texts again"
        )
    return scheme


def list_column(table: pa.Table, name: str = "embedding") -> np.ndarray:
    """A column of lists of one length as [rows, length]."""
    column = table[name].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def as_lists(codes_NB: np.ndarray) -> pa.FixedSizeListArray:
    """[N, B] as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(codes_NB).ravel()), codes_NB.shape[1])


def metadata_of(schema: pa.Schema) -> dict | None:
    """What `with_metadata` wrote, or None."""
    text = (schema.metadata or {}).get(KEY)
    return None if text is None else json.loads(text)


def with_metadata(schema: pa.Schema, scheme: Scheme) -> pa.Schema:
    """The schema with the scheme of its vectors in the metadata; float32 vectors need none."""
    if scheme.dtype == "float32":
        return schema
    return schema.with_metadata({**(schema.metadata or {}), KEY: json.dumps(scheme.as_dict())})
