"""The files of a demo corpus, and a docstring with all sections that pairs are made of."""

import gzip
import json
from pathlib import Path

NUMPYDOC = '''
Scale the input to unit length.

The norm is taken along *one* axis, see :func:`~alpha.tools.norm` and ``alpha``.
Nothing happens in place [1]_.

Parameters
----------
x : array_like
    The values that are to be scaled, of any shape.
axis, eps : int, optional
    Where to take the norm, and what is added to it.

Returns
-------
scaled : ndarray
    The input divided by its norm along the axis.

See Also
--------
norm : Length of the input along one axis.
:func:`shift`

Notes
-----
A vector of zeros stays one, whatever is added to its norm.

.. versionchanged:: 1.2
    Integer input is converted to floats before it is scaled.

Examples
--------
The rows of a matrix have unit length afterwards:

>>> scale([[3, 4], [6, 8]],
...       axis=1)
array([[0.6, 0.8], [0.6, 0.8]])
'''  # fmt: skip


def read(path: Path) -> list:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def pairs(out: Path, kind: str) -> list[tuple[str, str]]:
    return [(row["query"], row["pos"]) for row in read(out / kind / f"{kind}.jsonl.gz")]
