"""Attention within texts that lie end to end, without padding: what the language model calls by the name ATTENTION.

A packed batch is one row of T tokens. `runs` says how they fall apart: [(texts, tokens a text), ...] in order. On a CPU
each run is one dense attention; on a GPU all of them are one variable-length kernel. Without `runs` it is
transformers' own scaled-dot-product attention over a padded batch.

Shapes: H heads, T tokens of all texts, L tokens of a text, E width of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "within_texts"
Runs = Sequence[tuple[int, int]]

# first position of a text, for models that add learnt absolute positions and nothing else that depends on the place
FIRST_POSITION = {"bert": 0, "electra": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}  # after the padding id, if 1


def use_packed_attention(lm: nn.Module) -> bool:
    """Makes the language model take packed batches; False, and no change, where its kind is not known to be fit."""
    known = lm.config.model_type in FIRST_POSITION and getattr(lm, "_supports_attention_backend", False)
    if known:
        lm.set_attn_implementation(ATTENTION)
    return known


def at_least_float32(x: Tensor) -> torch.dtype:
    """In what to sum numbers like x."""
    return torch.promote_types(x.dtype, torch.float32)


def first_position(config) -> int:
    """The position of a text's first token."""
    return (config.pad_token_id + 1) * FIRST_POSITION[config.model_type]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    runs: Runs | None = None,
    **options,
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling) v within each text: [1, H, T, E] thrice -> [1, T, H, E], as transformers asks for it."""
    if runs is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, E]
    if query.is_cuda:
        return attend_jagged(query, key, value, runs, dropout, scaling)[None], None
    # in native bf16, PyTorch's fused kernel takes twice as long backward on short texts; in fp32 it takes 0.8 times
    eager = module.training and query.dtype == torch.bfloat16  # also where a chunk runs without a graph at first
    return attend_each(query, key, value, runs, dropout, scaling, 128 if eager else 0)[None], None


def attend_each(
    query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, scaling: float | None, eager: int = 0
) -> Tensor:
    """[T, H, E]: one dense attention a run; of texts of up to `eager` tokens step by step, else by the fused kernel."""
    sizes = [texts * length for texts, length in runs]
    parts = []
    for run, *qkv in zip(runs, *(x.split(sizes) for x in (query, key, value)), strict=True):
        q, k, v = (x.unflatten(0, run).transpose(1, 2) for x in qkv)
        if run[1] <= eager:
            scores = (q @ k.transpose(2, 3)).mul(scaling or q.shape[-1] ** -0.5)
            weights = torch.softmax(scores, -1, dtype=at_least_float32(scores)).to(v.dtype)
            part = F.dropout(weights, dropout) @ v if dropout else weights @ v
        else:
            part = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        parts.append(part.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def attend_jagged(
    query: Tensor, key: Tensor, value: Tensor, runs: Runs, dropout: float, scaling: float | None
) -> Tensor:
    """[T, H, E]: all texts in one kernel (flash or memory-efficient attention of variable length on CUDA)."""
    lengths = torch.tensor([length for texts, length in runs for _ in range(texts)])
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(query.device, non_blocking=True)
    ends = {"min_seqlen": int(lengths.min()), "max_seqlen": int(lengths.max())}
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(x.contiguous(), offsets, **ends).transpose(1, 2)
        for x in (query, key, value)
    )
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling).transpose(1, 2).values()


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
