"""A BERT layer's two halves, each one node of the graph, for packed training on a CPU.

Between the matrix products transformers' layers make many small steps: casts, copies of heads, biases, masks. On a
processor these take half of a bf16 step. Here a half has its gradient written out, so that it casts its input once,
makes query, key and value in one product, works in place, and keeps only what its gradient needs.

Under autocast matrix products are in its precision, everything else, the sums of a residual above all, in the
precision of the hidden states.

Shapes: T tokens of all texts end to end, n texts of L tokens in a run, H heads, E width of a head, D = H E, I inner.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.camembert.modeling_camembert import CamembertLayer
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from gte.attention import Runs

LONGEST_EAGER = 128  # tokens; the scores of longer texts are not kept


def use_fused_layers(lm: nn.Module) -> None:
    """Makes the layers that are known here train by `Attention` and `FeedForward` where they get packed texts on a CPU.

    Their parameters, names and files stay what they are.
    """
    for layer in lm.modules():
        if type(layer) in FUSED:
            layer.__class__ = FUSED[type(layer)]


class FusedLayer:
    """The forward pass of a layer; that of transformers wherever it is not packed training on a CPU."""

    def forward(self, hidden_states: Tensor, *given, runs: Runs | None = None, **options) -> Tensor:
        if runs is None or not self.fits(hidden_states):
            return super().forward(hidden_states, *given, runs=runs, **options)
        attention, output = self.attention.self, self.attention.output
        x = Attention.apply(
            hidden_states[0],
            runs,
            compute_dtype(hidden_states),
            attention.num_attention_heads,
            (attention.dropout.p, output.dropout.p),
            output.LayerNorm.eps,
            *parameters(attention.query, attention.key, attention.value, output.dense, output.LayerNorm),
        )
        x = FeedForward.apply(
            x,
            compute_dtype(hidden_states),
            self.output.dropout.p,
            self.output.LayerNorm.eps,
            *parameters(self.intermediate.dense, self.output.dense, self.output.LayerNorm),
        )
        return x[None]

    def fits(self, hidden_states: Tensor) -> bool:
        """Whether it is training, where the equations below are those of this layer."""
        attention = self.attention.self
        linear = (attention.query, attention.key, attention.value, self.attention.output.dense)
        linear += (self.intermediate.dense, self.output.dense)
        return (
            self.training
            and hidden_states.device.type == "cpu"
            and not self.is_decoder
            and isinstance(self.intermediate.intermediate_act_fn, GELUActivation | nn.GELU)
            and all(type(module) is nn.Linear and module.bias is not None for module in linear)  # no adapters
            and not any(part._forward_hooks or part._forward_pre_hooks for part in self.modules() if part is not self)
        )


class FusedBertLayer(FusedLayer, BertLayer):
    pass


class FusedRobertaLayer(FusedLayer, RobertaLayer):
    pass


class FusedXLMRobertaLayer(FusedLayer, XLMRobertaLayer):
    pass


class FusedCamembertLayer(FusedLayer, CamembertLayer):
    pass


class FusedElectraLayer(FusedLayer, ElectraLayer):
    pass


FUSED = {
    BertLayer: FusedBertLayer,
    RobertaLayer: FusedRobertaLayer,
    XLMRobertaLayer: FusedXLMRobertaLayer,
    CamembertLayer: FusedCamembertLayer,
    ElectraLayer: FusedElectraLayer,
}


def parameters(*modules: nn.Module) -> list[Tensor]:
    """Weight and bias of each."""
    return [parameter for module in modules for parameter in (module.weight, module.bias)]


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision of matrix products: autocast's, or that of x."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class Attention(torch.autograd.Function):
    """LayerNorm(x + dropout(W_o softmax(q k^T / sqrt(E)) v + b_o)) with [q k v] = x [W_q W_k W_v] + [b_q b_k b_v].

    x, result: [T, D]. dropout: of the attention's weights, and of the half's result.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx, x, runs, dtype, heads, dropout, eps, w_q, b_q, w_k, b_k, w_v, b_v, w_o, b_o, weight, bias):
        x_TD = x.to(dtype)
        w_qkv, b_qkv = torch.cat([w_q, w_k, w_v]).to(dtype), torch.cat([b_q, b_k, b_v]).to(dtype)
        w_o = w_o.to(dtype)
        qkv_TD = product(x_TD, w_qkv, b_qkv)
        context_TD = qkv_TD.new_empty(len(x), w_o.shape[1])
        kept = []
        groups = in_groups(runs, dtype)
        sizes = list(map(tokens, groups))
        for group, qkv, context in zip(groups, qkv_TD.split(sizes), context_TD.split(sizes), strict=True):
            kept.append(attend(qkv, context, group, heads, dropout[0]))
        y_TD = product(context_TD, w_o, b_o.to(dtype))
        result, *norm = add_and_norm(x, y_TD, dropout[1], weight, bias, eps)
        ctx.kept = [len(tensors) for tensors in kept]
        ctx.save_for_backward(x_TD, w_qkv, context_TD, w_o, weight, bias, *norm, *sum(kept, ()))
        ctx.groups, ctx.heads, ctx.dropout, ctx.dtype, ctx.width = groups, heads, dropout, w_q.dtype, len(w_q)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, gradient):
        x_TD, w_qkv, context_TD, w_o, weight, bias, *tensors = ctx.saved_tensors
        norm, kept = tensors[:4], tensors[4:]
        dx_TD, dy_TD, d_weight, d_bias = add_and_norm_backward(
            gradient, x_TD.dtype, ctx.dropout[1], weight, bias, *norm
        )
        d_context = product(dy_TD, w_o.t())
        d_w_o, d_b_o = weight_gradients(dy_TD, context_TD, ctx.dtype)
        d_qkv = torch.empty(len(x_TD), 3 * ctx.width, dtype=x_TD.dtype)
        sizes = list(map(tokens, ctx.groups))
        parts = zip(ctx.groups, ctx.kept, d_context.split(sizes), d_qkv.split(sizes), strict=True)
        for group, count, given, wanted in parts:
            attend_backward(given, wanted, group, ctx.heads, ctx.dropout[0], *kept[:count])
            kept = kept[count:]
        dx_TD = add_product(dx_TD, d_qkv, w_qkv)
        d_w, d_b = weight_gradients(d_qkv, x_TD, ctx.dtype)
        of_qkv = sum(zip(d_w.split(ctx.width), d_b.split(ctx.width), strict=True), ())
        return dx_TD, None, None, None, None, None, *of_qkv, d_w_o, d_b_o, d_weight, d_bias


class FeedForward(torch.autograd.Function):
    """LayerNorm(x + dropout(W_2 gelu(W_1 x + b_1) + b_2)), [T, D] -> [T, D]."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx, x, dtype, dropout, eps, w_1, b_1, w_2, b_2, weight, bias):
        x_TD, w_1c, w_2c = x.to(dtype), w_1.to(dtype), w_2.to(dtype)
        h_TI = product(x_TD, w_1c, b_1.to(dtype))
        a_TI = F.gelu(h_TI)
        y_TD = product(a_TI, w_2c, b_2.to(dtype))
        result, *norm = add_and_norm(x, y_TD, dropout, weight, bias, eps)
        ctx.save_for_backward(x_TD, w_1c, w_2c, h_TI, a_TI, weight, bias, *norm)
        ctx.dropout, ctx.dtype = dropout, w_1.dtype
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, gradient):
        x_TD, w_1, w_2, h_TI, a_TI, weight, bias, *norm = ctx.saved_tensors
        dx_TD, dy_TD, d_weight, d_bias = add_and_norm_backward(gradient, x_TD.dtype, ctx.dropout, weight, bias, *norm)
        d_w_2, d_b_2 = weight_gradients(dy_TD, a_TI, ctx.dtype)
        d_h = torch.ops.aten.gelu_backward(product(dy_TD, w_2.t()), h_TI)
        d_w_1, d_b_1 = weight_gradients(d_h, x_TD, ctx.dtype)
        return add_product(dx_TD, d_h, w_1), None, None, None, d_w_1, d_b_1, d_w_2, d_b_2, d_weight, d_bias


def in_groups(runs: Runs, dtype: torch.dtype) -> list[Runs]:
    """Neighbouring runs whose texts are padded to one length, for the attention alone; the longest first.

    A batched bf16 product of a new shape takes oneDNN as long to prepare as a dozen short texts take to compute, and
    the texts of a step have a hundred lengths. In other precisions each run is a group.
    """
    groups = []
    for run in runs:
        longest = groups[-1][0][1] if groups and pads(dtype) else 0
        if 7 / 8 * longest <= run[1] <= longest <= LONGEST_EAGER:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def pads(dtype: torch.dtype) -> bool:
    """Whether oneDNN does the products."""
    return dtype == torch.bfloat16


def keeps_weights(length: int, dtype: torch.dtype) -> bool:
    """Whether attention over so many tokens is faster step by step than by PyTorch's fused kernel."""
    return dtype == torch.bfloat16 and length <= LONGEST_EAGER


def tokens(group: Runs) -> int:
    """Tokens of all texts."""
    return sum(texts * length for texts, length in group)


def by_head(flat: Tensor, parts: int, group: Runs, heads: int) -> list[Tensor]:
    """Views [parts, n, H, L, E] of the rows [T, parts D] of a group, one a run."""
    rows = flat.split([texts * length for texts, length in group])
    return [x.view(*run, parts, heads, -1).permute(2, 0, 3, 1, 4) for x, run in zip(rows, group, strict=True)]


def places(padded: Tensor, group: Runs) -> list[Tensor]:
    """The parts [p, n, H, L, E] of a group's [p, N, H, longest, E] that hold the tokens of its runs."""
    texts = padded.split([texts for texts, _ in group], dim=1)
    return [x[:, :, :, :length] for x, (_, length) in zip(texts, group, strict=True)]


def pad_group(flat: Tensor, parts: int, group: Runs, heads: int) -> Tensor:
    """[parts, N, H, longest, E] of the rows [T, parts D] of a group, zero where there is no token."""
    new = flat.new_empty if len(group) == 1 else flat.new_zeros
    width = flat.shape[1] // parts // heads
    padded = new(parts, sum(texts for texts, _ in group), heads, group[0][1], width)
    for place, view in zip(places(padded, group), by_head(flat, parts, group, heads), strict=True):
        place.copy_(view)
    return padded


def unpad_group(padded: Tensor, flat: Tensor, group: Runs, heads: int) -> None:
    """Writes [parts, N, H, longest, E] to the rows [T, parts D] of a group."""
    for place, view in zip(places(padded, group), by_head(flat, len(padded), group, heads), strict=True):
        view.copy_(place)


def attend(qkv: Tensor, context: Tensor, group: Runs, heads: int, dropout: float) -> tuple[Tensor, ...]:
    """Writes softmax(q k^T / sqrt(E)) v of the texts of a group into context [T, D]; returns what backward needs.

    qkv: [T, 3 D].
    """
    longest = group[0][1]
    if not dropout and not keeps_weights(longest, qkv.dtype):
        (qkv_3nHLE,), (context_nHLE,) = by_head(qkv, 3, group, heads), by_head(context, 1, group, heads)[0]
        out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*qkv_3nHLE)
        context_nHLE.copy_(out)
        return *qkv_3nHLE, out, log_sums
    padded = pad_group(qkv, 3, group, heads)
    q, k, v = padded.flatten(1, 2)
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(q.shape[-1] ** -0.5)
    if len(group) > 1:
        texts = scores.view(-1, heads, longest, longest).split([texts for texts, _ in group])
        for part, (_, length) in zip(texts, group, strict=True):
            part[..., length:] = -torch.inf
    weights = scores.softmax(-1)
    kept = [weights]
    if dropout:
        kept.append(draw_mask(weights, dropout))
        weights = (weights * kept[1]).mul_(1 / (1 - dropout))
    unpad_group(torch.bmm(weights, v).view(padded[:1].shape), context, group, heads)
    return q, k, v, *kept


def attend_backward(gradient: Tensor, d_qkv: Tensor, group: Runs, heads: int, dropout: float, q, k, v, *kept) -> None:
    """Writes the gradient of qkv [T, 3 D] from that of the context [T, D] and what `attend` kept."""
    if q.ndim == 4:
        (d_3nHLE,), (d_context,) = by_head(d_qkv, 3, group, heads), by_head(gradient, 1, group, heads)[0]
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        for place, found in zip(d_3nHLE, backward(d_context, q, k, v, *kept, 0.0, False), strict=True):
            place.copy_(found)
        return
    weights, *mask = kept
    d_context = pad_group(gradient, 1, group, heads).flatten(0, 2)
    d_weights = torch.bmm(d_context, v.transpose(1, 2))
    dropped = weights
    if dropout:
        dropped = (weights * mask[0]).mul_(1 / (1 - dropout))
        d_weights.mul_(mask[0]).mul_(1 / (1 - dropout))
    # dS = P (dP - rowsum(dP P)), 0 where a key is padding since P is; as rows, padded queries have dP = 0
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(q.shape[-1] ** -0.5)
    found = q.new_empty(3, *q.shape)
    torch.bmm(d_scores, k, out=found[0])
    torch.bmm(d_scores.transpose(1, 2), q, out=found[1])
    torch.bmm(dropped.transpose(1, 2), d_context, out=found[2])
    unpad_group(found.unflatten(1, (-1, heads)), d_qkv, group, heads)


def add_and_norm(x: Tensor, y: Tensor, dropout: float, weight: Tensor, bias: Tensor, eps: float) -> tuple:
    """LayerNorm(x + dropout(y)), [T, D]; its argument, mean, 1 / deviation, and the mask of what was not dropped."""
    mask = None
    if dropout:
        mask = draw_mask(y, dropout)
        y = (y * mask).mul_(1 / (1 - dropout))
    total = x + y
    result, mean, scale = torch.native_layer_norm(total, total.shape[-1:], weight, bias, eps)
    return result, total, mean, scale, mask


def draw_mask(like: Tensor, dropout: float) -> Tensor:
    """0 with probability `dropout` to 1 / 65,536, else 1; from four 16-bit numbers a draw, six times as fast as one."""
    draws = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: like.numel()].view(like.shape)
    return torch.ge(bits, round(dropout * 2**16) - 2**15, out=torch.empty_like(like))


def add_and_norm_backward(
    gradient: Tensor,
    dtype: torch.dtype,
    dropout: float,
    weight: Tensor,
    bias: Tensor,
    total: Tensor,
    mean: Tensor,
    scale: Tensor,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, of y in `dtype`, of weight and bias."""
    dx, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
        gradient.contiguous(), total, total.shape[-1:], mean, scale, weight, bias, [True, True, True]
    )
    dy = dx.to(dtype) if mask is None else (dx * mask).mul_(1 / (1 - dropout)).to(dtype)
    return dx, dy, d_weight, d_bias


def add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """total + left right, in place: total is a gradient that nobody else holds."""
    return total.add_(product(left, right.t()))


def weight_gradients(dy: Tensor, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of weight and bias of y = W x + b, summed over tokens in float32 and then in the precision of dy."""
    return (dy.t() @ x).to(dtype), dy.sum(0).to(dtype)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias.

    By oneDNN where PyTorch has it: in float32 a fifth faster than its usual library on an AMD processor, and in bf16
    the bias, added in passing, costs nothing instead of a tenth.
    """
    if ONEDNN is None or x.dtype not in (torch.float32, torch.bfloat16):
        return F.linear(x, weight, bias)
    return ONEDNN(x, weight, bias, "none", [], "")


ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
