"""A BERT layer's two halves, each one node of the graph, for packed texts on a CPU.

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
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from gte.attention import Runs
from gte.models.fused_attention import attend_groups, attend_groups_backward, cut
from gte.models.fused_modernbert import FusedModernBertLayer
from gte.models.fused_steps import (
    add_product,
    compute_dtype,
    drop,
    drop_backward,
    has_hooks,
    on_cpu,
    product,
    rate,
    weight_gradients,
)


def use_fused_layers(lm: nn.Module) -> None:
    """Makes the layers that are known here work by their two halves below where they get packed texts on a CPU.

    Their parameters, names and files stay what they are.
    """
    for layer in lm.modules():
        if type(layer) in FUSED:
            layer.__class__ = FUSED[type(layer)]


class FusedLayer:
    """The forward pass of a layer; that of transformers wherever it gets no packed texts on a CPU."""

    def forward(self, hidden_states: Tensor, *given, runs: Runs | None = None, **options) -> Tensor:
        if not on_cpu(runs, hidden_states, **options) or not self.fits(hidden_states):
            return super().forward(hidden_states, *given, runs=runs, **options)
        attention, output = self.attention.self, self.attention.output
        x = Attention.apply(
            hidden_states[0],
            runs,
            compute_dtype(hidden_states),
            attention.num_attention_heads,
            (rate(attention.dropout), rate(output.dropout)),
            output.LayerNorm.eps,
            *parameters(attention.query, attention.key, attention.value, output.dense, output.LayerNorm),
        )
        x = FeedForward.apply(
            x,
            compute_dtype(hidden_states),
            rate(self.output.dropout),
            self.output.LayerNorm.eps,
            *parameters(self.intermediate.dense, self.output.dense, self.output.LayerNorm),
        )
        return x[None]

    def fits(self, hidden_states: Tensor) -> bool:
        """Whether the equations below are those of this layer."""
        return exact(self) and not has_hooks(self)


def exact(layer: nn.Module) -> bool:
    """Whether the equations below are those of this layer."""
    act = layer.intermediate.intermediate_act_fn
    return (
        not layer.is_decoder
        and isinstance(act, GELUActivation | nn.GELU)
        and getattr(act, "approximate", "none") == "none"
        and all(type(module) is nn.Linear and module.bias is not None for module in linear_of(layer))
    )


def linear_of(layer: nn.Module) -> tuple[nn.Module, ...]:
    """Query, key, value, attention's output, inner and outer product."""
    attention = layer.attention.self
    of_attention = (attention.query, attention.key, attention.value, layer.attention.output.dense)
    return (*of_attention, layer.intermediate.dense, layer.output.dense)


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
    ModernBertEncoderLayer: FusedModernBertLayer,
}


def parameters(*modules: nn.Module) -> list[Tensor]:
    """Weight and bias of each."""
    return [parameter for module in modules for parameter in (module.weight, module.bias)]


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
        context_TD, kept = attend_groups(qkv_TD, runs, heads, dropout[0])
        y_TD = product(context_TD, w_o, b_o.to(dtype))
        result, *norm = add_and_norm(x, y_TD, dropout[1], weight, bias, eps)
        ctx.counts = [len(tensors) for tensors in kept]
        ctx.save_for_backward(x_TD, w_qkv, context_TD, w_o, weight, bias, *norm, *sum(kept, ()))
        ctx.runs, ctx.heads, ctx.dropout, ctx.dtype, ctx.width = runs, heads, dropout, w_q.dtype, len(w_q)
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
        kept = cut(kept, ctx.counts)
        d_qkv = attend_groups_backward(d_context, ctx.runs, ctx.heads, ctx.dropout[0], None, kept)
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


def add_and_norm(x: Tensor, y: Tensor, dropout: float, weight: Tensor, bias: Tensor, eps: float) -> tuple:
    """LayerNorm(x + dropout(y)), [T, D]; its argument, mean, 1 / deviation, and the mask of what was not dropped."""
    y, mask = drop(y, dropout)
    total = x + y
    result, mean, scale = torch.native_layer_norm(total, total.shape[-1:], weight, bias, eps)
    return result, total, mean, scale, mask


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
    return dx, drop_backward(dx, dtype, mask, dropout), d_weight, d_bias
