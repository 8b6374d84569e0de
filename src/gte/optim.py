"""AdamW without decay on biases and LayerNorm, linear warm-up and decay (Section 3.4)."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import nn

from gte.errors import UserError, check_numbers


@dataclass(frozen=True)
class Optim:
    """Settings of the optimizer; `clip_norm` bounds the L2 norm of the gradient, 0 leaves it."""

    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    warmup_fraction: float
    clip_norm: float

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

    def build(self, module: nn.Module, lr_scale: float, kernel: str = "foreach") -> torch.optim.AdamW:
        """AdamW over the module's trainable parameters at lr * lr_scale.

        kernel: `fused`, one pass over all parameters; or `foreach`, a dozen operations on all of them together. With
        neither, PyTorch works tensor by tensor: 1,972 operations a step for BERT's 197. It stays the same after a state
        is loaded, which brings the kernel that it was saved under.
        """
        kernels = {name: name == kernel for name in ("fused", "foreach")}
        optimizer = torch.optim.AdamW(
            parameter_groups(module, self.weight_decay),
            lr=self.lr * lr_scale,
            betas=tuple(self.betas),
            eps=self.eps,
            **kernels,
        )

        def keep_kernel(loaded: torch.optim.Optimizer) -> None:
            for group in loaded.param_groups:
                group.update(kernels)

        optimizer.register_load_state_dict_post_hook(keep_kernel)
        return optimizer


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices with decay; vectors (biases and LayerNorm, of whatever name) without."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def warmup_linear(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Factor on the learning rate of step 0, 1, …: rises over the warm-up, then falls linearly towards 0.

    Neither the first nor the last step is wasted on a rate of zero.
    """
    warmup = max(1, round(warmup_fraction * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(total_steps - step, 0) / max(total_steps - warmup, 1)
