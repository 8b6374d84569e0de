"""The moving average of the weights over the steps of a training (EMA)."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from gte.data.collate import Batch
from gte.errors import UserError

if TYPE_CHECKING:
    from upath import UPath

EMA_FILE = "ema.ckpt"


class Ema(Callback):
    """An exponential moving average of the encoder's weights, in float32, written to ema.ckpt at the end.

    After step t it is d·average + (1 - d)·weights with d = min(decay, (1 + t) / (10 + t)), so that the first weights
    are soon forgotten. It is part of every checkpoint; a resumed run has the average that it would have.

    Args:
        folder: where ema.ckpt goes, a directory or an address.
        decay: d, between 0 and 1; 0.999 averages over some thousand steps.
    """

    def __init__(self, folder: "Path | UPath", decay: float):
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
    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: Batch, index: int
    ) -> None:
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
