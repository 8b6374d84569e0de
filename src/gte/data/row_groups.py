"""Parquet files joined to one by copying their row groups' bytes; only the footer is rewritten.

A file's pages know nothing of where they stand; its footer, a Thrift struct in the compact protocol, does. Source: the
Apache Parquet format's specification, "File format" and parquet.thrift, and Thrift's, "Thrift compact protocol".
"""

import os
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"PAR1"
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
ROWS, ROW_GROUPS = 3, 4  # fields of FileMetaData
COLUMNS, FILE_OFFSET, ORDINAL = 1, 5, 7  # of RowGroup
CHUNK_OFFSET, CHUNK_FACTS = 2, 3  # of ColumnChunk
OFFSETS = (9, 10, 11)  # of ColumnMetaData: of its data, index and dictionary pages
MOST_ORDINALS = 2**15  # a row group's number has 16 bits; it is optional
COPY_BYTES = 2**22

Struct = dict[int, tuple[int, Any]]  # field number: (type, value)


def join_files(parts: list[Path], target: Path) -> int:
    """Write the row groups of parquet files of one schema to one file, in order, and remove the parts.

    Args:
        parts: files as pyarrow writes them, without page indexes, bloom filters and encryption; one at least.
        target: the file to write, equal in every byte to what one writer of these row groups would write.
    Returns: its rows.
    """
    footer: Struct = {}
    with target.open("wb") as out:
        out.write(MAGIC)
        for part in parts:
            with part.open("rb") as stream:
                found, length = read_footer(stream)
                shift = out.tell() - len(MAGIC)
                footer = footer or {**found, ROWS: (I64, 0), ROW_GROUPS: (LIST, (STRUCT, []))}
                groups = footer[ROW_GROUPS][1][1]
                for group in found[ROW_GROUPS][1][1]:
                    groups.append(moved(group, shift, len(groups)))
                footer[ROWS] = (I64, footer[ROWS][1] + found[ROWS][1])
                stream.seek(len(MAGIC))
                left = length - len(MAGIC)
                while left:
                    chunk = stream.read(min(COPY_BYTES, left))
                    if not chunk:
                        raise EOFError(f"{part} ends within its row groups")
                    out.write(chunk)
                    left -= len(chunk)
            part.unlink()
        packed = bytearray()
        put_struct(packed, footer)
        out.write(packed + len(packed).to_bytes(4, "little") + MAGIC)
    return footer[ROWS][1]


def read_footer(stream: BinaryIO) -> tuple[Struct, int]:
    """Read the footer of a parquet file, and the byte at which it begins."""
    end = stream.seek(-8, os.SEEK_END)
    size = int.from_bytes(stream.read(4), "little")
    begin = stream.seek(end - size)
    return Reader(stream.read(size)).struct(), begin


def moved(group: Struct, shift: int, number: int) -> Struct:
    """Move a row group by so many bytes, as the file's row group of that number."""
    chunks = []
    for chunk in group[COLUMNS][1][1]:
        kind, facts = chunk[CHUNK_FACTS]
        facts = shifted(facts, OFFSETS, shift)
        chunks.append({**shifted(chunk, (CHUNK_OFFSET,), shift), CHUNK_FACTS: (kind, facts)})
    group = {**shifted(group, (FILE_OFFSET,), shift), COLUMNS: (LIST, (STRUCT, chunks))}
    if ORDINAL in group:
        group[ORDINAL] = (I16, number)
    if number >= MOST_ORDINALS:
        group.pop(ORDINAL, None)
    return group


def shifted(struct: Struct, fields: tuple[int, ...], shift: int) -> Struct:
    """Add a number of bytes to those fields of a struct that are offsets; 0 says that there is none."""
    moved = {field: (struct[field][0], struct[field][1] + shift) for field in fields if struct.get(field, (0, 0))[1]}
    return {**struct, **moved}


class Reader:
    """Thrift's compact protocol, read from the front."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def take(self, size: int) -> bytes:
        self.place += size
        return self.data[self.place - size : self.place]

    def varint(self) -> int:
        value, bits = 0, 0
        while True:
            byte = self.data[self.place]
            self.place += 1
            value |= (byte & 127) << bits
            bits += 7
            if byte < 128:
                return value

    def number(self) -> int:
        zigzag = self.varint()
        return (zigzag >> 1) ^ -(zigzag & 1)

    def struct(self) -> Struct:
        fields: Struct = {}
        field = 0
        while head := self.take(1)[0]:
            kind, step = head & 15, head >> 4
            field = field + step if step else self.number()
            fields[field] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self.value(kind))
        return fields

    def value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self.number()
        if kind == BINARY:
            return self.take(self.varint())
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            head = self.take(1)[0]
            size = head >> 4 if head >> 4 < 15 else self.varint()
            return head & 15, [self.value(head & 15) for _ in range(size)]
        if kind in (TRUE, FALSE, BYTE):  # in a list each takes a byte
            return self.take(1)[0]
        if kind == DOUBLE:
            return self.take(8)
        raise ValueError(f"a parquet footer with a value of Thrift's type {kind}")


def put_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def put_number(out: bytearray, value: int) -> None:
    put_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)


def put_struct(out: bytearray, fields: Struct) -> None:
    before = 0
    for field in sorted(fields):
        kind, value = fields[field]
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        step = field - before
        if 0 < step < 16:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            put_number(out, field)
        before = field
        if kind not in (TRUE, FALSE):
            put_value(out, kind, value)
    out.append(0)


def put_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        put_number(out, value)
    elif kind == BINARY:
        put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        put_struct(out, value)
    elif kind in (LIST, SET):
        of, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | of)
        else:
            out.append(240 | of)
            put_varint(out, len(values))
        for one in values:
            put_value(out, of, one)
    elif kind == DOUBLE:
        out += value
    else:
        out.append(value)
