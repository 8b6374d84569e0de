"""The contrastive losses of the paper (Eqs. 3 and 5-7): exact, in memory linear in the number of pairs.

X holds one unit vector a row: the queries, then the documents, then the hard negatives; S = X Xᵀ / τ. Which rows of S
sum which columns is a small table (DIRECTIONS). Z_i is the sum of e^S over the candidates of row q_i and over those of
row d_i, and

    L = 1/n Σ_i (log Z_i - S[q_i, d_i])                                                          Eqs. 3 and 5
    dL/dX = (G X - P) / (n τ),   G_ab = e^{S_ab} (1/Z_a [a sums b] + 1/Z_b [b sums a]),   P_q = d, P_d = q, else 0

with Z of the pair a row belongs to. S and G are symmetric but for what is masked, so one tile of S serves the rows on
both of its sides, and where one divisor keeps all e^S within a float's range, one power as well. S is never all in
memory: its tiles are computed forward, for Z, and again backward, for G. Across ranks, X and log Z are gathered once
each; a rank then has all that its own rows of G X need.

Nested widths (Matryoshka, Kusupati et al. 2022): S_v is that of the vectors cut to their first D_v entries. The product
of two cut vectors is a partial sum of that of the whole ones, so all widths cost the products of the largest alone:

    S_v = (Σ_{e < D_v} x_ae x_be) c_av c_bv / τ,   c_av = 1 / ‖x_a[:D_v]‖
    dL/dx_ae = 1/(nτ) Σ_{v: D_v > e} w_v (Σ_b G^v_ab c_av c_bv x_be - t_av c_av² x_ae),   t_av = Σ_b G^v_ab cos^v_ab

Shapes: N pairs a rank, K negatives a pair, D width, V widths, R = N (2 + K) rows a rank, W ranks, G a guide's width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from math import ceil, isqrt, log, log2
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

# Terms of Eq. 6 by ordered kinds of rows, Q queries, D documents, N negatives: the first sums the second
DIRECTIONS = {
    "query_to_doc": ("QD", "QN"),
    "query_to_query": ("QQ",),
    "doc_to_query": ("DQ",),
    "doc_to_doc": ("DD", "DN"),
}
WITHIN = ("QD", "DQ", "QN")  # kinds that compete within a pair as well; the others only with those of other pairs
NEVER = -1e30  # log2 of what does not compete; finite, so that 0 times it is 0
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class Ranks(Protocol):
    """The processes that share a batch; `gte.gather.Ranks` is one."""

    rank: int
    world_size: int

    def all_gather(self, x: Tensor) -> Tensor:
        """[n, ...] of each rank -> [world_size * n, ...] in rank order, without gradient."""


def improved_contrastive_loss(
    q_ND: Tensor,
    d_ND: Tensor,
    n_NKD: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.01,
    chunk_rows: int | None = None,
    ranks: Ranks | None = None,
    text_hashes: Tensor | None = None,
    tf32: bool = False,
    widths: Sequence[int] | None = None,
    width_weights: Sequence[float] | None = None,
    directions: Sequence[str] = tuple(DIRECTIONS),
    mask_margin: float | None = None,
    guide: Tensor | None = None,
    counts: dict[str, Tensor] | None = None,
) -> Tensor:
    """Mean of Eq. 5 over all pairs, in nats; Z is Eq. 6, so the positive counts twice and perfect embeddings cost ln 2.

    Row i of d_ND is the positive of row i of q_ND. Query i competes with all hard negatives of the batch, document i
    with those of the other pairs. Embeddings come raw; a zero vector has cosine 0 to everything and takes no gradient.
    fp16 and bf16 are computed in float32, under autocast too.

    Args:
        q_ND: [N, D], one query a row.
        d_ND: [N, D], their positive documents.
        n_NKD: [N, K, D], hard negatives of each query, or None.
        temperature: τ of Eq. 7, above 0. As a tensor of one number it takes a gradient.
        chunk_rows: bound of the tiles; changes no result. None chooses it.
        ranks: the processes that share the batch. Each passes its own N pairs (as many on every rank), the value is the
            mean over the pairs of all ranks, and the gradient is that of the own rows times W: averaged over the ranks,
            as DistributedDataParallel does, it is what one process gets from the global batch.
        text_hashes: int64 [N (2 + K)] of queries, documents, negatives of query 0, of query 1, ...: a text competes
            with no repetition of its own pair's texts, on whichever rank that is; the paper has no such mask.
        tf32: lets CUDA round the factors of the score matrix to 10 bits, as fast as half precision: on random vectors
            the gradient is then off by 7e-4, below the 3e-3 of a language model in bf16.
        widths: nested widths, falling, at most D: the loss is the sum of those of the vectors cut to each of them.
        width_weights: a factor for each width; 1 each by default.
        directions: which terms of Eq. 6 are summed (keys of DIRECTIONS); the paper sums all four.
        mask_margin: candidates of a text that score above its positive by more than this cosine are taken for
            unlabelled positives and excluded from its sum. None masks nothing; the paper has no such mask.
        guide: [N (2 + K), G] in the order of text_hashes, vectors of another model whose cosines decide what
            mask_margin masks, in place of the scores themselves (GISTEmbed, Solatorio 2024).
        counts: is given "candidates" and "masked", how many the own rows have and how many of them mask_margin took.

    Returns: a scalar.

    Raises ValueError where shapes, temperature, widths, directions, mask_margin or chunk_rows cannot be meant.

    >>> q, d = torch.eye(4), torch.eye(4)
    >>> improved_contrastive_loss(q, d).round(decimals=3)
    tensor(0.6930)
    """
    options = Options(
        chunk_rows, ranks, text_hashes, tf32, widths, width_weights, directions, mask_margin, guide, counts
    )
    return _loss(q_ND, d_ND, n_NKD, temperature, options)


def contrastive_loss(
    q_ND: Tensor,
    d_ND: Tensor,
    n_NKD: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.01,
    chunk_rows: int | None = None,
    ranks: Ranks | None = None,
    text_hashes: Tensor | None = None,
    tf32: bool = False,
    widths: Sequence[int] | None = None,
    width_weights: Sequence[float] | None = None,
    mask_margin: float | None = None,
    guide: Tensor | None = None,
    counts: dict[str, Tensor] | None = None,
) -> Tensor:
    """Mean of Eq. 3 over all pairs, in nats: query i against all documents and all hard negatives of the batch.

    Arguments, errors and the rest as in `improved_contrastive_loss`, of which this is the direction query_to_doc.

    >>> q, d = torch.eye(4), torch.eye(4)
    >>> contrastive_loss(q, d).round(decimals=3)
    tensor(0.)
    """
    one = ("query_to_doc",)
    options = Options(chunk_rows, ranks, text_hashes, tf32, widths, width_weights, one, mask_margin, guide, counts)
    return _loss(q_ND, d_ND, n_NKD, temperature, options)


class Options(NamedTuple):
    """Arguments of both losses beside vectors and temperature."""

    chunk_rows: int | None
    ranks: Ranks | None
    text_hashes: Tensor | None
    tf32: bool
    widths: Sequence[int] | None
    width_weights: Sequence[float] | None
    directions: Sequence[str]
    mask_margin: float | None
    guide: Tensor | None
    counts: dict[str, Tensor] | None


class Batch(NamedTuple):
    """Facts that the passes need beside X and τ."""

    sums: frozenset[str]  # ordered kinds: rows of the first sum columns of the second
    n: int
    k: int
    temperature: float
    chunk_rows: int
    ranks: Ranks | None
    hash_WR3: Tensor | None  # of each row's text, of its pair's query, of its pair's document; a negative's own thrice
    tf32: bool
    widths: tuple[int, ...]  # rising; the last is that of X
    weights: tuple[float, ...]
    margin: float | None
    guide_WRG: Tensor | None  # unit vectors
    counts: dict[str, Tensor] | None

    @property
    def rank(self) -> int:
        """Rank of this process, 0 where it works alone."""
        return 0 if self.ranks is None else self.ranks.rank

    @property
    def world(self) -> int:
        """Number of the processes that share the batch."""
        return 1 if self.ranks is None else self.ranks.world_size

    @property
    def summing(self) -> set[str]:
        """Kinds whose rows have a Z."""
        return {kinds[0] for kinds in self.sums}

    @property
    def log2_scale(self) -> float:
        """Factor from cosines to log2 e^S. Powers of 2, because exp2 costs a third of exp on a CPU."""
        return 1 / (self.temperature * log(2))

    def gather(self, x: Tensor) -> Tensor:
        """[n, ...] of each rank -> [W, n, ...]."""
        return (x if self.ranks is None else self.ranks.all_gather(x)).view(self.world, *x.shape)


def _loss(q_ND: Tensor, d_ND: Tensor, n_NKD: Tensor | None, temperature: float | Tensor, options: Options) -> Tensor:
    """Check everything, gather what is known of the texts, and compute."""
    q, d = list(q_ND.shape), list(d_ND.shape)
    if len(q) != 2 or q != d:
        raise ValueError(f"queries {q} and documents {d} do not agree; both must be [pairs, width]")
    if q[0] == 0:
        raise ValueError(f"queries {q} and documents {d} hold 0 pairs, whose mean loss does not exist; pass at least 1")
    if n_NKD is not None and (n_NKD.ndim != 3 or [n_NKD.shape[0], n_NKD.shape[2]] != q):
        raise ValueError(f"negatives {list(n_NKD.shape)} must be [{q[0]}, any number, {q[1]}] beside queries {q}")
    tau = float(temperature.detach() if isinstance(temperature, Tensor) else temperature)
    if not tau > 0:
        raise ValueError(f"temperature {tau} must be above 0; the paper's is 0.01")
    if options.chunk_rows is not None and options.chunk_rows < 1:
        raise ValueError(f"chunk_rows {options.chunk_rows} must be at least 1; None chooses it")
    sums = _sums(options.directions)
    widths, weights = _widths(options.widths, options.width_weights, q[1])
    margin = _margin(options.mask_margin, options.guide)
    with torch.autocast(q_ND.device.type, enabled=False):
        x_RD = torch.cat([q_ND, d_ND] if n_NKD is None else [q_ND, d_ND, n_NKD.flatten(0, 1)])[:, : widths[-1]]
        x_RD = x_RD.to(torch.promote_types(x_RD.dtype, torch.float32))
        rows, n, ranks = len(x_RD), q[0], options.ranks
        chunk_rows = options.chunk_rows or _chunk_rows(x_RD, 3 if len(widths) == 1 else 2 + len(widths))
        batch = Batch(
            sums, n, rows // n - 2, tau, chunk_rows, ranks, None, options.tf32, widths, weights, margin,
            None, options.counts,
        )  # fmt: skip
        if (hashes := options.text_hashes) is not None:
            if hashes.shape != (rows,):
                raise ValueError(f"text_hashes {list(hashes.shape)} must be [{rows}], one a text")
            query_N, document_N, negative_NK = hashes.to(x_RD.device).split([n, n, rows - 2 * n])
            parts = [torch.stack((own_N, query_N, document_N), 1) for own_N in (query_N, document_N)]
            batch = batch._replace(hash_WR3=batch.gather(torch.cat([*parts, negative_NK[:, None].expand(-1, 3)])))
        if (guide := options.guide) is not None:
            if guide.ndim != 2 or len(guide) != rows:
                raise ValueError(f"guide {list(guide.shape)} must be [{rows}, width], one vector a text")
            unit_RG, _ = _unit_rows(guide.detach().to(x_RD))
            batch = batch._replace(guide_WRG=batch.gather(unit_RG))
        return _GramLoss.apply(x_RD, temperature, batch)


def _sums(directions: Sequence[str]) -> frozenset[str]:
    """The ordered kinds that the named terms of Eq. 6 sum."""
    if unknown := [name for name in directions if name not in DIRECTIONS]:
        raise ValueError(f"unknown direction {unknown[0]}; known: {', '.join(DIRECTIONS)}")
    if not {"query_to_doc", "doc_to_query"} & set(directions):
        raise ValueError(
            f"directions {list(directions)} sum no positive, so the loss has no floor; add query_to_doc or doc_to_query"
        )
    return frozenset(kinds for name in directions for kinds in DIRECTIONS[name])


def _widths(
    widths: Sequence[int] | None, weights: Sequence[float] | None, width: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The nested widths and their weights, rising."""
    if widths is None:
        if weights is not None:
            raise ValueError(f"width_weights {list(weights)} belong to widths, which are not given")
        return (width,), (1.0,)
    widths = list(widths)
    if not widths or sorted(set(widths), reverse=True) != widths or widths[-1] < 1:
        raise ValueError(f"widths {widths} must be positive and falling, each once, such as [384, 256, 128, 64]")
    if widths[0] > width:
        raise ValueError(f"widths {widths} must be at most the encoder's width, {width}")
    weights = [1.0] * len(widths) if weights is None else [float(weight) for weight in weights]
    if len(weights) != len(widths) or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"width_weights {weights} must be {len(widths)} positive numbers, one for each of {widths}")
    return tuple(reversed(widths)), tuple(reversed(weights))


def _margin(margin: float | None, guide: Tensor | None) -> float | None:
    if margin is None:
        if guide is not None:
            raise ValueError("a guide decides what mask_margin masks, which is None; set it, 0.0 for instance")
        return None
    if not -1 < margin < 2:
        raise ValueError(
            f"mask_margin {margin} is a difference of cosines: -1 and less may leave no candidates, 2 none out"
        )
    return float(margin)


def _products(run: Callable) -> Callable:
    """Runs a pass of the loss with products in the precision that its batch asks for, and no longer.

    That is float32's own, or on CUDA tf32; a backward that is called under autocast is not rounded either.
    """

    @wraps(run)
    def passed(ctx: FunctionCtx, *given):
        batch = ctx.batch if run.__name__ == "backward" else given[-1]
        cublas = torch.backends.cuda.matmul
        before = cublas.fp32_precision
        with torch.autocast(given[0].device.type, enabled=False):
            if batch.tf32 == (before == "tf32"):  # once set, PyTorch refuses to read its older name for it
                return run(ctx, *given)
            cublas.fp32_precision = "tf32" if batch.tf32 else "ieee"
            try:
                return run(ctx, *given)
            finally:
                cublas.fp32_precision = before

    return passed


class _GramLoss(torch.autograd.Function):
    @staticmethod
    @_products
    def forward(ctx: FunctionCtx, x_RD: Tensor, temperature: float | Tensor, batch: Batch) -> Tensor:
        n = batch.n
        x_RD, norm_R1 = _unit_rows(x_RD)
        x_WRD = batch.gather(x_RD)
        scores = _Scores(x_WRD, batch)

        # Σ_b e^{S_ab} = 2^{top_a} sum_a: without a shift the largest exponent so far is taken out before any power is
        shifted = scores.shift is not None
        top_VR = x_RD.new_full((len(batch.widths), len(x_RD)), NEVER)
        sum_VR = torch.zeros_like(top_VR)
        for a, b, mirrored in _tiles(batch):
            sides = _sides(batch, a, b)[: 1 + mirrored]  # of one that is not, those of a alone
            for v, s_ab in scores.of(a, b):
                if shifted:
                    s_ab.exp2_()
                for rows, others, dim in sides:
                    top_a, sum_a = top_VR[v, rows.rows], sum_VR[v, rows.rows]
                    if shifted:
                        sum_a += s_ab.sum(dim)
                        continue
                    e_ab = scores.room(0, a, b)
                    out_ab = scores.above_the_positive(s_ab, v, rows, others, dim)
                    s = s_ab if out_ab is None else e_ab.copy_(s_ab).masked_fill_(out_ab, NEVER)
                    old_a = top_a.clone()
                    torch.maximum(old_a, s.amax(dim), out=top_a)
                    torch.sub(s, top_a.unsqueeze(dim), out=e_ab).exp2_()
                    sum_a.mul_(old_a.sub_(top_a).exp2_()).add_(e_ab.sum(dim))
        # with a shift, Z / 2^shift itself: the logarithm of a large Z would round away three of its digits
        z_VR = sum_VR if shifted else top_VR.add_(sum_VR.log2_())
        z_VN, z_of_documents_VN = z_VR[:, :n], z_VR[:, n : 2 * n]
        if "D" in batch.summing:  # Z_i
            add = torch.add if shifted else torch.logaddexp2
            z_VN = add(z_VN, z_of_documents_VN) if "Q" in batch.summing else z_of_documents_VN

        # the loss travels with log Z: all ranks return one value, and a bad step is bad for all of them.
        # Both of its terms hold the same rounding of 1/(τ ln 2), which therefore cancels
        loss_VN = (z_VN.log2() + scores.shift if shifted else z_VN) - scores.positive_WVN[batch.rank] * batch.log2_scale
        loss_N = loss_VN.new_tensor(batch.weights) @ loss_VN * log(2)
        z_WNV, loss_WN1 = batch.gather(torch.cat((z_VN, loss_N[None])).T).split([len(z_VN), 1], dim=2)
        ctx.save_for_backward(x_WRD, norm_R1, z_WNV)
        ctx.batch = batch
        if batch.counts is not None:
            batch.counts.update(scores.counts)
        return loss_WN1.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    @_products
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_WRD, norm_R1, z_WNV = ctx.saved_tensors
        batch, n = ctx.batch, ctx.batch.n
        scores = _Scores(x_WRD, batch._replace(counts=None))
        x_RD, nested = x_WRD[batch.rank], len(batch.widths) > 1
        z_WRV = torch.cat((z_WNV, z_WNV), dim=1)  # negatives have none and are never asked
        dx_RD = torch.zeros_like(x_RD)
        t_VR = x_RD.new_zeros(len(batch.widths), len(x_RD))
        for a, b, mirrored in _tiles(batch, backward=True):
            x_aD, x_bD = x_WRD[a.rank, a.rows], x_WRD[b.rank, b.rows]
            for v, s_ab in scores.of(a, b):
                g_ab = scores.gradient(s_ab, v, a, b, z_WRV[..., v])
                if nested:
                    c_WR = scores.inverse_WVR[:, v]
                    g_ab.mul_(c_WR[a.rank, a.rows, None]).mul_(c_WR[b.rank, b.rows])
                    cosine_ab = torch.mul(g_ab, scores.product_ab, out=scores.room(0, a, b))
                    t_VR[v, a.rows] += cosine_ab.sum(1)
                    if mirrored:
                        t_VR[v, b.rows] += cosine_ab.sum(0)
            for v in reversed(range(len(batch.widths))):  # an entry of x has part in its own and in all larger widths
                g_ab = scores.room(1 + v, a, b) if nested else g_ab
                if v + 1 < len(batch.widths):
                    g_ab.add_(scores.room(2 + v, a, b))
                part = scores.columns[v]
                dx_RD[a.rows, part].addmm_(g_ab, x_bD[:, part])
                if mirrored:
                    dx_RD[b.rows, part].addmm_(g_ab.T, x_aD[:, part])

        scale = grad / (n * batch.temperature)  # a mean over W n pairs, times W
        total = x_RD.new_zeros(())  # Σ_a t_a, in which each product of two rows lies twice
        for chunk in _chunks(batch, batch.rank):
            x, dx, t_V = x_RD[chunk.rows], dx_RD[chunk.rows], t_VR[:, chunk.rows]
            scores.subtract_positives(dx, t_V, chunk)
            if not nested:
                torch.sum(x * dx, 1, out=t_V[0])
            total += t_V.sum()
            rising_V = (t_V * scores.inverse_WVR[batch.rank, :, chunk.rows] ** 2).flip(0).cumsum(0).flip(0)
            for part, t in zip(scores.columns, rising_V, strict=True):  # through x / ‖x‖
                dx[:, part].addcmul_(x[:, part], t[:, None], value=-1)
            dx.mul_(scale / norm_R1[chunk.rows])
        if not ctx.needs_input_grad[1]:
            return dx_RD, None, None
        return dx_RD, -scale * total / (2 * batch.temperature), None


class _Scores:
    """S, what it masks and its gradient, a tile at a time, in buffers that the next tile overwrites."""

    def __init__(self, x_WRD: Tensor, batch: Batch):
        self.x_WRD, self.batch = x_WRD, batch
        n, widths = batch.n, batch.widths
        self.columns = [slice(low, high) for low, high in zip((0, *widths), widths, strict=False)]
        rows = max(chunk.rows.stop - chunk.rows.start for chunk in _chunks(batch, batch.rank))
        self.buffers = x_WRD.new_empty(1 if len(widths) == 1 else 2 + len(widths), rows**2)
        squared_VWR = torch.stack([x_WRD[..., part].square().sum(-1) for part in self.columns]).cumsum(0)
        squared_VWR[-1] = 1  # the whole rows are of unit length already
        self.inverse_WVR = squared_VWR.rsqrt().masked_fill_(squared_VWR == 0, 0).transpose(0, 1)
        products = [x_WRD[:, :n, part] * x_WRD[:, n : 2 * n, part] for part in self.columns]
        cosine_WVN = torch.stack([product.sum(-1) for product in products], 1).cumsum(1)
        self.positive_WVN = cosine_WVN * self.inverse_WVR[:, :, :n] * self.inverse_WVR[:, :, n : 2 * n]
        pair_N = torch.arange(n, device=x_WRD.device)
        self.pair_R = torch.cat((pair_N, pair_N, pair_N.repeat_interleave(batch.k)))
        self.limit_WVR = self.limits() if batch.margin is not None else None
        self.shift = self.common_shift()
        self.minus_shift_a = x_WRD.new_full((rows,), -(self.shift or 0))
        self.scaled: tuple[Chunk | None, Tensor] = None, x_WRD  # rows of a, which many tiles share, times log2_scale
        self.counts = {name: pair_N.new_zeros(()) for name in ("candidates", "masked")}

    def common_shift(self) -> int | None:
        """log2 of a divisor of all e^S that lets none overflow nor any that counts underflow; None if there is none.

        The sum of all stays below the largest number. Z is at least its positive's e^S, and what all candidates that
        underflow have together is less than the rounding of that. At τ = 0.01 and 32,768 rows it takes a positive of
        cosine -0.35 for float32 to have no such divisor. With mask_margin the scores themselves are needed, and on a
        GPU the host would wait for the smallest positive: none is sought.
        """
        number, scale = torch.finfo(self.x_WRD.dtype), self.batch.log2_scale
        if self.batch.margin is not None or self.x_WRD.device.type != "cpu":
            return None
        candidates = ceil(log2(self.x_WRD.shape[0] * self.x_WRD.shape[1])) + 2
        shift = ceil(scale) + candidates - int(log2(number.max))
        lowest = self.positive_WVN.min().item() * scale - shift + log2(number.eps) - candidates
        return shift if lowest > log2(number.tiny) else None

    def limits(self) -> Tensor:
        """What candidates of a query or document may score at most: log2 e^S, or the guide's cosine."""
        n, margin, guide = self.batch.n, self.batch.margin, self.batch.guide_WRG
        if guide is None:
            limit_WVN = (self.positive_WVN + margin) * self.batch.log2_scale
        else:
            limit_WVN = ((guide[:, :n] * guide[:, n : 2 * n]).sum(-1) + margin)[:, None].expand_as(self.positive_WVN)
        return torch.cat((limit_WVN, limit_WVN), 2)

    def room(self, number: int, a: "Chunk", b: "Chunk") -> Tensor:
        """A buffer in the shape of a tile."""
        rows, columns = (chunk.rows.stop - chunk.rows.start for chunk in (a, b))
        return self.buffers[number, : rows * columns].view(rows, columns)

    def of(self, a: "Chunk", b: "Chunk") -> Iterator[tuple[int, Tensor]]:
        """(v, S_ab / ln 2 less the shift) of each width, rising; what does not compete is NEVER."""
        batch = self.batch
        x_aD, x_bD = self.x_WRD[a.rank, a.rows], self.x_WRD[b.rank, b.rows]
        self.same_ab = None
        if a.rank == b.rank and a.pairs.start < b.pairs.stop and b.pairs.start < a.pairs.stop:
            self.same_ab = self.pair_R[a.rows, None] == self.pair_R[b.rows]
        barred_ab = self.barred(a, b)
        if batch.guide_WRG is not None:
            self.guide_ab = batch.guide_WRG[a.rank, a.rows] @ batch.guide_WRG[b.rank, b.rows].T
        self.product_ab = self.room(-1, a, b)
        minus_shift_b = self.minus_shift_a[: len(x_bD)]
        for v, part in enumerate(self.columns):
            if len(self.columns) == 1:
                if self.scaled[0] is not a:
                    self.scaled = a, x_aD * batch.log2_scale
                s_ab = _linear(self.scaled[1], x_bD, minus_shift_b)
            else:
                self.product_ab.addmm_(x_aD[:, part], x_bD[:, part].T, beta=min(v, 1))
                c_a, c_b = self.inverse_WVR[a.rank, v, a.rows, None], self.inverse_WVR[b.rank, v, b.rows]
                s_ab = torch.mul(self.product_ab, c_a * batch.log2_scale, out=self.room(1 + v, a, b))
                torch.addcmul(minus_shift_b, s_ab, c_b, out=s_ab)
            if barred_ab is not None:
                s_ab.masked_fill_(barred_ab, NEVER)
            yield v, s_ab

    def barred(self, a: "Chunk", b: "Chunk") -> Tensor | None:
        """Which of a tile do not compete: rows of one pair where only other pairs' do, and repeated texts."""
        barred_ab = None
        if self.same_ab is not None and a.kind + b.kind not in WITHIN and b.kind + a.kind not in WITHIN:
            barred_ab = self.same_ab
        if (hash_WR3 := self.batch.hash_WR3) is not None:
            repeated_ab = _repeated(hash_WR3[a.rank, a.rows], hash_WR3[b.rank, b.rows])
            if self.same_ab is not None and "N" not in a.kind + b.kind:  # the pair itself
                repeated_ab &= ~self.same_ab
            barred_ab = repeated_ab if barred_ab is None else barred_ab | repeated_ab
        return barred_ab

    def above_the_positive(self, s_ab: Tensor, v: int, rows: "Chunk", others: "Chunk", dim: int) -> Tensor | None:
        """Which candidates of the rows, which lie along the other dimension than `dim`, mask_margin excludes."""
        if self.limit_WVR is None:
            return None
        value_ab = s_ab if self.batch.guide_WRG is None else self.guide_ab
        competes_ab = s_ab > NEVER
        out_ab = (value_ab > self.limit_WVR[rows.rank, v, rows.rows].unsqueeze(dim)) & competes_ab
        if self.same_ab is not None and {rows.kind, others.kind} == {"Q", "D"}:
            out_ab &= ~self.same_ab  # the positive stays, however its product is rounded
        if v == len(self.columns) - 1:
            self.counts["candidates"] += competes_ab.sum()
            self.counts["masked"] += out_ab.sum()
        return out_ab

    def gradient(self, s_ab: Tensor, v: int, a: "Chunk", b: "Chunk", z_WR: Tensor) -> Tensor:
        """G_ab of one width times its weight, in the room of s_ab; z is log2 Z, or with a shift Z / 2^shift."""
        sides = []
        for rows, others, dim in _sides(self.batch, a, b):
            out_ab = self.above_the_positive(s_ab, v, rows, others, dim)
            sides.append((z_WR[rows.rank, rows.rows].unsqueeze(dim), out_ab))
        if self.shift is not None:
            factors = [z.reciprocal() for z, _ in sides]
            factor = factors[0] if len(factors) == 1 else torch.add(*factors, out=self.room(0, a, b))
            g_ab = s_ab.exp2_().mul_(factor)
        else:
            g_ab = None
            for (z, out_ab), e_ab in zip(sides, (self.room(0, a, b), s_ab)[-len(sides) :], strict=True):
                torch.sub(s_ab, z, out=e_ab).exp2_()
                if out_ab is not None:
                    e_ab.masked_fill_(out_ab, 0)
                g_ab = e_ab if g_ab is None else e_ab.add_(g_ab)
        return g_ab if self.batch.weights[v] == 1 else g_ab.mul_(self.batch.weights[v])

    def subtract_positives(self, dx: Tensor, t_V: Tensor, chunk: "Chunk") -> None:
        """dx -= P for rows of the own rank, and what t holds of it."""
        if chunk.kind == "N":
            return
        n, rank = self.batch.n, self.batch.rank
        partner = slice(*(bound + (n if chunk.kind == "Q" else -n) for bound in (chunk.rows.start, chunk.rows.stop)))
        pairs = slice(chunk.pairs.start, chunk.pairs.stop)
        weight_V1 = dx.new_tensor(self.batch.weights)[:, None]
        t_V -= weight_V1 * self.positive_WVN[rank, :, pairs]
        c_V = weight_V1 * self.inverse_WVR[rank, :, chunk.rows] * self.inverse_WVR[rank, :, partner]
        for part, c in zip(self.columns, c_V.flip(0).cumsum(0).flip(0), strict=True):
            dx[:, part].addcmul_(self.x_WRD[rank, partner, part], c[:, None], value=-1)


def _linear(x_MD: Tensor, y_ND: Tensor, bias_N: Tensor) -> Tensor:
    """x yᵀ + bias. Of float32 on a CPU by oneDNN, which on an AMD processor is a tenth faster than MKL.

    Not the other products: of tall matrices it is no faster, and cut columns take it a thousand times as long.
    """
    if ONEDNN is None or x_MD.device.type != "cpu" or x_MD.dtype != torch.float32:
        return F.linear(x_MD, y_ND, bias_N)
    return ONEDNN(x_MD, y_ND, bias_N, "none", [], "")


def _unit_rows(x_RD: Tensor) -> tuple[Tensor, Tensor]:
    """x / ‖x‖ (Eq. 7) and ‖x‖ [R, 1], whatever the magnitude; rows of zeros stay so, with norm ∞: no gradient.

    Here and not through autograd, whose copies of x would raise the peak from 2.5 to 6 times the size of X.
    """
    largest_R1 = torch.linalg.vector_norm(x_RD, float("inf"), dim=1, keepdim=True)
    zero_R1 = largest_R1 == 0
    x_RD = x_RD / largest_R1.masked_fill_(zero_R1, 1)
    norm_R1 = torch.linalg.vector_norm(x_RD, dim=1, keepdim=True).masked_fill_(zero_R1, float("inf"))
    return x_RD.div_(norm_R1), norm_R1.mul_(largest_R1)


class Chunk(NamedTuple):
    """Some rows of a rank, all of one kind, and the pairs of that rank they belong to."""

    kind: str
    rank: int
    rows: slice
    pairs: range


def _chunks(batch: Batch, rank: int) -> list[Chunk]:
    """The R rows of a rank, at most chunk_rows of one kind at a time."""
    chunks = []
    for kind, offset, width in (("Q", 0, 1), ("D", batch.n, 1), ("N", 2 * batch.n, batch.k)):
        for start in range(0, batch.n * width, batch.chunk_rows):
            stop = min(start + batch.chunk_rows, batch.n * width)
            pairs = range(start // width, (stop - 1) // width + 1)
            chunks.append(Chunk(kind, rank, slice(offset + start, offset + stop), pairs))
    return chunks


def _tiles(batch: Batch, backward: bool = False) -> Iterator[tuple[Chunk, Chunk, bool]]:
    """All candidates of the own rows, as (a, b, mirrored): b are own rows too, and the tile (b, a) will not come.

    Tiles that only serve the sums of other ranks' rows come backward alone.
    """
    own = _chunks(batch, batch.rank)
    others = [chunk for rank in range(batch.world) if rank != batch.rank for chunk in _chunks(batch, rank)]
    for i, a in enumerate(own):
        for b in own[i:] + others:
            mirrored = b.rank == a.rank and b is not a
            if a.kind + b.kind in batch.sums or ((mirrored or backward) and b.kind + a.kind in batch.sums):
                yield a, b, mirrored


def _sides(batch: Batch, a: Chunk, b: Chunk) -> list[tuple[Chunk, Chunk, int]]:
    """The sides of a tile whose rows sum the others: (rows, others, the dimension along which the others lie)."""
    return [
        (rows, others, dim) for rows, others, dim in ((a, b, 1), (b, a, 0)) if rows.kind + others.kind in batch.sums
    ]


def _repeated(a_3: Tensor, b_3: Tensor) -> Tensor:
    """Which of the texts a [., 3] repeats a text of the pair of b [., 3], or the other way round: bool [a, b]."""
    return ((a_3[:, None, :1] == b_3[:, 1:]) | (a_3[:, None, 1:] == b_3[:, :1])).any(2)


def _chunk_rows(x_RD: Tensor, tiles: int) -> int:
    """Rows of a tile. CPU: 512 for one thread, 1,024 for two (fastest of 256 to 2,048 on a core with 1 MB of L2).

    CUDA: all `tiles` in half of the free memory; more than 4,096 rows only waste half of the larger diagonal tiles.
    """
    if x_RD.device.type != "cuda":
        return min(512 * isqrt(2 * torch.get_num_threads()), 2048)
    free = torch.cuda.mem_get_info(x_RD.device)[0]
    free += torch.cuda.memory_reserved(x_RD.device) - torch.cuda.memory_allocated(x_RD.device)
    return min(max(isqrt(free // (2 * tiles) // x_RD.element_size()), 256), 4096)
