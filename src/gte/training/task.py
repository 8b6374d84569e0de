"""The LightningModule: encode, loss, log; nothing that would work without a trainer."""

from collections import Counter
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor

from gte.data.collate import Batch
from gte.data.mixture import mix
from gte.encoder import Encoder
from gte.errors import UserError
from gte.gather import current_ranks
from gte.models.broken import broken
from gte.models.load import describe
from gte.models.saved import last_good
from gte.optim import Optim
from gte.stage import Stage
from gte.temperature import LearntTemperature


class ContrastiveTask(pl.LightningModule):
    """One contrastive training stage of an encoder; a step's texts go through the language model together.

    `step_metrics` is what the last step measured, for gte.training.callbacks.Metrics: Lightning's own log would repeat
    a source's last loss at the steps of all other sources. `counts`: the texts that this rank has been given, and those
    of them that fill the stage's max_length; of a run that is `resumed`, since then.

    Args:
        encoder: is trained.
        loss: `loss(q_ND, d_ND, n_NKD, ranks=...)`, the mean over the pairs of all ranks.
        optim: makes optimizer and schedule.
        stage: lengths, chunks and recomputation.
        total_steps: of the stage, for the schedule.
        sources: names, by the index in a batch.
        history: facts of this stage and of those before it, oldest first, kept in every checkpoint.
        seed: of dropout, with step and rank.
        max_skipped: steps in a row without a finite loss and gradient, after which training stops.
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
        seed: int = 0,
        max_skipped: int = 20,
    ):
        super().__init__()
        self.encoder, self.loss, self.optim, self.stage = encoder, loss, optim, stage
        self.total_steps, self.sources, self.history = total_steps, sources, history
        self.seed, self.max_skipped = seed, max_skipped
        self.skipped = {"all": 0, "in_a_row": 0}
        self.counts: Counter[str] = Counter()
        self.resumed = False
        self.step_metrics: dict[str, Tensor | float] = {}
        encoder.train()  # from_pretrained of transformers gives eval mode, which Lightning would keep: no dropout
        if stage.recompute_layers:
            lm = encoder.lm
            if not lm.supports_gradient_checkpointing:
                raise UserError(
                    "stage.recompute_layers=true is not supported by transformers for the model type "
                    f"'{lm.config.model_type}'; save memory by stage.recompute_fraction=1.0"
                )
            enable = getattr(lm, "activation_checkpointing_enable", lm.gradient_checkpointing_enable)  # its older name
            enable({"use_reentrant": False})

    def setup(self, stage: str) -> None:
        check_compiled(self.encoder, self.stage, self.trainer.strategy.root_device)

    def training_step(self, batch: Batch, _: object) -> Tensor:
        self.check_ids(batch)
        lengths_R = batch.lengths_R.numpy()
        self.counts.update(texts=len(lengths_R), cut=int((lengths_R >= self.stage.max_length).sum()))
        torch.manual_seed(mix(mix(self.seed, batch.step), self.global_rank))
        plan = self.encoder.plan(lengths_R, self.stage.batch_tokens)
        x_RD = self.encoder(batch.ids_T, batch.lengths_R, plan, self.stage.recompute_fraction, batch.skip_R)
        n, k = batch.pairs, batch.negatives
        q_ND, d_ND, n_NKD = x_RD[:n], x_RD[n : 2 * n], x_RD[2 * n :].view(n, k, -1) if k else None
        source, counts, options = self.sources[batch.source], {}, {}
        if masks_candidates(self.loss):
            options = {"counts": counts} | ({} if batch.guide_RG is None else {"guide": batch.guide_RG.to(x_RD.device)})
        loss = self.loss(q_ND, d_ND, n_NKD, ranks=current_ranks(), text_hashes=batch.hashes_R, **options)
        self.step_metrics = {
            "train/loss": loss.detach(),
            f"train/loss/{source}": loss.detach(),
            "train/padding": plan.padding,
        }
        if counts:
            self.step_metrics[f"train/masked/{source}"] = counts["masked"] / counts["candidates"].clamp(min=1)
        if isinstance(self.loss, LearntTemperature):
            self.step_metrics["train/temperature"] = self.loss.temperature().detach()
        return loss

    def check_ids(self, batch: Batch) -> None:
        """Raises UserError for a token id that the model has no embedding of: only a damaged shard holds one."""
        vocabulary = self.encoder.lm.get_input_embeddings().num_embeddings
        for token in batch.ids_T.aminmax():
            if not 0 <= token < vocabulary:
                raise UserError(
                    f"step {batch.step}: source {self.sources[batch.source]} holds the token id {token}, the model has "
                    f"{vocabulary}: a shard of it is damaged; verify=true says which, prepare again with force=true"
                )

    def configure_optimizers(self):
        # Lightning refuses the fused kernel under a gradient scaler with clipping
        kernel = "foreach" if self.trainer.precision == "16-mixed" else "fused"
        optimizer = self.optim.build(self, self.stage.lr_scale, kernel)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.factor(step, self.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Give the optimizer the configured rates, decay and betas, where a checkpoint brought those of its own run."""
        for optimizer, planned in zip(self.trainer.optimizers, self.trainer.lr_scheduler_configs, strict=True):
            schedule = planned.scheduler
            schedule.base_lrs = [self.optim.lr * self.stage.lr_scale] * len(optimizer.param_groups)
            for number, group in enumerate(optimizer.param_groups):
                rate = schedule.base_lrs[number] * self.optim.factor(schedule.last_epoch, self.total_steps)
                group |= {"lr": rate, "initial_lr": schedule.base_lrs[number]}
                group |= {"betas": tuple(self.optim.betas), "eps": self.optim.eps}
                group["weight_decay"] = self.optim.weight_decay if number == 0 else 0.0

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ):
        """Bounds the L2 norm of all gradients and notes what it was; drops gradients that are not finite.

        Every rank sees the same averaged gradient here and so decides alike.
        """
        trained = [p for p in self.parameters() if p.grad is not None]
        if not trained:
            return  # DeepSpeed keeps the gradients to itself: gte.training.zero.Zero
        norm = torch.nn.utils.clip_grad_norm_(trained, self.optim.clip_norm or float("inf"))
        if not norm.isfinite():
            optimizer.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient
        self.note_gradient(norm, optimizer)

    def note_gradient(self, norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Counts the steps that were skipped, and keeps the gradient's norm and the learning rate for the logs."""
        if norm.isfinite():
            self.skipped["in_a_row"] = 0
        else:
            self.skipped = {key: count + 1 for key, count in self.skipped.items()}
        self.step_metrics |= {
            "train/grad_norm": norm,
            "train/lr": optimizer.param_groups[0]["lr"],
            "train/skipped": self.skipped["all"],
        }

    def on_train_batch_end(self, outputs: object, batch: Batch, _: object) -> None:
        if self.skipped["in_a_row"] >= self.max_skipped:
            raise UserError(
                f"{self.skipped['in_a_row']} steps in a row, up to step {batch.step}, had a loss or gradient that is "
                f"not finite; {self.way_back()}"
            )

    def way_back(self) -> str:
        """The last good checkpoint, and what to do with it."""
        self.trainer.strategy.checkpoint_io.finish()
        good = last_good(self.trainer.checkpoint_callback.folder)
        other = "a lower optim.lr, or trainer.precision=32-true"
        if good is None:
            return f"there is no good checkpoint: train anew with {other}"
        return f"last good checkpoint: {good}; go on from it by resume= in another out=, with {other}"

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Chunks are cut on the host and moved one by one."""
        return batch

    def facts(self) -> list[dict]:
        """`history` with what this stage has done by now: steps, and epochs by source."""
        *earlier, this = self.history
        data, steps = self.trainer.datamodule, self.global_step
        *closed, segment = this["segments"]
        segment = segment | {"last_step": steps, "epochs": data.own_epochs(steps)}
        return [*earlier, this | {"steps": steps, "epochs": data.epochs(steps), "segments": [*closed, segment]}]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Raises UserError, before anything is written, where the weights are of no use."""
        if wrong := broken(self.encoder):
            raise UserError(f"the weights after step {self.global_step} are not saved: {wrong}; {self.way_back()}")
        checkpoint["encoder"] = describe(self.encoder)
        checkpoint["history"] = self.facts()
        checkpoint["skipped"] = self.skipped

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.skipped, self.resumed = checkpoint["skipped"], True


def masks_candidates(loss: Callable) -> bool:
    """Whether a loss excludes candidates that score above the positive, and counts them."""
    given = loss.loss if isinstance(loss, LearntTemperature) else loss
    return getattr(given, "keywords", {}).get("mask_margin") is not None


def check_compiled(encoder: Encoder, stage: Stage, device: torch.device) -> None:
    """Raises UserError for compiled layers that would draw other dropout when they are recomputed.

    On CUDA, a compiled graph under recomputation draws masks of its own, unequal in the two runs and of the wrong rate
    (pytorch issue 198333, torch 2.13); the gradients would belong to no loss.
    """
    recomputed = stage.recompute_fraction > 0 or stage.recompute_layers
    if encoder.compiled and recomputed and device.type == "cuda" and has_dropout(encoder.lm):
        raise UserError(
            "model.compile=true with dropout draws wrong masks on CUDA where layers are recomputed; set "
            "model.compile=false, or stage.recompute_fraction=0 and stage.recompute_layers=false"
        )


def has_dropout(lm: torch.nn.Module) -> bool:
    """Whether a language model drops anything in train mode, by its modules or by its configuration."""
    settings = [value for key, value in lm.config.to_dict().items() if "drop" in key and isinstance(value, float)]
    return any(settings) or any(part.p > 0 for part in lm.modules() if isinstance(part, torch.nn.Dropout))
