"""Sizes of one training stage: lengths, batch, groups, steps (Section 3.4)."""

from dataclasses import dataclass
from math import isfinite

from gte.errors import UserError, check_numbers


@dataclass(frozen=True)
class Stage:
    """Sizes of one of the paper's two training stages.

    Args:
        name: pretrain or finetune; the stage reads the prepared sources that name it.
        max_length: tokens of a text, special tokens included; the paper's 128 and 512.
        global_batch: pairs a step over all ranks; the paper's 16,384 and 128.
        steps: optimizer steps, or None where epochs is given.
        epochs: passes over all of the stage's rows, or None where steps is given.
        group_size: one positive and group_size - 1 negatives a query.
        lr_scale: factor on the optimizer's learning rate.
        init_from: run directory, .ckpt or model directory whose weights training starts from, or None.
        batch_tokens: tokens of a chunk through the language model, padding included.
        recompute_fraction: share of the chunks that are recomputed in the backward pass, from 0 to 1.
        recompute_layers: whether a chunk keeps only its layers' inputs and recomputes the layers one by one, the usual
            gradient checkpointing of a language model; it bounds the memory of a chunk, not that of a batch.
    Raises: UserError naming the setting that is out of range.
    Source: Sections 3.2 and 3.4.

    >>> Stage("pretrain", max_length=128, global_batch=16_384, steps=None, epochs=None, group_size=1, lr_scale=1.0,
    ...       init_from=None, batch_tokens=32_768, recompute_fraction=1.0)
    Traceback (most recent call last):
    gte.errors.UserError: give one of stage.steps and stage.epochs, got None and None
    """

    name: str
    max_length: int
    global_batch: int
    steps: int | None
    epochs: float | None
    group_size: int
    lr_scale: float
    init_from: str | None
    batch_tokens: int
    recompute_fraction: float
    recompute_layers: bool = False

    def __post_init__(self):
        check_numbers("stage", self)
        if not (self.lr_scale > 0 and isfinite(self.lr_scale)):
            raise UserError(f"stage.lr_scale={self.lr_scale} must be positive and finite")
        if (self.steps is None) == (self.epochs is None):
            raise UserError(f"give one of stage.steps and stage.epochs, got {self.steps} and {self.epochs}")
        for key in ("max_length", "global_batch", "group_size", "batch_tokens"):
            if getattr(self, key) < 1:
                raise UserError(f"stage.{key} must be at least 1, got {getattr(self, key)}")
        if self.max_length < 3:
            raise UserError(f"stage.max_length={self.max_length} leaves no room beside the special tokens; at least 3")
        if not 0 <= self.recompute_fraction <= 1:
            raise UserError(f"stage.recompute_fraction must lie in [0, 1], got {self.recompute_fraction}")
        if self.batch_tokens < self.max_length:
            raise UserError(
                f"stage.batch_tokens={self.batch_tokens} is less than one text of stage.max_length={self.max_length}"
            )

    def total_steps(self, rows: int) -> int:
        """Count the optimizer steps of the stage, at least one.

        Args:
            rows: training rows of all of the stage's sources.

        >>> stage = Stage("finetune", max_length=512, global_batch=128, steps=None, epochs=1, group_size=16,
        ...               lr_scale=0.1, init_from=None, batch_tokens=32_768, recompute_fraction=0.0)
        >>> stage.total_steps(rows=3_000_000)
        23437
        """
        return self.steps if self.steps is not None else max(1, int(self.epochs * rows / self.global_batch))
