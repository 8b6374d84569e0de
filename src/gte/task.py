"""The LightningModule: encode, loss, log; nothing that would work without a trainer."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor

from gte.data.collate import Batch
from gte.encoder import Encoder, plan_chunks
from gte.gather import current_ranks
from gte.hub import describe
from gte.optim import Optim, warmup_linear
from gte.stage import Stage


class ContrastiveTask(pl.LightningModule):
    """One contrastive training stage of an encoder.

    `loss(q_ND, d_ND, n_NKD, ranks=...)` is the mean over the pairs of all ranks. A step's texts, queries, documents and
    negatives alike, go through the language model together. `history`: facts of this stage and of those before it,
    oldest first, kept in every checkpoint. `step_metrics` is what the last step measured, for gte.callbacks.Metrics:
    Lightning's own log would repeat a source's last loss at the steps of all other sources.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: Callable,
        optim: Optim,
        stage: Stage,
        *,
        total_steps: int,
        sources: list[str],
        history: list[dict],
    ):
        super().__init__()
        self.encoder, self.loss, self.optim, self.stage = encoder, loss, optim, stage
        self.total_steps, self.sources, self.history = total_steps, sources, history
        self.step_metrics: dict[str, Tensor | float] = {}

    def on_fit_start(self) -> None:
        # PyTorch's fused attention on CPUs takes twice as long as plain matrix products in the backward pass of texts
        # this short; the scores of one chunk are small
        if self.device.type == "cpu" and self.stage.max_length <= 128:
            self.encoder.lm.set_attn_implementation("eager")

    def on_fit_end(self) -> None:
        self.encoder.lm.set_attn_implementation("sdpa")

    def training_step(self, batch: Batch, _) -> Tensor:
        plan = plan_chunks(batch.lengths_R.numpy(), self.stage.batch_tokens)
        x_RD = self.encoder(batch.ids_T, batch.lengths_R, plan, self.stage.recompute_fraction)
        n, k = batch.pairs, batch.negatives
        q_ND, d_ND, n_NKD = x_RD[:n], x_RD[n : 2 * n], x_RD[2 * n :].view(n, k, -1) if k else None
        loss = self.loss(q_ND, d_ND, n_NKD, ranks=current_ranks())
        self.step_metrics = {
            "train/loss": loss.detach(),
            f"train/loss/{self.sources[batch.source]}": loss.detach(),
            "train/padding": plan.padding,
        }
        return loss

    def configure_optimizers(self):
        # the fused kernel refuses to work under a gradient scaler with clipping
        fused = self.device.type == "cpu" and self.trainer.precision != "16-mixed"
        optimizer = self.optim.build(self, self.stage.lr_scale, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_linear(step, self.total_steps, self.optim.warmup_fraction)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        """Bounds the L2 norm of all gradients, and notes what it was."""
        bound = self.optim.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_([p for p in self.parameters() if p.grad is not None], bound)
        self.step_metrics |= {"train/grad_norm": norm, "train/lr": optimizer.param_groups[0]["lr"]}

    def transfer_batch_to_device(self, batch: Batch, device, dataloader_idx: int) -> Batch:
        """Chunks are cut on the host and moved one by one."""
        return batch

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        *earlier, this = self.history
        checkpoint["encoder"] = describe(self.encoder)
        checkpoint["history"] = [*earlier, this | {"steps": self.global_step}]
