"""A temperature that is trained together with the encoder, within bounds."""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor, nn

from gte.errors import UserError

BOUNDS = (0.005, 0.1)  # the paper's 0.01 and CLIP's 0.07 lie between


class LearntTemperature(nn.Module):
    """A loss whose τ is low · (high / low)^sigmoid(p), with one trained number p that begins at 0.

    Args:
        loss: called with `temperature=` as a tensor, beside all else that it is given.
        low: lower bound of τ, above 0.
        high: upper bound of τ, which begins at the geometric mean of the two.
    Raises: UserError where the bounds are no two rising numbers above 0.

    >>> from gte.loss import contrastive_loss
    >>> loss = LearntTemperature(contrastive_loss, low=0.01, high=0.09)
    >>> round(loss.temperature().item(), 3)
    0.03
    >>> loss(torch.eye(4), torch.eye(4)).backward()
    >>> loss.position.grad is not None
    True
    """

    def __init__(self, loss: Callable, low: float = BOUNDS[0], high: float = BOUNDS[1]):
        super().__init__()
        if not 0 < low < high < float("inf"):
            raise UserError(
                f"loss.temperature={{learnt: [{low}, {high}]}}: the bounds must be two rising numbers above 0, such as "
                f"{list(BOUNDS)}"
            )
        self.loss, self.low, self.high = loss, low, high
        self.position = nn.Parameter(torch.zeros(()))

    def temperature(self) -> Tensor:
        """τ as it stands, float32."""
        return self.low * torch.exp(log(self.high / self.low) * torch.sigmoid(self.position.float()))

    def forward(self, *vectors: Tensor | None, **options) -> Tensor:
        """The loss of the given vectors at τ."""
        return self.loss(*vectors, temperature=self.temperature(), **options)
