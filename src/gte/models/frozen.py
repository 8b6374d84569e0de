"""A BERT's layers laid out once for inference on packed texts on a CPU: in float32, bfloat16 or int8.

Weights lie as oneDNN's kernels want them, bias, GELU and residual are added within the products, query, key and value
are one product, and attention takes slabs of texts that fit a core's cache. It needs no package besides PyTorch.

int8: weights by output channel, inputs of a product by static ranges, so that a text's vector does not depend on what
else is in its batch. Ranges come from random tokens of the model's own vocabulary: on all-MiniLM-L6-v2 they are as good
as real texts (mean cosine to float32 0.9935 and 0.9932 without the two measures below). A channel's range is shared
between an input and its weights as in SmoothQuant (arXiv:2211.10438, Eq. 4), and the few inner neurons of the largest
values stay in float32 as in LLM.int8() (arXiv:2208.07339): 0.9985. Attention, LayerNorm and residual are no integers.

Shapes: T tokens of all texts end to end, H heads, E width of a head, D = H E, I inner neurons, K of them apart.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from gte.attention import Runs
from gte.models.fused import FUSED, exact, linear_of
from gte.models.fused_steps import ONEDNN

HINT = 1_024  # tokens of a product that oneDNN is to lay weights out for
SLAB = 512  # tokens whose attention is computed at once: their scores stay in a core's cache
LONGEST = 512  # tokens of a text; the attention of longer ones goes to PyTorch's kernel, which keeps no scores
STEP = 8  # a text's attention is padded to a multiple of so many tokens: whole vectors, and few shapes to prepare for
ALPHA = 0.7  # of SmoothQuant, how much of a channel's range goes to the weights; 0.5: 0.9959, 0.9: 0.9946, 0.7: 0.9961
OUTLIERS = 8  # inner neurons in float32; 16 and 32 gain nothing, none: 0.9961 in place of 0.9985
CALIBRATION_TEXTS = 64
CALIBRATION_TOKENS = 100  # of such a text, at most
LEAST, MOST = 2.0**-60, 2.0**120  # of the sum of a token's powers, so that all that matter to it are normal numbers
QLINEAR = getattr(torch.ops.onednn, "qlinear_pointwise", None) if ONEDNN is not None else None


class Group(NamedTuple):
    """Texts whose attention is computed at once, padded to `length` tokens."""

    start: int  # of its first token
    texts: int
    length: int
    runs: Runs


def why_not(lm: nn.Module, precision: str) -> str | None:
    """Why a language model cannot be frozen on this machine, None where it can."""
    if ONEDNN is None:
        return "this PyTorch has no oneDNN"
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        return "this processor does not compute in bf16"
    if precision == "int8" and not torch.cpu._is_vnni_supported():
        return "this processor has no instructions for int8 (AVX-512 VNNI)"
    layers = getattr(getattr(lm, "encoder", None), "layer", ())
    if not len(layers) or not all(type(layer) in FUSED.values() and exact(layer) for layer in layers):
        return f"the layers of the model type '{lm.config.model_type}' are not known, or carry adapters"
    if any(part._forward_hooks or part._forward_pre_hooks for part in lm.modules()):
        return "it has hooks"
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in lm.parameters()):
        return "its weights are not in float32 on the CPU"
    return None


def fingerprint(lm: nn.Module) -> tuple:
    """Equal while the layers keep their weights; some numbers are summed, since `.data` changes without a trace."""
    return tuple(
        (p.data_ptr(), None if p.is_inference() else p._version, float(p.detach().flatten()[::4093].sum()))
        for p in lm.encoder.parameters()
    )


class Product:
    """x W^T + b in float32 or bfloat16; `gelu` after it, or a residual added to it."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, gelu: bool = False):
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), HINT)
        self.bias = bias.to(dtype)
        self.after = ("gelu", [], "none") if gelu else ("none", [], "")

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None:
            return ONEDNN(x, self.weight, self.bias, *self.after)
        if residual.dtype == x.dtype:
            return ONEDNN.binary(x, residual, self.weight, self.bias, "add")
        return residual + ONEDNN(x, self.weight, self.bias, *self.after)


class Range(NamedTuple):
    """The least and the largest value of each channel [D] of a product's input."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Range":
        """In bfloat16's steps, so that the last bits of another machine's float32 make no other integers."""
        return cls(*(bound.bfloat16().float() for bound in torch.aminmax(x, dim=0)))


class IntegerProduct:
    """x W^T + b of int8 weights by output channel and uint8 inputs of a static range.

    smooth: whether each input channel is divided by a factor of its own, which its weights are multiplied with.
    """

    def __init__(self, weight: Tensor, bias: Tensor, found: Range, smooth: bool, gelu: bool = False):
        factor = torch.ones(weight.shape[1])
        if smooth:
            largest = torch.maximum(found.high.abs(), found.low.abs()).clamp(min=1e-5)
            factor = largest**ALPHA / weight.abs().amax(0).clamp(min=1e-5) ** (1 - ALPHA)
        low = float((found.low / factor).amin().clamp(max=0))
        high = float((found.high / factor).amax().clamp(min=0))
        self.scale = max((high - low) / 255, 1e-8)
        self.zero = round(-low / self.scale)
        weight = weight * factor
        self.weight_scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        whole = (weight / self.weight_scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(whole, [HINT, weight.shape[1]])
        self.weight_zero = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = bias.clone()
        self.after = ("gelu", [], "none") if gelu else ("none", [], "")
        self.steps = 1 / (factor * self.scale)  # of a channel
        self.offset = torch.full_like(self.steps, self.zero - 128)

    def whole(self, x: Tensor) -> Tensor:
        """The input as uint8; by way of int8, since torch 2.13 takes eight times as long from float32 to uint8."""
        signed = torch.addcmul(self.offset, x, self.steps).clamp_(-128, 127).round_().to(torch.int8)
        return signed.bitwise_xor_(-128).view(torch.uint8)  # a flipped highest bit adds 128

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """In `dtype`, of an input that `whole` made."""
        return QLINEAR(*self.given(x), self.bias, 1.0, 0, dtype, *self.after)

    def for_product(self, x: Tensor, following: "IntegerProduct") -> Tensor:
        """As the uint8 input of the following product."""
        return QLINEAR(*self.given(x), self.bias, following.scale, following.zero, torch.uint8, *self.after)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Added to a float32 residual, which is overwritten."""
        return QLINEAR.binary(
            *self.given(x), residual, self.bias, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], ""
        )

    def given(self, x: Tensor) -> tuple:
        """The arguments that all forms of the product take first."""
        return x, self.scale, self.zero, self.weight, self.weight_scale, self.weight_zero


class FrozenLayer:
    """A layer in float32 or bfloat16; hidden states between its products stay in float32."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype):
        *_, output, inner, outer = linear_of(layer)
        self.heads, self.dtype, self.norms = layer.attention.self.num_attention_heads, dtype, norms_of(layer)
        self.project = Product(*query_key_value(layer), dtype)
        self.output = Product(output.weight, output.bias, dtype)
        self.inner = Product(inner.weight, inner.bias, dtype, gelu=True)
        self.outer = Product(outer.weight, outer.bias, dtype)

    def __call__(self, x_TD: Tensor, groups: Sequence[Group]) -> Tensor:
        context_TD = attend(self.project(x_TD.to(self.dtype)), groups, self.heads)
        x_TD = norm(self.output(context_TD, x_TD), *self.norms[0])
        return norm(self.outer(self.inner(x_TD.to(self.dtype)), x_TD), *self.norms[1])

    def observe(self, x_TD: Tensor, groups: Sequence[Group]) -> tuple[Tensor, list[Range]]:
        """The same, and the ranges of what its four products get."""
        context_TD = attend(self.project(x_TD), groups, self.heads)
        y_TD = norm(self.output(context_TD, x_TD), *self.norms[0])
        inner_TI = self.inner(y_TD)
        ranges = [Range.of(found) for found in (x_TD, context_TD, y_TD, inner_TI)]
        return norm(self.outer(inner_TI, y_TD), *self.norms[1]), ranges


class IntegerLayer:
    """A layer whose products are of int8, by the ranges that `FrozenLayer.observe` found. dtype: of the attention."""

    def __init__(self, layer: nn.Module, ranges: Sequence[Range], dtype: torch.dtype):
        *_, output, inner, outer = linear_of(layer)
        self.heads, self.dtype, self.norms = layer.attention.self.num_attention_heads, dtype, norms_of(layer)
        first, context, second, neurons = ranges
        apart = neurons.high.topk(min(OUTLIERS, len(neurons.high) // 2)).indices
        self.inner_apart = Product(inner.weight[apart], inner.bias[apart], torch.float32, gelu=True)
        self.outer_apart = outer.weight[:, apart].t().contiguous()
        others = torch.ones(len(neurons.high)).index_fill(0, apart, 0.0)
        neurons = Range(neurons.low * others, neurons.high * others)
        self.project = IntegerProduct(*query_key_value(layer), first, smooth=True)
        self.output = IntegerProduct(output.weight, output.bias, context, smooth=True)
        self.inner = IntegerProduct(inner.weight, inner.bias, second, smooth=True, gelu=True)
        self.outer = IntegerProduct(outer.weight * others, outer.bias, neurons, smooth=False)

    def __call__(self, x_TD: Tensor, groups: Sequence[Group]) -> Tensor:
        context_TD = attend(self.project(self.project.whole(x_TD), self.dtype), groups, self.heads, torch.float32)
        x_TD = norm(self.output.add_to(x_TD, self.output.whole(context_TD)), *self.norms[0])
        inner_TI = self.inner.for_product(self.inner.whole(x_TD), self.outer)
        x_TD.addmm_(self.inner_apart(x_TD), self.outer_apart)
        return norm(self.outer.add_to(x_TD, inner_TI), *self.norms[1])


class FrozenLayers:
    """All layers of a language model that `why_not` has nothing against.

    calibration: for int8, what the first layer gets of some texts, [T, D], and the runs of their lengths.
    """

    def __init__(self, lm: nn.Module, precision: str, calibration: tuple[Tensor, Runs] | None = None):
        self.precision, self.made_of = precision, fingerprint(lm)
        native = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
        with torch.autocast("cpu", enabled=False):
            if precision != "int8":
                dtype = torch.float32 if precision == "fp32" else torch.bfloat16
                self.layers = [FrozenLayer(layer, dtype) for layer in lm.encoder.layer]
                return
            self.layers, (x_TD, runs) = [], calibration
            groups = in_groups(runs)
            for layer in lm.encoder.layer:
                x_TD, ranges = FrozenLayer(layer, torch.float32).observe(x_TD, groups)
                self.layers.append(IntegerLayer(layer, ranges, native))

    def serves(self, lm: nn.Module, precision: str) -> bool:
        """Whether it still is this language model in this precision."""
        return self.precision == precision and self.made_of == fingerprint(lm)

    def __call__(self, x_TD: Tensor, runs: Runs) -> Tensor:
        """The last layer's hidden states float32 [T, D] of the first one's input, which may be overwritten."""
        groups = in_groups(runs)
        for layer in self.layers:
            x_TD = layer(x_TD, groups)
        return x_TD


def query_key_value(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight [3 D, D] and bias of the three products in one; a score of theirs is a power of two, not of e.

    exp2 takes a third of exp's time here, so log2(e) goes into the query beside 1 / sqrt(E).
    """
    query, key, value, *_ = linear_of(layer)
    heads = layer.attention.self.num_attention_heads
    scale = math.log2(math.e) * (query.out_features // heads) ** -0.5
    weight = torch.cat([query.weight * scale, key.weight, value.weight])
    return weight, torch.cat([query.bias * scale, key.bias, value.bias])


def norms_of(layer: nn.Module) -> list[tuple[Tensor, Tensor, float]]:
    """Weight, bias and epsilon of both of a layer's LayerNorms, copied."""
    norms = (layer.attention.output.LayerNorm, layer.output.LayerNorm)
    return [(norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps) for norm in norms]


def norm(x_TD: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x_TD, weight.shape, weight, bias, eps)


def in_groups(runs: Runs) -> list[Group]:
    """Neighbouring texts of one padded length, SLAB tokens at a time; a text's own length says how it is padded."""
    groups: list[Group] = []
    start = 0
    for texts, length in runs:
        padded = -(-length // STEP) * STEP if length <= LONGEST else length
        most = max(SLAB // padded, 1)
        while texts:
            last = groups[-1] if groups else None
            if last is None or last.length != padded or last.texts == most:
                last = Group(start, 0, padded, [])
                groups.append(last)
            taken = min(texts, most - last.texts)
            groups[-1] = Group(last.start, last.texts + taken, padded, [*last.runs, (taken, length)])
            start += taken * length
            texts -= taken
    return groups


def attend(qkv: Tensor, groups: Sequence[Group], heads: int, dtype: torch.dtype | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E)) v within each text, [T, D] in `dtype`, of what `query_key_value` scales."""
    width = qkv.shape[1] // 3
    context_TD = qkv.new_empty(len(qkv), width, dtype=dtype)
    for start, texts, length, runs in groups:
        whole = runs == [(texts, length)]
        new = qkv.new_empty if whole else qkv.new_zeros
        padded = new(3, texts, heads, length, width // heads)
        places = list(parts(runs, start))
        for n, rows, run in places:
            padded[:, n, :, : run[1]] = qkv[rows].view(*run, 3, heads, -1).permute(2, 0, 3, 1, 4)
        if length > LONGEST:
            result = F.scaled_dot_product_attention(*padded, scale=math.log(2))
            context_TD[places[0][1]].view(texts, length, heads, -1).copy_(result.transpose(1, 2))
            continue
        q, k, v = padded.flatten(1, 2)

        def scores(
            q: Tensor = q, k: Tensor = k, texts: int = texts, length: int = length, places: list[tuple] = places
        ) -> Tensor:
            found = torch.bmm(q, k.transpose(1, 2))
            for n, _, (_, own) in places:
                if own < length:
                    found.view(texts, heads, length, length)[n, :, :, own:] = -torch.inf
            return found

        weights = scores()
        torch.exp2(weights, out=weights)
        sums = weights.sum(-1, keepdim=True, dtype=torch.float32)
        least, most = torch.aminmax(sums)
        if not (least > LEAST and most < MOST):  # beyond what powers can hold that are not relative to the largest
            weights = torch.softmax(scores().float() * math.log(2), -1).to(qkv.dtype)
            sums = torch.ones_like(sums)
        result, sums = (x.view(texts, heads, length, -1).transpose(1, 2) for x in (torch.bmm(weights, v), sums))
        for n, rows, run in places:
            torch.div(result[n, : run[1]], sums[n, : run[1]], out=context_TD[rows].view(*run, heads, -1))
    return context_TD


def parts(runs: Runs, start: int) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
    """Yield for each run in a group its texts, its tokens among all, and itself."""
    at = 0
    for texts, length in runs:
        yield slice(at, at + texts), slice(start, start + texts * length), (texts, length)
        at, start = at + texts, start + texts * length


def first_hidden(lm: nn.Module, ids: Tensor, positions: Tensor) -> Tensor:
    """Compute the first layer's input, [T, D], for token ids [1, T]."""
    hidden = lm.embeddings(input_ids=ids, position_ids=positions)
    return (lm.embeddings_project(hidden) if hasattr(lm, "embeddings_project") else hidden)[0]  # ELECTRA's


def calibration_texts(tokenizer: PreTrainedTokenizerBase, longest: int) -> list[str]:
    """Random tokens of a vocabulary, the same at each call; then no token, and `longest` different and equal ones."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(len(tokenizer), size=n) for n in rng.integers(1, CALIBRATION_TOKENS, CALIBRATION_TEXTS)]
    ids += [rng.integers(len(tokenizer), size=n) for n in (0, longest)]
    ids += [np.repeat(rng.integers(len(tokenizer)), longest) for _ in range(2)]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
