"""Token shards: Arrow stream files of token ids and the manifest that describes them; rows of them by number, fast.

A shard is one record batch of at most SHARD_ROWS rows in the Arrow stream format, so `datasets.Dataset.from_file` reads
it as well. Columns: query, document: list<uint16 or uint32>, ids without special tokens; negatives: list of such lists,
where the source has hard negatives; query_hash, document_hash: uint64, `records.text_hash` of the texts;
negatives_hash: a list of them.

Beside a shard lies <name>.pages, the checksums of its pages (`gte.data.page_sums`); each page is compared with its own
when a row of it is first read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from gte.data.page_sums import Pages, page_sums
from gte.errors import UserError
from gte.files import write_json

SCHEMA = 1
MANIFEST = "manifest.json"
SHARD_ROWS = 262_144
SHARD_IDS = 2**27  # ids of one column, 262,144 texts of 510; each worker holds a shard in memory


@dataclass
class Manifest:
    """The content of a prepared folder. For every source: read = kept + duplicates + sum of rejected."""

    name: str
    tokenizer: dict
    sources: dict[str, dict]
    created: str = ""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    configuration: dict = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """The manifest of a prepared folder. Raises UserError where there is none, or one of another schema."""
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise UserError(f"{folder} is no prepared folder: it has no {MANIFEST}; make it with python src/prepare.py")
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            schema, stated = facts.get("schema"), facts.pop("checksum", None)
            if schema != SCHEMA:
                raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; prepare the folder again")
            manifest = cls(**facts)
            if stated != checksum(facts):
                raise UserError(
                    f"{path} is not as prepare wrote it: it was edited or cut; prepare again with force=true"
                )
            return manifest
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no manifest of prepare: {error}; prepare the folder again") from error

    def save(self, folder: Path) -> None:
        """Writes manifest.json."""
        facts = json.loads(json.dumps({"schema": SCHEMA, **asdict(self)}))
        write_json(folder / MANIFEST, {**facts, "checksum": checksum(facts)}, indent=1, ascii_only=False)

    def stage(self, name: str) -> dict[str, int]:
        """Rows of each source that names this stage, n_i of Eq. 4."""
        return {source: facts["kept"] for source, facts in self.sources.items() if name in facts["stages"]}

    def chosen(self, folder: str | Path, stage: str, sources: list[str] | None) -> list[str]:
        """The sources that a training takes: those of `sources`, or None for all that state its stage.

        Raises UserError where one is not there, or none is.
        """
        ready = list(self.stage(stage))
        names = ready if sources is None else list(sources)
        for name in names:
            if name not in ready:
                raise UserError(f"{folder} has no source '{name}' for stage {stage}; it has: {', '.join(ready)}")
        if not names:
            raise UserError(f"{folder} has no source for stage {stage}; prepare one that states `stages: [{stage}]`")
        return names

    def verify(self, folder: str | Path) -> None:
        """Reads every shard and compares its SHA-256. Raises UserError naming the first that differs."""
        for facts in self.sources.values():
            for shard in facts["shards"]:
                for file in with_pages(shard):
                    path = checked(Path(folder), file)
                    if sha256(path) != file["sha256"]:
                        raise UserError(
                            f"{path} is not the file that was written: its SHA-256 differs; {self.remake()}"
                        )

    def remake(self) -> str:
        """The command that prepares the folder again, as an error's way out."""
        made = self.command or f"python src/prepare.py data={self.name}"
        return f"prepare again: {made}" + ("" if "force=true" in made else " force=true")

    def without_pages(self) -> bool:
        """Whether shards of before there were checksums of pages are among these."""
        return any("pages" not in shard for facts in self.sources.values() for shard in facts["shards"])


def with_pages(file: dict) -> list[dict]:
    """A file as the manifest records it, and that of its pages' checksums, where it has one."""
    return [file, file["pages"]] if "pages" in file else [file]


def checked(folder: Path, shard: dict) -> Path:
    """A shard's path. Raises UserError where the file is missing or of another size than the one written."""
    path = folder / shard["file"]
    if not path.is_file():
        raise UserError(f"{path} is missing; prepare the folder {folder} again with force=true")
    size = path.stat().st_size
    if size != shard["bytes"]:
        raise UserError(f"{path} has {size:,} bytes, {shard['bytes']:,} were written; prepare again with force=true")
    return path


def checksum(facts: dict | list) -> str:
    """SHA-256 of a manifest's content, or a part of it, however its JSON is laid out."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def described(folder: Path, file: str) -> dict:
    """A file as the manifest records it: its name below the folder, bytes and SHA-256."""
    path = folder / file
    return {"file": file, "bytes": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shards(batches: Iterator[pa.RecordBatch], folder: Path, source: str, part: int = 0) -> list[dict]:
    """Writes `folder/shards/<source>/<part>.arrow`, and <part>-1, -2, ... where one shard cannot hold all of the part.

    Returns what the manifest records of each. Rows keep their order.
    """
    (folder / "shards" / source).mkdir(parents=True, exist_ok=True)
    facts = []
    for number, group in enumerate(shard_groups(batches)):
        name = f"{part:05d}-{number}" if number else f"{part:05d}"
        facts.append(write_shard(pa.concat_batches(group), folder, f"shards/{source}/{name}.arrow"))
    return facts


def write_shard(batch: pa.RecordBatch, folder: Path, file: str) -> dict:
    """Writes one shard and the checksums of its pages; returns its file, rows, bytes and SHA-256, and theirs."""
    path, pages = folder / file, file.removesuffix(".arrow") + ".pages"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    page_sums(path).tofile(folder / pages)
    return {"rows": batch.num_rows, **described(folder, file), "pages": described(folder, pages)}


def shard_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """The batches in groups that each fit one shard: at most SHARD_ROWS rows and SHARD_IDS ids in a column.

    Batches must be far smaller than a shard.
    """
    group: list[pa.RecordBatch] = []
    rows = ids = 0
    for batch in batches:
        size = max(len(views(column)[-1]) for column in batch.columns)
        if group and (rows + batch.num_rows > SHARD_ROWS or ids + size > SHARD_IDS):
            yield group
            group, rows, ids = [], 0, 0
        group.append(batch)
        rows, ids = rows + batch.num_rows, ids + size
    if group:
        yield group


class TokenTable:
    """The rows of one prepared source, by number, from memory-mapped shards.

    Opening checks that every shard is there in its full size; a shard is mapped when a row of it is first asked for.
    Each page of a shard is compared with its checksum before the first row of it is given. Picklable: a worker process
    maps and compares again.

    Args:
        folder: a prepared folder.
        manifest: of the folder.
        source: name of the source.
    Raises: UserError for an unknown source and for a missing, truncated, unreadable or altered shard, naming the file;
        in reading also for rows that no shard of ours can hold.

    >>> import tempfile
    >>> columns = {"query": [[7, 8], [9]], "document": [[5], [6, 6]], "query_hash": [1, 2], "document_hash": [3, 4]}
    >>> batch = pa.record_batch(columns, schema=pa.schema(column_types(np.dtype(np.uint16), negatives=False)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     facts = {"shards": write_shards([batch], Path(folder), "faq"), "negatives": False}
    ...     table = TokenTable(folder, Manifest("mine", {"dtype": "uint16"}, {"faq": facts}), "faq")
    ...     flat, lengths = table.gather("document", np.array([1, 0]))
    >>> len(table), flat.tolist(), lengths.tolist()
    (2, [6, 6, 5], [2, 1])
    """

    def __init__(self, folder: str | Path, manifest: Manifest, source: str):
        if source not in manifest.sources:
            raise UserError(f"{folder} holds no source '{source}'; it holds: {', '.join(manifest.sources)}")
        facts = manifest.sources[source]
        self.name = source
        self.paths = [checked(Path(folder), shard) for shard in facts["shards"]]
        self.sums = [shard.get("pages") for shard in facts["shards"]]
        self.folder, self.remake = Path(folder), manifest.remake()
        self.rows = [shard["rows"] for shard in facts["shards"]]
        self.starts = np.concatenate([[0], np.cumsum(self.rows, dtype=np.int64)])
        self.dtype = np.dtype(manifest.tokenizer["dtype"])
        self.max_tokens = manifest.tokenizer.get("max_tokens", 2**31)
        self.has_negatives = bool(facts["negatives"])
        self._open: dict[int, tuple[dict[str, tuple[np.ndarray, ...]], Pages | None]] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def gather(self, column: str, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the texts of rows.

        Args:
            column: "query" or "document".
            rows_N: int64 [N].
        Returns: (ids end to end, lengths int64 [N]).
        """
        offsets, ids_of = self._lists(column, rows_N)
        lengths_N = offsets[:, 1] - offsets[:, 0]
        return self._copy(column, ids_of, offsets[:, 0], lengths_N), lengths_N

    def gather_negatives(self, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(flat ids, lengths of each negative, counts int64 [N]): hard negatives of the first row, then of the next."""
        if not self.has_negatives:
            return np.empty(0, self.dtype), np.empty(0, np.int64), np.zeros(len(rows_N), np.int64)
        places, shard_of, counts_N = self._negatives(rows_N)
        offsets = np.empty((len(places), 2), np.int64)
        for shard, mine in by_shard(shard_of):
            _, inner, values = self._buffers(shard)["negatives"]
            self._intact(shard, inner, places[mine], 2)
            offsets[mine, 0], offsets[mine, 1] = inner[places[mine]], inner[places[mine] + 1]
            self._check(shard, offsets[mine], len(values), self.max_tokens)
        lengths = offsets[:, 1] - offsets[:, 0]
        return self._copy("negatives", shard_of, offsets[:, 0], lengths), lengths, counts_N

    def most_negatives(self) -> int:
        """The most hard negatives that a row of the first shard has."""
        if not self.has_negatives or not len(self):
            return 0
        edges = self._buffers(0)["negatives"][0]
        self._intact(0, edges, np.zeros(1, np.int64), len(edges))
        return int((edges[1:].astype(np.int64) - edges[:-1]).max())

    def hashes(self, column: str, rows_N: np.ndarray) -> np.ndarray:
        """uint64 [N]: `records.text_hash` of the texts of "query" or "document"."""
        shards = np.searchsorted(self.starts, rows_N, side="right") - 1
        result = np.empty(len(rows_N), np.uint64)
        for shard, mine in by_shard(shards):
            hashes, local = self._buffers(shard)[f"{column}_hash"][0], rows_N[mine] - self.starts[shard]
            self._intact(shard, hashes, local, 1)
            result[mine] = hashes[local]
        return result

    def negative_hashes(self, rows_N: np.ndarray) -> np.ndarray:
        """uint64: `records.text_hash` of the hard negatives, in the order of `gather_negatives`.

        Raises UserError for shards of before there were any.
        """
        if not self.has_negatives:
            return np.empty(0, np.uint64)
        places, shard_of, _ = self._negatives(rows_N)
        result = np.empty(len(places), np.uint64)
        for shard, mine in by_shard(shard_of):
            columns = self._buffers(shard)
            if "negatives_hash" not in columns:
                raise UserError(f"{self.paths[shard]} holds no hashes of its negatives; prepare again with force=true")
            self._intact(shard, columns["negatives_hash"][-1], places[mine], 1)
            result[mine] = columns["negatives_hash"][-1][places[mine]]
        return result

    def _negatives(self, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The position of each of the rows' hard negatives within its shard, its shard, and how many each row has."""
        outer, shards = self._lists("negatives", rows_N)
        counts_N = outer[:, 1] - outer[:, 0]
        return spans(outer[:, 0], counts_N), np.repeat(shards, counts_N), counts_N

    def _lists(self, column: str, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Begin and end of each row's list within its shard, int64 [N, 2], and the shard of each row."""
        rows_N = np.asarray(rows_N, dtype=np.int64)
        if len(rows_N) and (rows_N.min() < 0 or rows_N.max() >= len(self)):
            raise IndexError(f"rows {rows_N.min()} to {rows_N.max()} asked for, the table has {len(self)}")
        shards = np.searchsorted(self.starts, rows_N, side="right") - 1
        offsets = np.empty((len(rows_N), 2), np.int64)
        for shard, mine in by_shard(shards):
            edges, inner, *values = self._buffers(shard)[column]
            local = rows_N[mine] - self.starts[shard]
            self._intact(shard, edges, local, 2)
            offsets[mine, 0], offsets[mine, 1] = edges[local], edges[local + 1]
            self._check(shard, offsets[mine], len(inner) - bool(values), len(inner) if values else self.max_tokens)
        return offsets, shards

    def _check(self, shard: int, offsets: np.ndarray, held: int, longest: int) -> None:
        """Raises UserError where begins and ends [n, 2] are not those of lists among `held` values."""
        begins, ends = offsets[:, 0], offsets[:, 1]
        if len(offsets) and not (
            begins.min() >= 0 and ends.max() <= held and 0 <= (ends - begins).min() <= (ends - begins).max() <= longest
        ):
            raise UserError(f"{self.paths[shard]} is damaged: its lists make no sense; prepare again with force=true")

    def _copy(self, column: str, shards: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The ids at [start, start + length) of the shards' values, end to end."""
        parts = by_shard(shards)
        for shard, mine in parts:
            self._intact(shard, self._values(shard, column), starts[mine], lengths[mine])
        if len(parts) == 1:
            return self._values(parts[0][0], column)[spans(starts, lengths)]
        flat = np.empty(int(lengths.sum()), self.dtype)
        targets = lengths.cumsum() - lengths
        for shard, mine in parts:
            ids = self._values(shard, column)[spans(starts[mine], lengths[mine])]
            flat[spans(targets[mine], lengths[mine])] = ids
        return flat

    def _values(self, shard: int, column: str) -> np.ndarray:
        """All ids of a column of a shard, end to end."""
        return self._buffers(shard)[column][-1]

    def _intact(self, shard: int, array: np.ndarray, begins: np.ndarray, lengths: np.ndarray | int) -> None:
        """Raises UserError where the places [begin, begin + length) of a shard's array are not as they were written."""
        pages = self._open[shard][1]
        if pages is not None:
            pages.check(array, begins, lengths)

    def _buffers(self, shard: int) -> dict[str, tuple[np.ndarray, ...]]:
        """numpy views of a shard's columns: the offsets of each level of lists, then the values."""
        if shard not in self._open:
            path, sums = self.paths[shard], self.sums[shard]
            content = pa.memory_map(str(path)).read_buffer()
            pages = None
            if sums is not None:
                pages = Pages(content, checked(self.folder, sums), sums["sha256"], path, self.remake)
            try:
                batch = pa.ipc.open_stream(content).read_next_batch()
                batch.validate()
                types = dict(zip(batch.schema.names, batch.schema.types, strict=True))
                columns = {name: views(batch.column(name)) for name in types}
            except (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError, KeyError) as error:
                raise UserError(f"{path} is no whole Arrow shard ({error}); prepare again with force=true") from error
            if batch.num_rows != self.rows[shard] or any(
                types.get(name, kind if name == "negatives_hash" else None) != kind
                for name, kind in column_types(self.dtype, self.has_negatives).items()
            ):
                raise UserError(f"{path} does not hold what {MANIFEST} states; prepare again with force=true")
            if pages is not None:
                pages.check_head(batch)
            self._open[shard] = columns, pages
        return self._open[shard][0]


def column_types(dtype: np.dtype, negatives: bool) -> dict[str, pa.DataType]:
    """The columns of a shard."""
    text, number = pa.list_(pa.from_numpy_dtype(dtype)), pa.uint64()
    types = {"query": text, "document": text, "query_hash": number, "document_hash": number}
    return types | ({"negatives": pa.list_(text), "negatives_hash": pa.list_(number)} if negatives else {})


def views(column: pa.Array) -> tuple[np.ndarray, ...]:
    """The offsets of each level of lists, then the values, without a copy; they keep the mapped file open."""
    levels = []
    while pa.types.is_list(column.type):
        levels.append(column.offsets.to_numpy())
        column = column.values
    return *levels, column.to_numpy()


def by_shard(shards: np.ndarray) -> list[tuple[int, np.ndarray | slice]]:
    """(shard, places in `shards` where it stands), for each shard that occurs."""
    if len(shards) and (shards == shards[0]).all():
        return [(int(shards[0]), slice(None))]
    order = np.argsort(shards, kind="stable")
    present, first = np.unique(shards[order], return_index=True)
    return list(zip(present.tolist(), np.split(order, first[1:]), strict=False))


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The positions start, start + 1, ... of every span, end to end: int64 [sum of lengths]."""
    ends = lengths.cumsum()
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
