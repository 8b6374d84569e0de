"""Means of weights: of a run's last checkpoints, and of a model and the one that its training began with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gte.encoder import Encoder
from gte.errors import UserError, tell
from gte.models.load import alike, history, load_encoder
from gte.models.saved import LAST, load_good, step_of, steps_newest_first
from gte.provenance import leads_to
from gte.remote import local_copy, place

if TYPE_CHECKING:
    from upath import UPath


def good_encoders(steps: list, count: int, newest: list[dict]) -> Iterator[Encoder]:
    """The encoders of the first `count` good ones of a run's step-*.ckpt; the others are named on stderr.

    Each is loaded once: what says whether it is good is averaged. Raises UserError where fewer are good.
    newest: the stages of the run's newest checkpoint, those of the first good one where it is empty. What another
    branch of the run left, which wrote other steps, is not taken.
    """
    good = 0
    for step in steps:
        try:
            encoder, stages = load_good(step)
        except UserError as error:
            tell(f"note: {step} is not averaged: {error}")
            continue
        newest = newest or stages
        if not leads_to(stages, newest):
            tell(f"note: {step} is not averaged: the run was resumed from an earlier step and has left it behind")
            continue
        yield encoder
        good += 1
        if good == count:
            return
    raise UserError(f"average_last={count}: only {good} step-*.ckpt of the run are good; average fewer")


def stages_of(last: "Path | UPath") -> list[dict]:
    """The stages in a run's last.ckpt; none where it has no such file."""
    if not last.exists():
        return []
    try:
        return history(local_copy(last))
    except UserError as error:
        raise UserError(f"{error}; or name the step-*.ckpt that is the newest to average") from error


def average_last(checkpoint: str | Path, count: int) -> Encoder:
    """The encoder whose weights are the mean of a run's `count` newest step-*.ckpt.

    checkpoint: the run's directory or address, or one of its step-*.ckpt, which is then the newest that counts. Those
    that are not good (`load_good`) are not taken, nor those that a run which was resumed from an earlier step has left
    behind: of later steps than last.ckpt's, or of another training up to there (`leads_to`).
    Raises UserError where `checkpoint` is no run's, or has fewer of them, and where its last.ckpt cannot be read.
    """
    if count < 2:
        raise UserError(f"average_last={count} must be at least 2; null takes the last checkpoint alone")
    there = place(checkpoint)
    folder = next((one for one in (there / "checkpoints", there, there.parent) if steps_newest_first(one)), there)
    steps = steps_newest_first(folder)
    newest = []
    if there.name.startswith("step-"):
        steps = [step for step in steps if step.name <= there.name]
    elif there.suffix == ".ckpt" and there.name != LAST:
        raise UserError(f"average_last={count} takes a run, or a step-*.ckpt of it, not {there.name}")
    else:
        newest = stages_of(folder / LAST)
        steps = [step for step in steps if not newest or step_of(step) <= newest[-1]["steps"]]
    if len(steps) < count:
        raise UserError(
            f"average_last={count}: {checkpoint} keeps {len(steps)} step-*.ckpt; train with checkpoint_every= so that "
            "there are as many, or average fewer"
        )
    encoders = good_encoders(steps, count, newest)
    encoder = next(encoders)
    total = {name: weight.double() for name, weight in encoder.state_dict().items()}
    for other in encoders:
        for name, weight in other.state_dict().items():
            total[name] += weight
    own = encoder.state_dict()
    encoder.load_state_dict({name: (weight / count).to(own[name].dtype) for name, weight in total.items()})
    return encoder


def mix(encoder: Encoder, other: str | Path, share: float) -> None:
    """Set the encoder's weights to (1 - share) of its own and `share` of another model's, such as the one it was
    trained from: what a model unlearns when it learns one domain comes back, most of what it learnt stays.

    Wortsman et al., Robust fine-tuning of zero-shot models (arXiv:2109.01903).

    Args:
        encoder: the model, which is changed.
        other: anything that `load_encoder` takes; the same architecture and tokenizer.
        share: of `other`, between 0 and 1.
    Raises: UserError where it is another model, pools in another way or reads texts by another tokenizer.
    """
    weights = alike(encoder, load_encoder(other), f"mix_with={other}")
    mixed = {
        name: torch.lerp(weight.double(), weights[f"encoder.{name}"].double(), share).to(weight.dtype)
        for name, weight in encoder.state_dict().items()
    }
    encoder.load_state_dict(mixed)
