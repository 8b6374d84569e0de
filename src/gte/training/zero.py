"""DeepSpeed's ZeRO: the optimizer's state in parts, one a rank (the paper trains with stage 1)."""

from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from gte.errors import UserError
from gte.files import put, remove
from gte.models.load import read_checkpoint

# what the files of the optimizer's state hold besides tensors and plain values
STATE_CLASSES = {
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}


class Zero(DeepSpeedStrategy):
    """Lightning's strategy, with this project's bound on the gradient and checkpoints that are complete or not there.

    A checkpoint is a directory: a file of weights, which gte.models.load reads, and one of optimizer state a rank.
    DeepSpeed skips a step whose gradient is not finite on some rank, at every precision.
    """

    def __init__(self, stage: int = 1, **options):
        if stage not in (1, 2):
            raise UserError(
                f"trainer.strategy.stage={stage}: only ZeRO stages 1 and 2 keep whole weights on every rank"
            )
        # DeepSpeed only logs this number, and Lightning cannot read it off batches that are sampled one by one
        super().__init__(stage=stage, logging_batch_size_per_gpu=1, **options)

    def setup(self, trainer: Trainer) -> None:
        if not isinstance(trainer.checkpoint_callback.folder, Path):
            raise UserError("DeepSpeed writes to directories only; set checkpoint_dir=null or to a directory")
        self.config["gradient_clipping"] = self.lightning_module.optim.clip_norm
        super().setup(trainer)

    def optimizer_step(self, optimizer: torch.optim.Optimizer, *args, **kwargs):
        result = super().optimizer_step(optimizer, *args, **kwargs)
        norm = torch.as_tensor(self.deepspeed_engine.get_global_grad_norm())  # before it was bounded
        self.lightning_module.note_gradient(norm, optimizer)
        return result

    def save_checkpoint(self, checkpoint: dict, filepath: str | Path, storage_options: object = None) -> None:
        target = Path(self.broadcast(filepath))
        partial = target.with_name(f".{target.name}.partial")
        if self.is_global_zero:
            remove(partial)
        self.barrier()
        super().save_checkpoint(checkpoint | self.fp32_weights(), partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            put(partial, target)
        self.barrier()

    def fp32_weights(self) -> dict[str, dict[str, Tensor]]:
        """The weights that the optimizer updates, where the steps compute with copies in half precision."""
        from deepspeed.utils import safe_get_full_fp32_param

        weights = self.lightning_module.state_dict()
        if all(weight.dtype == torch.float32 for weight in weights.values()):
            return {}
        masters = {name: safe_get_full_fp32_param(p) for name, p in self.lightning_module.named_parameters()}
        return {
            "fp32_weights": {
                name: (weight if masters.get(name) is None else masters[name]).float().cpu()
                for name, weight in weights.items()
            }
        }


def check_resume(checkpoint: Path, trainer: Trainer, learnt: bool = False) -> None:
    """Raises UserError where `trainer` cannot resume from a checkpoint that another strategy or other ranks wrote.

    Also where it holds weights alone, where one of the two runs learns its temperature and the other does not
    (`learnt`: this one does), and where a file of it is no ZeRO state: DeepSpeed unpickles whatever it finds.
    """
    zero = isinstance(trainer.strategy, DeepSpeedStrategy)
    if zero != checkpoint.is_dir():
        raise UserError(
            f"{checkpoint} was written {'without' if zero else 'by'} DeepSpeed; go on with the trainer= it was written "
            f"with, or start a new run from its weights: stage.init_from={checkpoint}"
        )
    if not zero:
        content = read_checkpoint(checkpoint)  # which says in one line what is cut, damaged or foreign
        anew = f"start a new run from its weights: stage.init_from={checkpoint}"
        if "optimizer_states" not in content:
            raise UserError(f"{checkpoint} holds weights alone; resume a step-*.ckpt or last.ckpt, or {anew}")
        if ("loss.position" in content["state_dict"]) != learnt:
            raise UserError(
                f"{checkpoint}: loss.temperature is learnt in one of the two runs and not in the other; {anew}"
            )
        return
    files = sorted(checkpoint.glob("*/*.pt"))
    ranks = sum("zero_pp_rank_" in file.name for file in files)
    if ranks != trainer.world_size:
        raise UserError(
            f"{checkpoint} holds the optimizer state of {ranks} ranks, this run has {trainer.world_size}; go on with "
            f"{ranks}, or start a new run from its weights: stage.init_from={checkpoint}"
        )
    for file in files:
        foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(file)) - STATE_CLASSES
        if foreign:
            raise UserError(f"{file} is no state of a training run: reading it would run {sorted(foreign)[0]}")
