"""Vectors in fewer bytes: codes of one byte or one bit a dimension, with what is needed to read them, and their search.

On SciFact with all-MiniLM-L6-v2 (experiments/evaluation) products of one-byte codes that have a range a dimension
rank worse than the vectors, and as well as they do once scale and offset are undone. So int8 has one scale for all
dimensions and no offset: products of its codes are those of the vectors but for a factor, also in programs that know no
ranges. uint8 has the ranges of sentence-transformers, a least and a greatest value a dimension, which `search` undoes.

Shapes: N vectors or queries, M documents, D dimensions, B bytes of a code, K best.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from xxhash import xxh3_64

from gte.errors import UserError, did_you_mean
from gte.files import read_json
from gte.nearest import best_documents, merge

DTYPES = ("float32", "int8", "uint8", "binary", "ubinary")
BITS = ("binary", "ubinary")
BLOCK = 8_192  # binary codes that are compared at a time
DECODED = 1_024  # codes that are decoded at a time; the vectors of 8,192 leave the processor's cache
QUERIES = 512  # whose Hamming distances to a block are held at a time: 48 MiB
RESCORED = 4  # of binary codes, the best so many times the wanted number are ranked again, by the query's own vector
FLAT, SPREAD = 1e-4, 4  # sizes of a value: a narrower range is none, and one so many to each side stands in for it
KEY = b"gte.vectors"  # of a parquet file's metadata


@dataclass(frozen=True)
class Scheme:
    """The rule by which vectors float32 [N, D] become codes [N, B] and are read again.

    Args:
        dtype: one of DTYPES, as sentence-transformers names them. int8, uint8: B = D, a code is a step of the range;
            binary, ubinary: B = D / 8, rounded up, a bit is 1 where the value is above 0 (binary is ubinary - 128, as
            int8).
        width: D.
        ranges_2D: of int8 and uint8 the least and the greatest value of each dimension that a code reaches.

    >>> Scheme("binary", width=384).bytes, Scheme("float32", width=384).bytes
    (48, 1536)
    """

    dtype: str
    width: int
    ranges_2D: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """Bytes of one vector."""
        return {"float32": 4 * self.width, "int8": self.width, "uint8": self.width}.get(self.dtype, -(-self.width // 8))

    @property
    def steps_D(self) -> np.ndarray:
        """The difference between two values whose codes are neighbours."""
        return (self.ranges_2D[1] - self.ranges_2D[0]) / 255

    def encode(self, x_ND: np.ndarray) -> np.ndarray:
        """Encode vectors; a value beyond the ranges gets the nearest code.

        Args:
            x_ND: float32 [N, D].
        Returns: codes [N, B].

        >>> Scheme("ubinary", width=4).encode(np.array([[0.5, -0.5, 0.1, -0.1]], np.float32)).tolist()  # bits 1010 0000
        [[160]]
        """
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
        """Decode codes to the vectors that they stand for: the middle of a step, for a bit 1 or -1 over sqrt(D).

        Args:
            codes_NB: codes [N, B].
        Returns: float32 [N, D].

        >>> scheme = Scheme("ubinary", width=4)
        >>> scheme.decode(scheme.encode(np.array([[0.5, -0.5, 0.1, -0.1]], np.float32))).tolist()
        [[0.5, -0.5, 0.5, -0.5]]
        """
        if self.dtype == "float32":
            return np.array(codes_NB, np.float32)  # a copy: PyTorch warns of memory that is mapped read-only
        if self.dtype in BITS:
            signs_ND = np.unpackbits(self.packed(codes_NB), axis=-1)[:, : self.width]
            return (2 * signs_ND.astype(np.float32) - 1) / np.float32(np.sqrt(self.width))
        if self.dtype == "int8":
            return codes_NB.astype(np.float32) * self.steps_D
        return (codes_NB.astype(np.float32) + np.float32(0.5)) * self.steps_D + self.ranges_2D[0]

    def beyond(self, x_ND: np.ndarray) -> int:
        """Count the vectors that have a value beyond the ranges, whose codes stand for others.

        Args:
            x_ND: float32 [N, D].

        >>> Scheme("uint8", width=1, ranges_2D=np.array([[0], [1]], np.float32)).beyond(np.array([[0.5], [2]]))
        1
        """
        if self.ranges_2D is None:
            return 0
        low_D, high_D = self.ranges_2D
        return int(((x_ND < low_D) | (x_ND > high_D)).any(1).sum())

    def packed(self, codes_NB: np.ndarray) -> np.ndarray:
        """The bits of binary or ubinary codes as uint8 [N, B]."""
        codes_NB = np.ascontiguousarray(codes_NB)
        return codes_NB if self.dtype == "ubinary" else codes_NB.view(np.uint8) ^ 0x80

    def as_dict(self) -> dict:
        """The scheme in types of JSON, as `from_dict` reads it."""
        ranges = {} if self.ranges_2D is None else dict(zip(("low", "high"), self.ranges_2D.tolist(), strict=True))
        return {"dtype": self.dtype, "dimensions": self.width, **ranges}

    @classmethod
    def from_dict(cls, values: dict, file: Path) -> "Scheme":
        """Read a scheme that `as_dict` gave.

        Args:
            values: its content.
            file: the file that an error names.
        Raises: UserError where the values make no scheme.

        >>> scheme = Scheme("binary", width=384)
        >>> Scheme.from_dict(scheme.as_dict(), Path("corpus.npy.json")) == scheme
        True
        """
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
    """Choose the scheme for vectors by their least and greatest values.

    A dimension in which they are all alike has the range that a unit vector's values have, around theirs: a single
    vector shows no range, and codes of steps of 0 would all stand for it.

    Args:
        dtype: one of DTYPES.
        low_D: float32 [D], the least value of each dimension.
        high_D: float32 [D], the greatest.
    Raises: UserError for an unknown dtype.

    >>> x_ND = np.array([[0.1, -0.2], [0.3, 0.1]], np.float32)
    >>> scheme = scheme_for("int8", x_ND.min(0), x_ND.max(0))
    >>> bool(np.abs(scheme.decode(scheme.encode(x_ND)) - x_ND).max() < 0.002)
    True
    """
    check_dtype(dtype)
    largest_D = np.maximum(np.abs(low_D), np.abs(high_D))
    if dtype == "int8":
        scale = np.float32((largest_D.max() or 1) / 127)
        low_D, high_D = np.full(len(low_D), -128 * scale), np.full(len(low_D), 127 * scale)
    elif dtype == "uint8":
        size = np.sqrt(np.mean(np.square(largest_D, dtype=np.float64))) or 1  # 1 / sqrt(D) of a single unit vector
        middle_D, flat_D = (low_D + high_D) / 2, high_D - low_D <= FLAT * size
        low_D = np.where(flat_D, middle_D - SPREAD * size, low_D)
        high_D = np.where(flat_D, middle_D + SPREAD * size, high_D)
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
    """Codes of vectors, in memory or mapped from a file, and their search.

    Args:
        codes_MB: codes [M, B].
        scheme: the rule by which they are read.

    >>> vectors = Vectors(np.eye(3, dtype=np.float32), Scheme("float32", width=3))
    >>> scores_NK, rows_NK = vectors.search(np.array([[0, 1, 0]], np.float32), k=1)
    >>> rows_NK.tolist()
    [[1]]
    """

    codes_MB: np.ndarray
    scheme: Scheme

    def __len__(self) -> int:
        return len(self.codes_MB)

    @property
    def nbytes(self) -> int:
        """Bytes of all codes."""
        return len(self) * self.scheme.bytes

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first and vectors float32 of one block after the other."""
        for first in range(0, len(self), DECODED):
            yield first, self.scheme.decode(self.codes_MB[first : first + DECODED])

    def search(self, q_ND: np.ndarray, k: int, rescored: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find each query's k best vectors, exactly.

        Args:
            q_ND: the queries' own vectors, float32, unit length for cosines.
            k: how many are wanted; K is less where there are fewer vectors.
            rescored: of binary codes the nearest so many by Hamming distance are ranked again by the inner product of
                query and bits; None is RESCORED times k. Those behind them score 2 less than their bits' cosine.
        Returns: scores [N, K], best first, inner products of the queries with the vectors that the codes stand for, and
            rows [N, K]; equal scores by row.
        """
        if self.scheme.dtype not in BITS:
            return best_documents(q_ND, self.blocks(), k)
        rescored = RESCORED * k if rescored is None else rescored
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
    """Path of the file beside a .npy of codes that holds their scheme."""
    return file.with_name(f"{file.name}.json")


def read_vectors(file: str | Path) -> Vectors:
    """Read the vectors that `embed` wrote, memory-mapped where they are a .npy.

    Args:
        file: a .npy, its codes' scheme beside it in <name>.npy.json, or a .parquet, its scheme in the metadata.
    Raises: UserError where the file holds no vectors, and for codes whose scheme is not there: without it they cannot
        be told apart, let alone read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/corpus.npy", np.eye(3, dtype=np.float32))
    ...     vectors = read_vectors(f"{folder}/corpus.npy")
    >>> len(vectors), vectors.scheme.dtype
    (3, 'float32')
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
    """Read the metadata that `with_metadata` wrote; None where there are none."""
    text = (schema.metadata or {}).get(KEY)
    return None if text is None else json.loads(text)


def with_metadata(schema: pa.Schema, scheme: Scheme) -> pa.Schema:
    """The schema with the scheme of its vectors in the metadata; float32 vectors need none."""
    if scheme.dtype == "float32":
        return schema
    return schema.with_metadata({**(schema.metadata or {}), KEY: json.dumps(scheme.as_dict())})


def content_sum(rows: Iterable, codes_NB: np.ndarray, scheme: Scheme) -> bytes:
    """Checksum of vectors that are kept with what belongs to them, for a parquet file's metadata.

    It is of the content, not of the file's bytes: whatever of a file is altered, what is read differs from it.

    Args:
        rows: what is kept beside each code, plain values.
        codes_NB: the codes.
        scheme: theirs.
    """
    ranges = b"" if scheme.ranges_2D is None else np.float32(scheme.ranges_2D).tobytes()
    content = xxh3_64(scheme.dtype.encode() + ranges)
    for row in rows:
        content.update(json.dumps(row).encode())
    content.update(np.ascontiguousarray(codes_NB))
    return content.hexdigest().encode()
