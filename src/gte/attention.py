"""Attention within texts that lie end to end, without padding: what the language model calls by the name ATTENTION.

A packed batch is one row of T tokens. `runs` says how they fall apart: [(texts, tokens a text), ...] in order. On a CPU
each run is one dense attention; on a GPU all of them are one variable-length kernel, which takes `offsets` instead.
Without `runs` it is transformers' own scaled-dot-product attention over a padded batch. A layer with a window sees only
the tokens that lie at most so far away in the text (ModernBERT's local layers).

Shapes: n texts, H heads, T tokens of all texts, L tokens of a text, E width of a head.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ATTENTION = "within_texts"
Runs = Sequence[tuple[int, int]]

# kinds that know a token's place by its position id alone (see gte.positions), and hand `runs` on to ATTENTION
PACKED = {"albert", "bert", "distilbert", "electra", "modernbert", "nomic_bert"}
PACKED |= {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
TAKES_MASK = {"bert", "camembert", "electra", "roberta", "xlm-roberta"}  # kinds whose layers all take one ready mask
BAND_ROWS = 256  # queries of a windowed layer that are taken at a time


def use_packed_attention(lm: nn.Module) -> bool:
    """Makes the language model take packed batches; False, and no change, where its kind is not known to be fit.

    From here on this process takes no attention of cuDNN's. PyTorch prefers it to flash on a Hopper GPU, where under
    torch 2.11 its dropout acts in steps of 1/16, so that 0.1 is never 0.1, and it plans every new shape anew: a run of
    16,384 pairs has 100 new (texts, length) in its first 20 steps. Not around the calls that need it: layers that are
    recomputed in a backward pass run outside of them, and would draw other masks than forward.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    known = lm.config.model_type in PACKED and getattr(lm, "_supports_attention_backend", False)
    if known:
        lm.set_attn_implementation(ATTENTION)
    return known


def at_least_float32(x: Tensor) -> torch.dtype:
    """In what to sum numbers like x."""
    return torch.promote_types(x.dtype, torch.float32)


def no_mask(config: "PretrainedConfig") -> dict[str, None] | None:
    """The attention mask of a packed batch: none, by kind of layer where the language model would make its own."""
    return {"full_attention": None, "sliding_attention": None} if config.model_type == "modernbert" else None


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
    return lm.config.model_type in TAKES_MASK and lm.config._attn_implementation == ATTENTION


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    runs: Runs | None = None,
    sliding_window: int | None = None,
    offsets: Tensor | None = None,
    **options,
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling) v within each text: [1, H, T, E] thrice -> [1, T, H, E], as transformers asks for it.

    sliding_window: one more than how many tokens before and behind itself a token sees; None is all. offsets: where
    each text begins, then T, int32 [n + 1] on the device: for a GPU.
    """
    if runs is None:  # the mask knows the window
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, E]
    longest = max(length for _, length in runs)
    window = None if sliding_window is None or longest <= sliding_window else sliding_window - 1
    windowed = window is not None and not flash_fits(query.device, query.dtype, query.shape[-1])
    if offsets is not None and query.dtype != torch.float64 and not windowed:
        return attend_varlen(query, key, value, offsets, longest, dropout, scaling, window)[None], None
    # in native bf16, PyTorch's fused kernel takes twice as long backward on short texts; in fp32 it takes 0.8 times
    eager = module.training and query.dtype == torch.bfloat16  # also where a chunk runs without a graph at first
    return attend_each(query, key, value, runs, dropout, scaling, 128 if eager else 0, window)[None], None


def attend_each(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    runs: Runs,
    dropout: float,
    scaling: float | None,
    eager: int = 0,
    window: int | None = None,
) -> Tensor:
    """[T, H, E]: one dense attention a run; of texts of up to `eager` tokens step by step, else by the fused kernel.

    window: how many tokens before and behind itself a token sees; None is all.
    """
    sizes = [texts * length for texts, length in runs]
    parts = []
    for run, *qkv in zip(runs, *(x.split(sizes) for x in (query, key, value)), strict=True):
        q, k, v = (x.unflatten(0, run).transpose(1, 2) for x in qkv)
        dense = attend_by_steps if run[1] <= eager else F.scaled_dot_product_attention
        part = attend_band(dense, q, k, v, window, dropout_p=dropout, scale=scaling)
        parts.append(part.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def attend_by_steps(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, scale: float | None = None
) -> Tensor:
    """F.scaled_dot_product_attention by single products; attn_mask is added."""
    scores = (q @ k.transpose(2, 3)).mul(scale or q.shape[-1] ** -0.5)
    if attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.softmax(scores, -1, dtype=at_least_float32(scores)).to(v.dtype)
    return F.dropout(weights, dropout_p) @ v if dropout_p else weights @ v


def attend_band(dense: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, window: int | None, **options) -> Tensor:
    """dense(q, k, v) of [texts, H, L, E], where a token sees those up to `window` before and behind it; None is all.

    Long texts a block of queries at a time, each with the keys that it can see: the work grows with L, not L squared.
    """
    length = q.shape[2]
    if window is None or length <= window + 1:
        return dense(q, k, v, **options)
    band, parts = band_mask(window, q.dtype, q.device), []
    for first, rows in zip(range(0, length, BAND_ROWS), q.split(BAND_ROWS, 2), strict=True):
        start, end = max(first - window, 0), min(first + rows.shape[2] + window, length)
        mask = band[first - start :][: rows.shape[2], : end - start]
        parts.append(dense(rows, k[:, :, start:end], v[:, :, start:end], attn_mask=mask, **options))
    return torch.cat(parts, 2)


@lru_cache(maxsize=8)
def band_mask(window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[window + BAND_ROWS, 2 window + BAND_ROWS]: 0 where column and row are at most `window` apart, else -inf."""
    with torch.inference_mode(False):  # it is used under a graph too
        rows, columns = torch.arange(window + BAND_ROWS)[:, None], torch.arange(2 * window + BAND_ROWS)
        mask = torch.zeros(len(rows), len(columns), dtype=dtype)
        return mask.masked_fill_((rows - columns).abs() > window, -torch.inf).to(device)


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
