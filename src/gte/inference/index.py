"""An index of passages: their embeddings in one file, kept up to date, searched exactly.

Shapes: M passages, D width, B bytes of a code.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gte.errors import UserError
from gte.files import stamp, whole
from gte.inference.compact import (
    Scheme,
    Vectors,
    as_lists,
    checked_scheme,
    content_sum,
    list_column,
    metadata_of,
    scheme_for,
    with_metadata,
)
from gte.inference.embedder import Embedder
from gte.inference.passages import Passage
from gte.locks import locked

CUT = 8  # ranges serve until more than one text in so many is cut to them


@dataclass(frozen=True)
class Index:
    """Passages with their unit vectors, or the codes that are kept of them.

    Args:
        passages: M passages.
        vectors: of the passages, in their order.
        new: how many texts were embedded that the index did not hold.
        beyond: of these, how many reach beyond the ranges of the codes and are cut to them.
        redrawn: whether the other texts were embedded again, as the ranges had become too narrow.
    """

    passages: Sequence[Passage]
    vectors: Vectors
    new: int
    beyond: int = 0
    redrawn: bool = False

    @property
    def d_MD(self) -> np.ndarray:
        """The vectors float32 [M, D], as exactly as they are kept."""
        return self.vectors.scheme.decode(self.vectors.codes_MB)

    def search(self, query: str, embedder: Embedder, top: int) -> list[tuple[float, Passage]]:
        """Find the passages of highest cosine with a query.

        Args:
            query: a text.
            embedder: of the model that the index was made with, with the words before queries.
            top: how many are wanted.
        Returns: (cosine, passage), best first; earlier ones first among equals.
        """
        q_1D = embedder([query], lambda _: f"the query {query[:40]!r}")
        scores, rows = (found[0].tolist() for found in self.vectors.search(q_1D, top))
        return [(score, self.passages[row]) for score, row in zip(scores, rows, strict=True)]


def index_file(place: Path, folder: Path) -> Path:
    """Path of the index of a folder, below `place`."""
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
    return place / f"{folder.resolve().name}-{digest}.parquet"


def update(file: Path, passages: list[Passage], embedder: Embedder, dtype: str = "float32") -> Index:
    """Make or renew the index of passages; vectors in `file` of equal texts by an equal model are kept.

    Args:
        file: the index, a parquet file.
        passages: all of them.
        embedder: the model and its settings, with the words before documents.
        dtype: of `gte.inference.compact`. The ranges of codes are those of the first passages, and later ones are cut
            to them until these are an eighth of all: then all are embedded again, for ranges of all.
    Returns: the index.
    Raises: UserError for a file that is no index, for one of codes whose scheme is gone, and where another
        process is at the same file.

    >>> import tempfile
    >>> from gte.data.tokenizer import train_tokenizer
    >>> from gte.encoder import Encoder
    >>> tokenizer = train_tokenizer(["red fox", "blue car"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> passages = [Passage("a.txt", 1, "a red fox"), Passage("a.txt", 3, "a blue car")]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = update(Path(folder) / "index.parquet", passages, Embedder(model))
    ...     again = update(Path(folder) / "index.parquet", passages, Embedder(model))
    >>> index.new, again.new
    (2, 0)
    >>> index.search("a red fox", Embedder(model), top=1)[0][1].line
    1
    """
    found, seen = None, stamp(file)
    if seen is not None:
        found = load(file, embedder.identity, dtype)
        kept, known, scheme, _ = found
        if passages == kept:  # nothing is written: a folder that is read-only or busy will do
            return Index(passages, Vectors(np.stack([known[passage.text] for passage in passages]), scheme), 0)
    with locked(file, "updating", "out="):
        if found is None or stamp(file) != seen:  # another process has written it meanwhile
            found = load(file, embedder.identity, dtype)
        return update_alone(file, found, passages, embedder, dtype)


def update_alone(file: Path, found: tuple, passages: list[Passage], embedder: Embedder, dtype: str) -> Index:
    """Embed what `found`, as `load` gives it, does not hold, and save the index where it has changed."""
    kept, known, scheme, cut = found
    first_file = {passage.text: passage for passage in reversed(passages)}

    def embed(texts: list[str]) -> np.ndarray:
        return embedder(texts, lambda i: "{0.file}:{0.line}".format(first_file[texts[i]]))

    texts = list(dict.fromkeys(passage.text for passage in passages))
    new = [text for text in texts if text not in known]
    x_ND = embed(new)
    beyond = scheme.beyond(x_ND) if scheme else 0
    redrawn = bool(new) and too_narrow(scheme, len(known), cut + beyond, len(texts))
    fresh = new
    if redrawn:
        old = [text for text in texts if text in known]
        fresh, x_ND = new + old, np.concatenate([x_ND, embed(old)]) if old else x_ND
        scheme, cut, beyond = None, 0, 0
    scheme = scheme or scheme_for(dtype, x_ND.min(0), x_ND.max(0))
    known |= dict(zip(fresh, scheme.encode(x_ND), strict=True))
    vectors = Vectors(np.stack([known[passage.text] for passage in passages]), scheme)
    if passages != kept:
        save(file, passages, vectors, embedder.identity, cut + beyond)
    return Index(passages, vectors, len(new), beyond, redrawn)


def too_narrow(scheme: Scheme | None, known: int, cut: int, texts: int) -> bool:
    """Whether ranges are to be drawn anew: they are one text's, or too many texts have been cut to them.

    Of random unit vectors in 384 dimensions the ranges of the first 100 keep 95 % of the five nearest of 200, those of
    all 99 %. Nearly every vector reaches beyond the ranges of 100 others, one in two beyond those of 1,000, one in 14
    beyond those of 10,000: a small index is embedded again as it grows, a large one is not.
    """
    return scheme is not None and scheme.ranges_2D is not None and (known < 2 or CUT * cut > texts)


def load(file: Path, identity: str, dtype: str) -> tuple[list[Passage], dict[str, np.ndarray], Scheme | None, int]:
    """The passages of a kept index, the code of each text, the codes' scheme, and how many were cut to its ranges.

    None of them where it is another model's, of another dtype, or not there; nor of an index of an earlier version
    whose ranges may be those of its first passage. Raises UserError for a file that is no index, or one of codes whose
    scheme is gone.
    """
    nothing = [], {}, None, 0
    if not file.exists():
        return nothing
    try:
        table = pq.read_table(file)
        if (table.schema.metadata or {}).get(b"identity") != identity.encode():
            return nothing
        cut = table.schema.metadata.get(b"cut")
        cut = None if cut is None else int(cut)
        columns = [table[name].to_pylist() for name in Passage._fields]
        passages = [Passage(*row) for row in zip(*columns, strict=True)]
        codes_MB = list_column(table)
        scheme = checked_scheme(metadata_of(table.schema), codes_MB, file, file)
    except UserError:
        raise
    except (OSError, pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no index, or a damaged one; remove it, and it is made anew") from error
    stated = table.schema.metadata.get(b"content")  # which an index of an earlier version does not have
    if stated is not None and stated != content_sum(passages, codes_MB, scheme):
        raise UserError(f"{file} is damaged: it is not as it was written; remove it, and it is made anew")
    if scheme.dtype != dtype or (cut is None and scheme.ranges_2D is not None):
        return nothing
    return passages, dict(zip(columns[2], codes_MB, strict=True)), scheme, cut or 0


def save(file: Path, passages: list[Passage], vectors: Vectors, identity: str, cut: int) -> None:
    """A parquet file (file, line, text, embedding) that is complete or not there."""
    columns = dict(zip(Passage._fields, map(list, zip(*passages, strict=True)), strict=True))
    columns["embedding"] = as_lists(vectors.codes_MB)
    content = content_sum(passages, vectors.codes_MB, vectors.scheme)
    table = pa.table(columns).replace_schema_metadata({"identity": identity, "content": content, "cut": str(cut)})
    with whole(file) as partial:
        pq.write_table(table.cast(with_metadata(table.schema, vectors.scheme)), partial)


def as_table(hits: list[tuple[float, Passage]], width: int) -> str:
    """Rank, score, position and beginning of each passage, a line each, cut to the width of the terminal."""
    places = [f"{passage.file}:{passage.line}" for _, passage in hits]
    room = max(map(len, [*places, "where"]))
    lines = [f"rank  score  {'where':<{room}}  passage"]
    for rank, ((score, passage), place) in enumerate(zip(hits, places, strict=True), 1):
        lines.append(f"{rank:>4}  {score:5.3f}  {place:<{room}}  {' '.join(passage.text.split())}")
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)
