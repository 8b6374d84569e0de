"""The contrastive losses of the paper (Eqs. 3 and 5-7): exact, in memory linear in the number of pairs.

X holds one unit vector a row: the queries, then the documents, then the hard negatives; S = X Xᵀ / τ. Which entries of
S compete is a small table (IMPROVED, VANILLA). Every query row, and in the improved loss every document row, sums e^S
over its candidates; Z_i is the sum of row q_i, in the improved loss plus that of row d_i, and

    L = 1/n Σ_i (log Z_i - S[q_i, d_i])                                                          Eqs. 3 and 5
    dL/dX = (G X - P) / (n τ),   G_ab = e^{S_ab} (1/Z_a + 1/Z_b),   P_q = d, P_d = q, P_negative = 0

with Z of the pair a row belongs to, and 1/Z = 0 for rows that do not sum. S and G are symmetric, so one tile of S
serves the rows on both of its sides. S is never whole in memory: its tiles are computed forward, for Z, and again
backward, for G. Across ranks, X and log Z are gathered once each; a rank then has all that its own rows of G X need.

Shapes: N pairs a rank, K negatives a pair, D width, R = N (2 + K) rows a rank, W ranks.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from math import isqrt, log
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


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
    temperature: float = 0.01,
    chunk_rows: int | None = None,
    ranks: Ranks | None = None,
    text_hashes: Tensor | None = None,
    tf32: bool = False,
) -> Tensor:
    """Mean of Eq. 5 over all pairs, in nats; Z is Eq. 6, so the positive counts twice and perfect embeddings cost ln 2.

    Row i of d_ND is the positive of row i of q_ND. Hard negatives n_NKD[i] enlarge Z: query i competes with all
    negatives of the batch, document i with those of the other pairs. Embeddings come raw; a zero vector has cosine 0
    to everything and takes no gradient. fp16 and bf16 are computed in float32, under autocast too.

    With `ranks`, each rank passes its own N pairs (as many on every rank), the value is the mean over the pairs of all
    ranks, and the gradient is that of the own rows times W: averaged over the ranks, as DistributedDataParallel
    does, it is what one process gets from the whole batch. `chunk_rows` bounds the tiles and changes no result.
    With `text_hashes` (int64 [N (2 + K)]: queries, documents, negatives of query 0, of query 1, ...) a text competes
    with no repetition of its own pair's texts, on whichever rank that is; the paper has no such mask.
    `tf32` lets CUDA round the factors of the score matrix to 10 bits, as fast as half precision: on random vectors the
    gradient is then off by 7e-4, below the 3e-3 of a language model in bf16.
    ValueError where shapes, temperature or chunk_rows cannot be meant.
    """
    return _loss(IMPROVED, q_ND, d_ND, n_NKD, temperature, chunk_rows, ranks, text_hashes, tf32)


def contrastive_loss(
    q_ND: Tensor,
    d_ND: Tensor,
    n_NKD: Tensor | None = None,
    *,
    temperature: float = 0.01,
    chunk_rows: int | None = None,
    ranks: Ranks | None = None,
    text_hashes: Tensor | None = None,
    tf32: bool = False,
) -> Tensor:
    """Mean of Eq. 3 over all pairs, in nats: query i against all documents and all hard negatives of the batch.

    All else as in `improved_contrastive_loss`.
    """
    return _loss(VANILLA, q_ND, d_ND, n_NKD, temperature, chunk_rows, ranks, text_hashes, tf32)


class Candidates(NamedTuple):
    """Which entries of S a loss sums. Kinds of rows: Q queries, D documents, N negatives."""

    summed: str  # kinds whose rows have a Z
    meet: dict[str, bool]  # kinds that compete -> whether they do so within pair i


# Eq. 6: terms 1 and 3 are QD seen from its two sides, terms 2 and 4 are QQ and DD with j ≠ i
IMPROVED = Candidates("QD", {"QQ": False, "QD": True, "DD": False, "QN": True, "DN": False})
VANILLA = Candidates("Q", {"QD": True, "QN": True})


class Batch(NamedTuple):
    candidates: Candidates
    n: int
    k: int
    temperature: float
    chunk_rows: int
    ranks: Ranks | None
    hash_WR3: Tensor | None  # of each row's text, of its pair's query, of its pair's document; a negative's own thrice
    tf32: bool = False

    @property
    def rank(self) -> int:
        return 0 if self.ranks is None else self.ranks.rank

    @property
    def world(self) -> int:
        return 1 if self.ranks is None else self.ranks.world_size

    def gather(self, x: Tensor) -> Tensor:
        """[n, ...] of each rank -> [W, n, ...]."""
        return (x if self.ranks is None else self.ranks.all_gather(x)).view(self.world, *x.shape)


def _loss(candidates, q_ND, d_ND, n_NKD, temperature, chunk_rows, ranks, text_hashes, tf32) -> Tensor:
    q, d = list(q_ND.shape), list(d_ND.shape)
    if len(q) != 2 or q != d:
        raise ValueError(f"queries {q} and documents {d} do not agree; both must be [pairs, width]")
    if q[0] == 0:
        raise ValueError(f"queries {q} and documents {d} hold 0 pairs, whose mean loss does not exist; pass at least 1")
    if n_NKD is not None and (n_NKD.ndim != 3 or [n_NKD.shape[0], n_NKD.shape[2]] != q):
        raise ValueError(f"negatives {list(n_NKD.shape)} must be [{q[0]}, any number, {q[1]}] beside queries {q}")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be above 0; the paper's is 0.01")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows {chunk_rows} must be at least 1; None chooses it")
    with torch.autocast(q_ND.device.type, enabled=False):
        x_RD = torch.cat([q_ND, d_ND] if n_NKD is None else [q_ND, d_ND, n_NKD.flatten(0, 1)])
        x_RD = x_RD.to(torch.promote_types(x_RD.dtype, torch.float32))
        chunk_rows = chunk_rows or _chunk_rows(x_RD)
        batch = Batch(candidates, q[0], len(x_RD) // q[0] - 2, temperature, chunk_rows, ranks, None, tf32)
        if text_hashes is not None:
            if text_hashes.shape != (len(x_RD),):
                raise ValueError(f"text_hashes {list(text_hashes.shape)} must be [{len(x_RD)}], one a text")
            query_N, document_N, negative_NK = text_hashes.to(x_RD.device).split([q[0], q[0], len(x_RD) - 2 * q[0]])
            rows = [torch.stack((own_N, query_N, document_N), 1) for own_N in (query_N, document_N)]
            batch = batch._replace(hash_WR3=batch.gather(torch.cat([*rows, negative_NK[:, None].expand(-1, 3)])))
        return _GramLoss.apply(x_RD, batch)


def _products(run: Callable) -> Callable:
    """Runs a pass of the loss with CUDA's float32 products in the precision that its batch asks for, and no longer."""

    @wraps(run)
    def passed(ctx, *given):
        batch = ctx.batch if run.__name__ == "backward" else given[1]
        cublas = torch.backends.cuda.matmul
        before = cublas.fp32_precision
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
    def forward(ctx, x_RD: Tensor, batch: Batch) -> Tensor:
        n, summed = batch.n, batch.candidates.summed
        x_RD, norm_R1 = _unit_rows(x_RD)
        x_WRD = batch.gather(x_RD)

        # Σ_b e^{S_ab} = 2^{top_a} sum_a: the largest exponent so far is taken out before any power is
        top_R = x_RD.new_full((len(x_RD),), torch.finfo(x_RD.dtype).min)
        sum_R = torch.zeros_like(top_R)
        for a, b, s_ab, room_ab, mirrored in _tiles(x_WRD, batch):
            for side, dim in ((a, 1), (b, 0)) if mirrored else ((a, 1),):
                if side.kind in summed:
                    old = top_R[side.rows].clone()
                    top = torch.maximum(old, s_ab.amax(dim), out=top_R[side.rows])
                    e_ab = torch.sub(s_ab, top.unsqueeze(dim), out=room_ab).exp2_()
                    sum_R[side.rows].mul_(old.sub_(top).exp2_()).add_(e_ab.sum(dim))
        z_R = top_R.add_(sum_R.log2_())
        z_N = torch.logaddexp2(z_R[:n], z_R[n : 2 * n]) if "D" in summed else z_R[:n]  # log2 Z_i

        # the loss travels with log Z: all ranks return one value, and a bad step is bad for all of them
        positive_N = (x_RD[:n] * x_RD[n : 2 * n]).sum(1) / batch.temperature
        z_WN, loss_WN = batch.gather(torch.stack((z_N, z_N * log(2) - positive_N), dim=1)).unbind(2)
        ctx.save_for_backward(x_WRD, norm_R1, z_WN)
        ctx.batch = batch
        return loss_WN.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    @_products
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x_WRD, norm_R1, z_WN = ctx.saved_tensors
        batch, n = ctx.batch, ctx.batch.n
        x_RD = x_WRD[batch.rank]
        z_WR = z_WN.new_full(x_WRD.shape[:2], float("inf"))  # 1/Z = 0
        for kind, rows in (("Q", slice(n)), ("D", slice(n, 2 * n))):
            if kind in batch.candidates.summed:
                z_WR[:, rows] = z_WN

        dx_RD = torch.zeros_like(x_RD)
        dx_RD[:n].sub_(x_RD[n : 2 * n])
        dx_RD[n : 2 * n].sub_(x_RD[:n])
        for a, b, s_ab, g_ab, mirrored in _tiles(x_WRD, batch, backward=True):
            torch.sub(s_ab, z_WR[a.rank, a.rows, None], out=g_ab).exp2_()
            g_ab.add_(s_ab.sub_(z_WR[b.rank, b.rows]).exp2_())
            dx_RD[a.rows].addmm_(g_ab, x_WRD[b.rank, b.rows])
            if mirrored:
                dx_RD[b.rows].addmm_(g_ab.T, x_WRD[a.rank, a.rows])

        scale = grad / (n * batch.temperature)  # a mean over W n pairs, times W
        for chunk in _chunks(batch, batch.rank):  # through x / ‖x‖: (dx - x (x·dx)) / ‖x‖
            x, dx = x_RD[chunk.rows], dx_RD[chunk.rows]
            dx.addcmul_(x, (x * dx).sum(1, keepdim=True), value=-1).mul_(scale / norm_R1[chunk.rows])
        return dx_RD, None


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


def _tiles(x_WRD: Tensor, batch: Batch, backward: bool = False) -> Iterator[tuple[Chunk, Chunk, Tensor, Tensor, bool]]:
    """All candidates of the own rows, as (a, b, S_ab / ln 2, room for as many numbers, mirrored).

    mirrored: b are own rows too and the tile (b, a) will not come. The next tile overwrites both tensors.
    Tiles that only serve the sums of other ranks' rows come backward alone.
    """
    summed, meet = batch.candidates
    own = _chunks(batch, batch.rank)
    others = [chunk for rank in range(batch.world) if rank != batch.rank for chunk in _chunks(batch, rank)]
    pair_N = torch.arange(batch.n, device=x_WRD.device)
    pair_R = torch.cat((pair_N, pair_N, pair_N.repeat_interleave(batch.k)))
    buffers = x_WRD.new_empty(2, max(chunk.rows.stop - chunk.rows.start for chunk in own) ** 2)
    for i, a in enumerate(own):
        for b in own[i:] + others:
            mirrored = b.rank == a.rank and b is not a
            within = meet.get(a.kind + b.kind, meet.get(b.kind + a.kind))
            if within is None or not (backward or mirrored or a.kind in summed):
                continue
            x_aD, x_bD = x_WRD[a.rank, a.rows], x_WRD[b.rank, b.rows]
            s_ab, room_ab = buffers[:, : len(x_aD) * len(x_bD)].view(2, len(x_aD), len(x_bD))
            # powers of 2, because exp2 costs a third of exp on a CPU
            s_ab.addmm_(x_aD, x_bD.T, beta=0, alpha=1 / (batch.temperature * log(2)))
            shared = a.rank == b.rank and a.pairs.start < b.pairs.stop and b.pairs.start < a.pairs.stop
            if shared and not within:
                s_ab.masked_fill_(pair_R[a.rows, None] == pair_R[b.rows], float("-inf"))
            if batch.hash_WR3 is not None:
                repeated_ab = _repeated(batch.hash_WR3[a.rank, a.rows], batch.hash_WR3[b.rank, b.rows])
                if shared and "N" not in a.kind + b.kind:  # the pair itself
                    repeated_ab &= pair_R[a.rows, None] != pair_R[b.rows]
                s_ab.masked_fill_(repeated_ab, float("-inf"))
            yield a, b, s_ab, room_ab, mirrored


def _repeated(a_3: Tensor, b_3: Tensor) -> Tensor:
    """Which of the texts a [., 3] repeats a text of the pair of b [., 3], or the other way round: bool [a, b]."""
    return ((a_3[:, None, :1] == b_3[:, 1:]) | (a_3[:, None, 1:] == b_3[:, :1])).any(2)


def _chunk_rows(x_RD: Tensor) -> int:
    """Rows of a tile. CPU: 512 for one thread, 1,024 for two (fastest of 256 to 2,048 on a core with 1 MB of L2).

    CUDA: two tiles in half of the free memory; more than 4,096 rows only waste half of the larger diagonal tiles.
    """
    if x_RD.device.type != "cuda":
        return min(512 * isqrt(2 * torch.get_num_threads()), 2048)
    free = torch.cuda.mem_get_info(x_RD.device)[0]
    free += torch.cuda.memory_reserved(x_RD.device) - torch.cuda.memory_allocated(x_RD.device)
    return min(max(isqrt(free // 4 // x_RD.element_size()), 256), 4096)
