"""A prepared source's pairs, pairs/<source>.parquet, read back: nothing altered is taken."""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from gte.data.page_sums import PAGE, check_stretch
from gte.errors import UserError

FOOTER_END = 8  # bytes: the length of a parquet footer, and its mark
REMAKE = "delete it and prepare again: only it is made anew"


def open_pairs(path: Path, groups: list[int] | None = None) -> pq.ParquetFile:
    """A pairs file whose footer and row groups, all by default, were compared with their checksums.

    Those in a file's own pages, which are compared as they are read, cover neither the footer nor the pages' heads.
    Raises UserError where it is damaged.
    """
    sums, size = path.with_suffix(".pages"), path.stat().st_size
    if not sums.is_file():  # of a folder of before there were any
        return open_file(path)
    pages = sums.stat().st_size // 8
    if pages != -(-size // PAGE) or size < FOOTER_END:  # cut between two pages, each that is left is intact
        raise UserError(f"{path} is damaged: {pages:,} pages of 4 KiB were written, it has {size:,} bytes; {REMAKE}")
    check_stretch(path, sums, size - FOOTER_END, size, REMAKE)
    with open(path, "rb") as stream:
        stream.seek(size - FOOTER_END)
        length = int.from_bytes(stream.read(4), "little")
    check_stretch(path, sums, size - FOOTER_END - length, size, REMAKE)
    file = open_file(path)
    for number in range(file.num_row_groups) if groups is None else groups:
        group = file.metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            begin = column.dictionary_page_offset or column.data_page_offset
            check_stretch(path, sums, begin, begin + column.total_compressed_size, REMAKE)
    return file


def open_file(path: Path) -> pq.ParquetFile:
    """A pairs file, unread. Raises UserError where it is no parquet file."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise_unless_damaged(path, error)


def raise_unless_damaged(path: Path, error: Exception) -> NoReturn:
    """Raises what the system says of a file, of rights or of too many open ones, as it is; all else is damage."""
    if getattr(error, "errno", None):
        raise error
    raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a pairs file that Arrow refuses."""
    return UserError(f"{path} is damaged ({str(error).splitlines()[0]}); {REMAKE}")


def leading_groups(path: Path, rows: int) -> list[int]:
    """The first row groups of a pairs file that hold so many rows, or all of them."""
    metadata, groups, held = open_pairs(path, []).metadata, [], 0
    while held < rows and len(groups) < metadata.num_row_groups:
        held += metadata.row_group(len(groups)).num_rows
        groups.append(len(groups))
    return groups


def pair_batches(
    path: Path, rows: int, groups: list[int] | None = None, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a pairs file, so many at a time. Raises UserError where it is damaged."""
    try:
        yield from open_pairs(path, groups).iter_batches(rows, row_groups=groups, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise_unless_damaged(path, error)
