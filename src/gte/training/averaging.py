"""Averages of weights: over the steps of a training (EMA), and over its last checkpoints."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from gte.data.collate import Batch
from gte.encoder import Encoder
from gte.errors import UserError
from gte.models.load import load_encoder
from gte.remote import place
from gte.training.checkpoint import LAST, steps_newest_first

EMA_FILE = "ema.ckpt"


class Ema(Callback):
    """An exponential moving average of the encoder's weights, in float32, written to ema.ckpt at the end.

    After step t it is d·average + (1 - d)·weights with d = min(decay, (1 + t) / (10 + t)), so that the first weights
    are soon forgotten. It is part of every checkpoint; a resumed run has the average that it would have.

    Args:
        folder: where ema.ckpt goes, a directory or an address.
        decay: d, between 0 and 1; 0.999 averages over some thousand steps.
    """

    def __init__(self, folder, decay: float):
        if not 0 < decay < 1:
            raise UserError(f"ema_decay={decay} must lie between 0 and 1, 0.999 for instance; null keeps no average")
        self.folder, self.decay = folder, decay
        self.average: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise UserError(
                "ema_decay needs the whole weights on every rank; use trainer=ddp, or export average_last=5"
            )

    @torch.no_grad()
    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        weights = dict(task.encoder.named_parameters())
        self.average = {
            name: self.average.get(name, weight).detach().float().to(weight.device, copy=True)
            for name, weight in weights.items()
        }

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs, batch: Batch, index) -> None:
        step = batch.step + 1
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [weight.float() for _, weight in task.encoder.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    @torch.no_grad()
    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.swap(task)
        task.history[-1]["averaged"] = f"moving average over the steps, decay {self.decay}"
        try:
            trainer.save_checkpoint(self.folder / EMA_FILE, weights_only=True)
            trainer.strategy.checkpoint_io.finish()
        finally:
            del task.history[-1]["averaged"]
            self.swap(task)

    def swap(self, task: pl.LightningModule) -> None:
        """Exchange the weights and their average."""
        for name, weight in task.encoder.named_parameters():
            kept = weight.detach().clone()
            weight.copy_(self.average[name])
            self.average[name] = kept

    def state_dict(self) -> dict:
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict) -> None:
        self.average = state_dict["average"]


def average_last(checkpoint: str | Path, count: int) -> Encoder:
    """The encoder whose weights are the mean of a run's `count` newest step-*.ckpt.

    checkpoint: the run's directory or address, or one of its step-*.ckpt, which is then the newest that counts.
    Raises UserError where `checkpoint` is no run's, or has fewer of them.
    """
    if count < 2:
        raise UserError(f"average_last={count} must be at least 2; null takes the last checkpoint alone")
    there = place(checkpoint)
    folder = next((one for one in (there / "checkpoints", there, there.parent) if steps_newest_first(one)), there)
    steps = steps_newest_first(folder)
    if there.name.startswith("step-"):
        steps = [step for step in steps if step.name <= there.name]
    elif there.suffix == ".ckpt" and there.name != LAST:
        raise UserError(f"average_last={count} takes a run, or a step-*.ckpt of it, not {there.name}")
    if len(steps) < count:
        raise UserError(
            f"average_last={count}: {checkpoint} keeps {len(steps)} step-*.ckpt; train with checkpoint_every= so that "
            "there are as many, or average fewer"
        )
    encoder = load_encoder(str(steps[0]))
    total = {name: weight.double() for name, weight in encoder.state_dict().items()}
    for step in steps[1:count]:
        for name, weight in load_encoder(str(step)).state_dict().items():
            total[name] += weight
    own = encoder.state_dict()
    encoder.load_state_dict({name: (weight / count).to(own[name].dtype) for name, weight in total.items()})
    return encoder
