"""A ModernBERT layer's two halves, each one node of the graph, for packed texts on a CPU; see `gte.models.fused`.

Shapes: T tokens of all texts end to end, H heads, E width of a head, D = H E, I inner.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer

from gte.attention import Runs
from gte.models.fused_attention import attend_groups, attend_groups_backward, cut, fits_window
from gte.models.fused_steps import compute_dtype, drop, drop_backward, has_hooks, on_cpu, product, rate


class FusedModernBertLayer(ModernBertEncoderLayer):
    """Its forward pass is that of transformers wherever it gets no packed texts on a CPU."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        runs: Runs | None = None,
        **options,
    ) -> Tensor:
        if not on_cpu(runs, hidden_states, **options) or not self.fits(hidden_states, runs):
            return super().forward(hidden_states, attention_mask, position_embeddings, runs=runs, **options)
        dtype, attention = compute_dtype(hidden_states), self.attn
        x = Attention.apply(
            hidden_states[0],
            [angle[0].to(dtype) for angle in position_embeddings],
            runs,
            dtype,
            attention.Wqkv.out_features // attention.head_dim // 3,
            self.window,
            (attention.attention_dropout if self.training else 0.0, rate(attention.out_drop)),
            getattr(self.attn_norm, "eps", None),
            getattr(self.attn_norm, "weight", None),
            attention.Wqkv.weight,
            attention.Wo.weight,
        )
        norm, mlp = self.mlp_norm, self.mlp
        return GatedUnit.apply(x, dtype, rate(mlp.drop), norm.eps, norm.weight, mlp.Wi.weight, mlp.Wo.weight)[None]

    @property
    def window(self) -> int | None:
        """As far before and behind itself a token sees; None is all."""
        return None if self.attn.sliding_window is None else self.attn.sliding_window - 1

    def fits(self, hidden_states: Tensor, runs: Runs) -> bool:
        """Whether the equations below are those of this layer."""
        linear = (self.attn.Wqkv, self.attn.Wo, self.mlp.Wi, self.mlp.Wo)
        return (
            fits_window(runs, self.window)
            and isinstance(self.mlp.act, GELUActivation | nn.GELU)
            and all(type(module) is nn.Linear and module.bias is None for module in linear)  # no adapters
            and type(self.attn_norm) in (nn.LayerNorm, nn.Identity)
            and all(getattr(norm, "bias", None) is None for norm in (self.attn_norm, self.mlp_norm))
            and not has_hooks(self)
        )


class Attention(torch.autograd.Function):
    """x + dropout(W_o softmax(q k^T / sqrt(E)) v), [q k v] = W_qkv LayerNorm(x), q and k turned by their positions.

    x, result: [T, D]. angles: cosines and sines [T, E]. dropout: of the attention's weights, and of the half's result.
    weight: of the norm; None is no norm at all, as in the first layer.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx, x, angles, runs, dtype, heads, window, dropout, eps, weight, w_qkv, w_o):
        normed, mean, scale = (x, None, None) if weight is None else norm(x, weight, eps)
        n_TD, w_qkvc, w_oc = normed.to(dtype), w_qkv.to(dtype), w_o.to(dtype)
        qkv_TD = product(n_TD, w_qkvc)
        rotate(qkv_TD, *angles, heads)
        context_TD, kept = attend_groups(qkv_TD, runs, heads, dropout[0], window)
        y_TD, mask = drop(product(context_TD, w_oc), dropout[1])
        ctx.counts = [len(tensors) for tensors in kept]
        ctx.save_for_backward(x, mean, scale, weight, n_TD, w_qkvc, context_TD, w_oc, mask, *angles, *sum(kept, ()))
        ctx.options, ctx.dtype = (runs, heads, dropout, window), w_qkv.dtype
        return x + y_TD

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, gradient):
        x, mean, scale, weight, n_TD, w_qkv, context_TD, w_o, mask, cos, sin, *kept = ctx.saved_tensors
        runs, heads, dropout, window = ctx.options
        dy_TD = drop_backward(gradient, n_TD.dtype, mask, dropout[1])
        d_w_o = (dy_TD.t() @ context_TD).to(ctx.dtype)
        d_context = product(dy_TD, w_o.t())
        d_qkv = attend_groups_backward(d_context, runs, heads, dropout[0], window, cut(kept, ctx.counts))
        rotate(d_qkv, cos, -sin, heads)
        d_w_qkv = (d_qkv.t() @ n_TD).to(ctx.dtype)
        dx_TD, d_weight = norm_backward(product(d_qkv, w_qkv.t()).to(x.dtype), x, mean, scale, weight)
        return dx_TD.add_(gradient), *[None] * 7, d_weight, d_w_qkv, d_w_o


class GatedUnit(torch.autograd.Function):
    """x + W_o dropout(gelu(a) g) with [a g] = W_i LayerNorm(x), [T, D] -> [T, D]."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx, x, dtype, dropout, eps, weight, w_i, w_o):
        normed, mean, scale = norm(x, weight, eps)
        n_TD, w_ic, w_oc = normed.to(dtype), w_i.to(dtype), w_o.to(dtype)
        a_TI, g_TI = (product(n_TD, part) for part in w_ic.chunk(2))  # gelu of parts of rows is half as fast
        u_TI = F.gelu(a_TI)
        m_TI, mask = drop(u_TI * g_TI, dropout)
        ctx.save_for_backward(x, mean, scale, weight, n_TD, w_ic, w_oc, a_TI, g_TI, u_TI, m_TI, mask)
        ctx.dropout, ctx.dtype = dropout, w_i.dtype
        return x + product(m_TI, w_oc)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, gradient):
        x, mean, scale, weight, n_TD, w_i, w_o, a_TI, g_TI, u_TI, m_TI, mask = ctx.saved_tensors
        dy_TD = gradient.to(n_TD.dtype)
        d_w_o = (dy_TD.t() @ m_TI).to(ctx.dtype)
        dm_TI = drop_backward(product(dy_TD, w_o.t()), n_TD.dtype, mask, ctx.dropout)
        inner = a_TI.shape[1]
        d_ag = n_TD.new_empty(len(n_TD), 2 * inner)
        torch.mul(dm_TI, u_TI, out=d_ag[:, inner:])
        d_ag[:, :inner] = torch.ops.aten.gelu_backward(dm_TI * g_TI, a_TI)
        d_w_i = (d_ag.t() @ n_TD).to(ctx.dtype)
        dx_TD, d_weight = norm_backward(product(d_ag, w_i.t()).to(x.dtype), x, mean, scale, weight)
        return dx_TD.add_(gradient), None, None, None, d_weight, d_w_i, d_w_o


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm without bias; mean, 1 / deviation."""
    return torch.native_layer_norm(x, x.shape[-1:], weight, None, eps)


def norm_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradients of x, which nobody else holds, and of weight; where there is no norm the former is as given."""
    if weight is None:
        return gradient, None
    backward = torch.ops.aten.native_layer_norm_backward
    return backward(gradient, x, x.shape[-1:], mean, scale, weight, None, [True, True, False])[:2]


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> None:
    """Turns q and k of [T, 3 D] by the angles of their positions, in place; with -sin, the gradient of that.

    (x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1 sin), halves of a head; cos and sin [T, E] have each angle twice.
    """
    half = cos.shape[1] // 2
    x = qkv.view(len(qkv), 3 * heads, -1)[:, : 2 * heads]
    swapped = torch.empty_like(x)
    swapped[..., :half], swapped[..., half:] = x[..., half:], x[..., :half]
    signed = torch.cat([-sin[:, :half], sin[:, half:]], 1)
    x.mul_(cos[:, None]).addcmul_(swapped, signed[:, None])
