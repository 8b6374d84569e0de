"""AdamW without decay on biases and LayerNorm; warm-up and decay of its rate (Section 3.4: linear)."""

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import TYPE_CHECKING

from gte.errors import UserError, check_numbers, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

SCHEDULES = ("linear", "cosine", "wsd")


@dataclass(frozen=True)
class Optim:
    """Settings of AdamW, of its warm-up and of the decay of its learning rate.

    Args:
        lr: the highest learning rate, before `stage.lr_scale`.
        weight_decay: of matrices; vectors have none.
        betas: of AdamW, two numbers from 0 to less than 1.
        eps: of AdamW.
        warmup_fraction: share of the stage's steps over which the rate rises from 0.
        clip_norm: bound of the gradient's L2 norm; 0 is none.
        schedule: the decay after the warm-up: `linear` (the paper) or `cosine` towards 0 at the last step, or
            `wsd` (warm-up, stable, decay): it stays at lr and falls linearly over the last decay_steps. From any
            checkpoint of its stable part, a resumed run of some more steps may decay.
        decay_steps: of wsd; None is a tenth of the stage's steps.
    Raises: UserError naming the setting that is out of range.
    Source: Section 3.4.

    >>> optim = Optim(lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, warmup_fraction=0.05, clip_norm=1.0)
    >>> [round(optim.factor(step, 1000), 2) for step in (0, 49, 525, 999)]
    [0.02, 1.0, 0.5, 0.0]
    """

    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    warmup_fraction: float
    clip_norm: float
    schedule: str = "linear"
    decay_steps: int | None = None

    def __post_init__(self):
        check_numbers("optim", self)
        if not (self.lr > 0 and isfinite(self.lr)):
            raise UserError(f"optim.lr must be positive and finite, got {self.lr}")
        for key in ("weight_decay", "eps", "clip_norm"):
            if not (getattr(self, key) >= 0 and isfinite(getattr(self, key))):
                raise UserError(f"optim.{key}={getattr(self, key)} must be finite and at least 0")
        try:
            first, second = map(float, self.betas)
        except (TypeError, ValueError) as error:
            raise UserError(f"optim.betas={self.betas} must be two numbers, such as [0.9,0.999]") from error
        if not (0 <= first < 1 and 0 <= second < 1):
            raise UserError(f"optim.betas={self.betas} must be two numbers from 0 to less than 1")
        if not 0 <= self.warmup_fraction <= 1:
            raise UserError(f"optim.warmup_fraction must lie in [0, 1], got {self.warmup_fraction}")
        if self.schedule not in SCHEDULES:
            close = did_you_mean(str(self.schedule), SCHEDULES)
            raise UserError(f"optim.schedule={self.schedule} is unknown{close}; known: {', '.join(SCHEDULES)}")
        if self.decay_steps is not None and (self.schedule != "wsd" or self.decay_steps < 1):
            raise UserError(f"optim.decay_steps={self.decay_steps} is at least 1 and belongs to optim.schedule=wsd")

    def check_steps(self, total_steps: int) -> None:
        """UserError where a stage of so many steps has no room for both the warm-up and the decay that were asked for.

        >>> adamw = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "clip_norm": 1.0}
        >>> Optim(**adamw, warmup_fraction=0.1, schedule="wsd", decay_steps=90).check_steps(100)
        """
        room = total_steps - warmup_steps(total_steps, self.warmup_fraction)
        if self.decay_steps is not None and self.decay_steps > room:
            raise UserError(
                f"optim.decay_steps={self.decay_steps} is longer than what the warm-up leaves of the stage, {room} of "
                f"{total_steps} steps: the rate would jump; give at most {room}, or a longer stage.steps"
            )

    def factor(self, step: int, total_steps: int) -> float:
        """Compute the factor on the learning rate of a step; neither the first nor the last step has a rate of zero.

        Args:
            step: from 0 to total_steps - 1.
            total_steps: optimizer steps of the stage.
        Returns: a number from 0 to 1.

        >>> adamw = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "clip_norm": 1.0}
        >>> wsd = Optim(**adamw, warmup_fraction=0.1, schedule="wsd")
        >>> [round(wsd.factor(step, 100), 2) for step in (0, 50, 95)]
        [0.1, 1.0, 0.5]
        """
        if self.schedule == "linear":
            return warmup_linear(step, total_steps, self.warmup_fraction)
        warmup = warmup_steps(total_steps, self.warmup_fraction)
        if step < warmup:
            return (step + 1) / warmup
        left = max(total_steps - step, 0)
        if self.schedule == "cosine":
            return (1 - cos(pi * left / max(total_steps - warmup, 1))) / 2
        return min(1.0, left / (self.decay_steps or max(1, round(total_steps / 10))))

    def build(self, module: "nn.Module", lr_scale: float, kernel: str = "foreach") -> "torch.optim.AdamW":
        """Build AdamW over a module's trainable parameters.

        Args:
            module: the model; its matrices get weight_decay, its vectors (biases and LayerNorm) none.
            lr_scale: factor on lr, `Stage.lr_scale`; fine-tuning divides by ten.
            kernel: `fused`, one pass over all parameters; or `foreach`, a dozen operations on all of them together.
                With neither, PyTorch works tensor by tensor: 1,972 operations a step for BERT's 197. It stays the same
                after a state is loaded, which brings the kernel that it was saved under.
        Returns: the optimizer, with two parameter groups.

        >>> from torch import nn
        >>> optim = Optim(lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, warmup_fraction=0.05, clip_norm=1.0)
        >>> [group["weight_decay"] for group in optim.build(nn.Linear(4, 2), lr_scale=0.1).param_groups]
        [0.01, 0.0]
        """
        import torch  # late: settings are checked before it is loaded

        kernels = {name: name == kernel for name in ("fused", "foreach")}
        optimizer = torch.optim.AdamW(
            parameter_groups(module, self.weight_decay),
            lr=self.lr * lr_scale,
            betas=tuple(self.betas),
            eps=self.eps,
            **kernels,
        )

        def keep_kernel(loaded: "torch.optim.Optimizer") -> None:
            for group in loaded.param_groups:
                group.update(kernels)

        optimizer.register_load_state_dict_post_hook(keep_kernel)
        return optimizer


def parameter_groups(module: "nn.Module", weight_decay: float) -> list[dict]:
    """Split the trainable parameters into matrices with decay and vectors (biases and LayerNorm) without."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def warmup_steps(total_steps: int, warmup_fraction: float) -> int:
    """The steps in which the rate rises, one at least."""
    return max(1, round(warmup_fraction * total_steps))


def warmup_linear(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Factor on the learning rate of step 0, 1, …: rises over the warm-up, then falls linearly towards 0.

    Neither the first nor the last step is wasted on a rate of zero.
    """
    warmup = warmup_steps(total_steps, warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return max(total_steps - step, 0) / max(total_steps - warmup, 1)
