"""The texts of a chunk as a language model reads them: packed end to end, or padded to the longest.

Shapes: n texts of the chunk, T tokens of all of them end to end, L tokens of the longest.
"""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from gte.attention import Runs, on_cuda
from gte.positions import position_ids


def pack(
    ids_T: Tensor, starts: Tensor, lengths: Tensor, host_lengths: np.ndarray, config: PretrainedConfig
) -> tuple[Tensor, Tensor, Runs, Tensor | None]:
    """Token ids [1, T] of texts end to end, their positions [1, T], the runs of equal length, and for a GPU the
    offsets [n + 1] of the texts."""
    total = int(host_lengths.sum())
    ends = lengths.cumsum(0)
    within = torch.arange(total, device=ids_T.device)
    within -= (ends - lengths).repeat_interleave(lengths, output_size=total)
    ids = ids_T[starts.repeat_interleave(lengths, output_size=total) + within].long()
    positions = position_ids(ids, within, config)
    changes = np.flatnonzero(np.diff(host_lengths, prepend=-1))
    texts = np.diff(changes, append=len(host_lengths))
    runs = list(zip(texts.tolist(), host_lengths[changes].tolist(), strict=True))
    offsets = nn.functional.pad(ends, (1, 0)).int() if on_cuda(ids_T.device) else None
    return ids[None], positions[None], runs, offsets


def pad(
    ids_T: Tensor, starts: Tensor, lengths: Tensor, host_lengths: np.ndarray, pad_id: int
) -> tuple[Tensor, Tensor | None]:
    """Token ids [n, L], and their mask [n, L], which is None where there is no padding."""
    longest, shortest = int(host_lengths.max()), int(host_lengths.min())
    columns = torch.arange(longest, device=ids_T.device)
    index = starts[:, None] + columns
    if longest == shortest:
        return ids_T[index].long(), None
    mask = columns < lengths[:, None]
    return torch.where(mask, ids_T[index.clamp_(max=len(ids_T) - 1)].long(), pad_id), mask
