"""An index of passages: their embeddings in one file, kept up to date, searched exactly.

Shapes: M passages, D width.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gte.embedding import Embedder
from gte.errors import UserError
from gte.passages import Passage


@dataclass(frozen=True)
class Index:
    """Passages with their unit vectors d_MD; `new` of them were embedded just now."""

    passages: Sequence[Passage]
    d_MD: np.ndarray
    new: int

    def search(self, query: str, embedder: Embedder, top: int) -> list[tuple[float, Passage]]:
        """The `top` passages of highest cosine, best first; earlier ones first among equals."""
        scores_M = self.d_MD @ embedder([query], lambda _: f"the query {query[:40]!r}")[0]
        return [(float(scores_M[i]), self.passages[i]) for i in np.argsort(-scores_M, kind="stable")[:top]]


def index_file(place: Path, folder: Path) -> Path:
    """Where the index of a folder is kept."""
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
    return place / f"{folder.resolve().name}-{digest}.parquet"


def update(file: Path, passages: list[Passage], embedder: Embedder) -> Index:
    """The index of these passages. Vectors that `file` has for equal texts by an equal model are taken from there."""
    kept, known = load(file, embedder.identity)
    new = list(dict.fromkeys(passage.text for passage in passages if passage.text not in known))
    first_file = {passage.text: passage for passage in reversed(passages)}
    fresh_ND = embedder(new, lambda i: "{0.file}:{0.line}".format(first_file[new[i]]))
    known |= dict(zip(new, fresh_ND, strict=True))
    d_MD = np.stack([known[passage.text] for passage in passages])
    if passages != kept:
        save(file, passages, d_MD, embedder.identity)
    return Index(passages, d_MD, len(new))


def load(file: Path, identity: str) -> tuple[list[Passage], dict[str, np.ndarray]]:
    """The passages of a kept index and the vector of each text; none where it is another model's or not there.

    Raises UserError for a file that is no index.
    """
    if not file.exists():
        return [], {}
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} is no index, or a damaged one; remove it, and it is made anew") from error
    if (table.schema.metadata or {}).get(b"identity") != identity.encode():
        return [], {}
    columns = [table[name].to_pylist() for name in Passage._fields]
    passages = [Passage(*row) for row in zip(*columns, strict=True)]
    d_MD = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(passages), -1)
    return passages, dict(zip(columns[2], d_MD, strict=True))


def save(file: Path, passages: list[Passage], d_MD: np.ndarray, identity: str) -> None:
    """A parquet file (file, line, text, embedding) that is complete or not there."""
    columns = dict(zip(Passage._fields, map(list, zip(*passages, strict=True)), strict=True))
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(d_MD.ravel()), d_MD.shape[1])
    temporary = file.with_suffix(".partial")
    pq.write_table(pa.table(columns).replace_schema_metadata({"identity": identity}), temporary)
    os.replace(temporary, file)


def as_table(hits: list[tuple[float, Passage]], width: int) -> str:
    """Rank, score, place and beginning of each passage, a line each, cut to the width of the terminal."""
    places = [f"{passage.file}:{passage.line}" for _, passage in hits]
    room = max(map(len, [*places, "where"]))
    lines = [f"rank  score  {'where':<{room}}  passage"]
    for rank, ((score, passage), place) in enumerate(zip(hits, places, strict=True), 1):
        lines.append(f"{rank:>4}  {score:5.3f}  {place:<{room}}  {' '.join(passage.text.split())}")
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)
