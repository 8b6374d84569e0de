"""What a setting may hold, said in one line where it holds something else: a wrong value is no bug, nor another run."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gte.errors import UserError


class Kind(NamedTuple):
    """Which values fit, and how that is said: `must be <said>`."""

    fits: Callable[[object], bool]
    said: str

    def or_one_of(self, *others: str | None) -> "Kind":
        """This kind, or one of a few words besides."""
        said = " or ".join("null" if other is None else other for other in others)
        return Kind(
            lambda value: self.fits(value) or (isinstance(value, str | None) and value in others),
            f"{self.said}, or {said}",
        )


def whole(least: int | None = None) -> Kind:
    """Whole numbers, from `least` on; true and false are none."""

    def fits(value) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)

    return Kind(fits, "a whole number" if least is None else f"at least {least} and whole")


def finite(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def above_zero(value) -> bool:
    return finite(value) and value > 0


TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(
    lambda value: isinstance(value, str | int), "a single name or path"
)  # Hydra reads a folder 2020 as a number
NAMED = Kind(lambda value: isinstance(value, dict), "given by name, {name: ...}")

# of conf/train.yaml and its groups, where a constructor does not look at it first
TRAIN = {
    "seed": whole(),
    "sources": Kind(lambda value: isinstance(value, list | str | None), "a list, [a,b], or the name of one"),
    "source_sets": NAMED,
    "verify": TRUTH,
    "mask_repeated_texts": TRUTH,
    "workers": whole(0),
    "resume": Kind(lambda value: isinstance(value, str | None), "auto, the path of a .ckpt, or null"),
    "checkpoint_every": whole(1),
    "checkpoint_dir": Kind(lambda value: isinstance(value, str | None), "a directory, an address, or null"),
    "max_skipped": whole(1),
    "keep_last": whole(1).or_one_of(None),
    "keep_every": whole(1).or_one_of(None),
    "keep_initial": TRUTH,
    "evaluate_every": whole(1).or_one_of("end", None),
    "evaluate": NAMED,
    "keep_best": Kind(lambda value: isinstance(value, str | None), "eval/mean, eval/<task>, or null"),
    "early_stop": whole(1).or_one_of(None),
    "data.dir": TEXT,
    "data.alpha": Kind(finite, "a finite number"),
    "data.weights": Kind(lambda value: isinstance(value, dict | None), "numbers by name, {source: 1.0}, or null"),
    "data.prompts": Kind(lambda value: isinstance(value, dict | None), "words by kind, {query: 'query: '}, or null"),
    "stage.steps": whole(1).or_one_of(None),
    "stage.epochs": Kind(lambda value: value is None or above_zero(value), "above 0, or null"),
    "stage.init_from": TEXT.or_one_of(None),
    "stage.recompute_layers": TRUTH,
    "loss.temperature": Kind(above_zero, "above 0; the paper's is 0.01"),
    "loss.chunk_rows": whole(1).or_one_of(None),
    "loss.tf32": TRUTH,
    "model.max_length": whole(3).or_one_of(None),
    "model.hidden_size": whole(1),
    "model.num_hidden_layers": whole(1),
    "model.num_attention_heads": whole(1),
    "model.intermediate_size": whole(1).or_one_of(None),
    "model.dropout": Kind(lambda value: finite(value) and 0 <= value < 1, "from 0 to less than 1"),
    "model.pooling": Kind(lambda value: isinstance(value, str | None), "mean, cls or last, or null"),
    "model.compile": TRUTH,
    "model.padding_free": Kind(lambda value: isinstance(value, bool | None), "true, false or null"),
}


def check_values(settings: Mapping, kinds: Mapping[str, Kind]) -> None:
    """Raises UserError for the first of the settings, nested dicts, that is there and not of its kind."""
    for key, kind in kinds.items():
        node = settings
        *parents, name = key.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping) and name in node and not kind.fits(node[name]):
            value = "null" if node[name] is None else node[name]
            raise UserError(f"{key}={value} must be {kind.said}")
