"""Whether a model's weights are of use: finite, and with a finite vector for a text."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from gte.data.tokenizer import plain_reader
from gte.encoder import Encoder
from gte.modes import evaluating

TEXT = "The quick brown fox jumps over the lazy dog."


def of_use(x_ND: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Mark vectors [N, D] that have a direction, bool [N]; where a text is blank, a vector of 0 is one too.

    Numbers so large that their squares leave float32 become 0 where the vector is normalised.
    """
    zero_N = ~x_ND.any(axis=1) & np.fromiter((bool(text.strip()) for text in texts), bool, len(texts))
    return np.isfinite(x_ND).all(axis=1) & ~zero_N


def first_of_no_use(x_ND: np.ndarray, texts: Sequence[str]) -> tuple[int, str, int] | None:
    """The first vector that is not `of_use`: (its row, "0" or "not finite", how many there are); None where all are."""
    fine_N = of_use(x_ND, texts)
    if fine_N.all():
        return None
    first = int(np.argmin(fine_N))
    return first, "0" if np.isfinite(x_ND[first]).all() else "not finite", int((~fine_N).sum())


@torch.no_grad()
def broken(encoder: Encoder) -> str | None:
    """Say in a few words why an encoder's weights are of no use.

    Weights that a step of far too high a rate has changed may be finite and have no finite vector of any text: so a
    text goes through the model, without dropout, in the type of its weights.

    Returns: None where all weights are finite and the text's vector has a direction.
    """
    weights = dict(encoder.named_parameters())
    finite = torch.stack([weight.isfinite().all() for weight in weights.values()]).tolist()  # waits once, not each time
    if not all(finite):
        return f"{next(name for name, fine in zip(weights, finite, strict=True) if not fine)} is not finite"
    reader = encoder.tokenizer
    if reader.is_fast:  # a copy: what a checkpoint keeps of the tokenizer must not change by being called
        ids = plain_reader(reader).encode(TEXT).ids[: encoder.max_length]
    else:
        ids = reader(TEXT)["input_ids"][: encoder.max_length]
    lengths_N = torch.tensor([len(ids)])
    compiled = torch.compiler.set_stance("force_eager") if encoder.compiled else nullcontext()
    with evaluating(encoder), compiled:
        x_ND = encoder(torch.tensor(ids, dtype=torch.int32), lengths_N, encoder.plan(lengths_N.numpy(), len(ids)))
    length = float(F.normalize(x_ND.float(), dim=1).norm())  # of huge numbers it is 0
    return None if abs(length - 1) < 0.01 else "a text's vector is not finite"
