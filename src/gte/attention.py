"""Attention within texts that lie end to end, without padding: what the language model calls by the name ATTENTION.

A packed batch is one row of T tokens. `runs` says how they fall apart: [(texts, tokens a text), ...] in order. On a CPU
each run is one dense attention; on a GPU all of them are one variable-length kernel, which takes `offsets` instead.
Without `runs` it is transformers' own scaled-dot-product attention over a padded batch.

Shapes: n texts, H heads, T tokens of all texts, L tokens of a text, E width of a head.
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
    """Makes the language model take packed batches; False, and no change, where its kind is not known to be fit.

    From here on this process takes no attention of cuDNN's. PyTorch prefers it to flash on a Hopper GPU, where under
    torch 2.11 its dropout acts in steps of 1/16, so that 0.1 is never 0.1, and it plans every new shape anew: a run of
    16,384 pairs has 100 new (texts, length) in its first 20 steps. Not around the calls that need it: layers that are
    recomputed in a backward pass run outside of them, and would draw other masks than forward.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
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


def on_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def has_flash(device: torch.device) -> bool:
    """Whether PyTorch's flash kernels run on this device: Ampere or newer."""
    built = torch.backends.cuda.is_flash_attention_available()
    return built and on_cuda(device) and torch.cuda.get_device_capability(device) >= (8, 0)


def flash_fits(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether they take packed texts of heads of this width and type."""
    return dtype in (torch.float16, torch.bfloat16) and width % 8 == 0 and width <= 256 and has_flash(device)


def takes_mask_as_it_is(lm: nn.Module) -> bool:
    """Whether all layers of the language model take a mask [n, 1, 1, L] without looking at it on the host."""
    return lm.config.model_type in FIRST_POSITION and lm.config._attn_implementation == ATTENTION


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    runs: Runs | None = None,
    offsets: Tensor | None = None,
    **options,
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling) v within each text: [1, H, T, E] thrice -> [1, T, H, E], as transformers asks for it.

    offsets: where each text begins, then T, int32 [n + 1] on the device: for a GPU.
    """
    if runs is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, E]
    if offsets is not None and query.dtype != torch.float64:
        longest = max(length for _, length in runs)
        return attend_varlen(query, key, value, offsets, longest, dropout, scaling)[None], None
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


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    longest: int,
    dropout: float,
    scaling: float | None,
    window: int | None = None,
) -> Tensor:
    """[T, H, E]: all texts in one kernel on a GPU; flash where it fits, else memory-efficient attention, as in float32.

    window: how many tokens before and behind itself a token sees, None is all; only flash knows it. These operators
    and not torch.nn.attention.varlen, which has no dropout, nor nested tensors, which took 43 ms of the host's time a
    chunk. Their masks are drawn from the device's generator, by as many numbers with a gradient as without.
    """
    texts = (offsets, offsets, longest, longest)
    if flash_fits(query.device, query.dtype, query.shape[-1]):
        sides = {"window_size_left": window, "window_size_right": window}
        return torch.ops.aten._flash_attention_forward(
            query, key, value, *texts, dropout, False, False, scale=scaling, **sides
        )[0]
    if window is not None:
        raise ValueError(f"attention of {query.dtype} in heads of {query.shape[-1]} has no kernel with a window here")
    return torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, *texts, dropout, 0, compute_log_sumexp=True, scale=scaling
    )[0][0]


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
