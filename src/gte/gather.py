"""The one collective of the loss: every rank's rows, in rank order."""

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """A process group (the default one where None) as `gte.loss` sees it."""

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)

    @torch.no_grad()
    def all_gather(self, x: Tensor) -> Tensor:
        """[n, ...] of each rank -> [world_size * n, ...] in rank order, without gradient; n must be the same on all."""
        gathered = x.new_empty((self.world_size * len(x), *x.shape[1:]))
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before PyTorch 2.13
        gather(gathered, x.contiguous(), group=self.group)
        return gathered


def current_ranks() -> Ranks | None:
    """Find the processes that share this one's batch.

    Returns: the ranks of the default process group, or None where this process works alone.

    >>> current_ranks() is None
    True
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return Ranks()
