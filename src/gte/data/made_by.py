"""The code and the libraries that a prepared folder, or a finished step of one, was made by."""

import platform
from collections.abc import Sequence
from importlib.metadata import version

from gte.data.lineage import changed, code, code_of
from gte.data.readers import JOINS, READERS
from gte.data.recipe import Recipe
from gte.data.shards import Manifest
from gte.data.sources import Source

PAIRS_CODE = "gte.data.tasks:source_pairs"
SHARDS_CODE = ("gte.data.tasks:token_shards", "gte.data.tasks:ranges")
TRIPLES_CODE = ("gte.data.steps:mined_triples",)
TOKENIZER_CODE = ("gte.data.tokenizer:train_tokenizer", "gte.data.prepare:training_texts")
LIBRARIES = ("daft", "datasets", "numpy", "pyarrow", "tokenizers", "transformers")


def age(made: Manifest, recipe: Recipe) -> str:
    """Whether a complete folder is what this code and these libraries would make, and what to type."""
    kept = "kept as it is, fit for training; force=true makes it anew"
    if not made.code:
        return f"older than the record of the code that makes one: {kept}"
    new, libraries = recipe_code(recipe), versions()
    others = [name.removeprefix("gte.data.") for name in changed(made.code, new)]
    others += [
        f"{name} {made.versions.get(name)}, now {libraries.get(name)}" for name in changed(made.versions, libraries)
    ]
    if others:
        return f"was made by other code ({', '.join(others)}): {kept}"
    return "up to date: nothing to do (force=true makes it anew)"


def versions() -> dict[str, str]:
    """Name the versions of Python and of the libraries that the bytes of a prepared folder may depend on."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


def maker(entries: Sequence[str]) -> dict:
    """Describe what else a finished step depends on: the code of these functions and the libraries."""
    return {"code": code(*entries), "versions": versions()}


def pairs_code(source: Source) -> list[str]:
    """The functions that make the pairs of a source: those of its format besides those of all."""
    return [PAIRS_CODE, READERS[source.reader], *([JOINS[source.reader]] if source.reader in JOINS else [])]


def recipe_code(recipe: Recipe) -> dict[str, str]:
    """A digest of the code of each module that makes this recipe's folder."""
    entries = [*SHARDS_CODE, *(entry for source in recipe.sources for entry in pairs_code(source))]
    entries += TRIPLES_CODE if recipe.triples else []
    entries += TOKENIZER_CODE if recipe.tokenizer is None else []
    return code_of(entries)
