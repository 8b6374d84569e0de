"""The improved loss against its dense form and sentence-transformers' on raw embeddings: time and peak memory.

`python -m gte.benchmarks.loss VARIANT N WIDTH DEVICE` prints one process's peak in bytes.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from gte.benchmarks.measure import compare, in_child, synchronize, take_turns
from gte.errors import UserError
from gte.loss import improved_contrastive_loss
from gte.memory import peak_memory


def dense(q_ND: Tensor, d_ND: Tensor, temperature: float = 0.01) -> Tensor:
    """Eqs. 5-7 with the four terms of Eq. 6 as four [N, N] blocks in one row, as one would first write them."""
    q_ND, d_ND = F.normalize(q_ND), F.normalize(d_ND)
    qd_NN = q_ND @ d_ND.T / temperature
    qq_NN = (q_ND @ q_ND.T / temperature).fill_diagonal_(-torch.inf)
    dd_NN = (d_ND @ d_ND.T / temperature).fill_diagonal_(-torch.inf)
    log_z_N = torch.cat([qd_NN, qq_NN, qd_NN.T, dd_NN], dim=1).logsumexp(1)
    return (log_z_N - qd_NN.diagonal()).mean()


def dense_by_block(q_ND: Tensor, d_ND: Tensor, temperature: float = 0.01) -> Tensor:
    """The same with a log-sum-exp a block: no copy of the blocks, the best that we know without tiles."""
    q_ND, d_ND = F.normalize(q_ND), F.normalize(d_ND)
    qd_NN = q_ND @ d_ND.T / temperature
    qq_NN = (q_ND @ q_ND.T / temperature).fill_diagonal_(-torch.inf)
    dd_NN = (d_ND @ d_ND.T / temperature).fill_diagonal_(-torch.inf)
    log_z_4N = torch.stack([qd_NN.logsumexp(1), qq_NN.logsumexp(1), qd_NN.logsumexp(0), dd_NN.logsumexp(1)])
    return (log_z_4N.logsumexp(0) - qd_NN.diagonal()).mean()


def sentence_transformers_loss(temperature: float = 0.01) -> Callable[[Tensor, Tensor], Tensor]:
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    four = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    loss = MultipleNegativesRankingLoss(None, scale=1 / temperature, directions=four, partition_mode="joint")
    return lambda q_ND, d_ND: loss.compute_loss_from_embeddings([q_ND, d_ND], None)


def sentence_transformers_cached(widths: tuple[int, ...] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Its loss in blocks of 1,024 rows, with backward; with widths within its MatryoshkaLoss's wrapper."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.losses.matryoshka import CachedLossDecorator

    four = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    loss = CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),  # it looks at its model's first module
        scale=100,
        mini_batch_size=1024,
        directions=four,
        partition_mode="joint",
        show_progress_bar=False,
    )
    calculate = (
        loss.calculate_loss if widths is None else CachedLossDecorator(loss.calculate_loss, widths, [1] * len(widths))
    )
    return lambda q_ND, d_ND: calculate([[q_ND], [d_ND]], with_backward=True)


def variants() -> dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]]:
    """Name -> a function that makes the loss function; sentence-transformers where it is installed.

    What a loss function returns takes part in no graph where it has gone backward itself.
    """
    makers = {
        "ours": lambda: improved_contrastive_loss,
        "dense": lambda: dense,
        "dense_by_block": lambda: dense_by_block,
    }
    if find_spec("sentence_transformers"):
        makers["sentence_transformers"] = sentence_transformers_loss
        makers["sentence_transformers_cached"] = sentence_transformers_cached
    return makers


def nested_variants(widths: tuple[int, ...]) -> dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]]:
    """The same for the sum of the losses at nested widths."""
    makers = {"ours_nested": lambda: partial(improved_contrastive_loss, widths=widths)}
    if find_spec("sentence_transformers"):
        makers["sentence_transformers_nested"] = lambda: sentence_transformers_cached(widths)
    return makers


def nested_widths(width: int) -> tuple[int, ...]:
    """The full width and three parts: of 384 these are 384, 256, 128 and 64."""
    return width, 2 * width // 3, width // 3, width // 6


def embeddings(n: int, width: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """n pairs with cosines around 0.7, float32, that want a gradient."""
    g = torch.Generator().manual_seed(0)
    q_ND = torch.randn(n, width, generator=g)
    d_ND = torch.randn(n, width, generator=g).add_(q_ND)
    return q_ND.to(device).requires_grad_(), d_ND.to(device).requires_grad_()


def step(loss: Callable, q_ND: Tensor, d_ND: Tensor) -> float:
    """Seconds of one forward and backward."""
    q_ND.grad = d_ND.grad = None
    synchronize(q_ND.device.type)
    start = time.perf_counter()
    value = loss(q_ND, d_ND)
    if value.requires_grad:
        value.backward()
    synchronize(q_ND.device.type)
    return time.perf_counter() - start


def memory(variant: str, n: int, width: int, device: str) -> dict:
    """Bytes above the inputs, gradients included, at the peak of one forward and backward."""
    loss = (variants() | nested_variants(nested_widths(width)))[variant]()
    step(loss, *embeddings(64, width, device))  # libraries load and start their threads
    batch = embeddings(n, width, device)
    before = restart_peak(device)
    step(loss, *batch)
    return {"peak": peak_memory(device) - before}


def restart_peak(device: str) -> int:
    """Bytes from which a peak counts: a process's peak so far; or what lies on a GPU, whose peak starts anew."""
    if device == "cpu":
        return peak_memory()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


LARGE = (("ours", 16384, 384), ("ours", 65536, 64))


def run(
    n: int = 8192,
    width: int = 384,
    rounds: int = 5,
    device: str = "cpu",
    memory_of: tuple[tuple[str, int, int], ...] | None = None,
) -> list[dict]:
    """A row of time a variant, and a row of memory a (variant, n, width); by default all variants, and ours at LARGE.

    Time: median seconds of a forward and backward, and its ratio to ours round by round. The variants take turns
    within a round, so that what else the machine does falls on all of them. Memory: MiB above the inputs, on the same
    device, in a process of its own. Raises UserError where `memory_of` names no variant.
    """
    makers = variants() | nested_variants(nested_widths(width))
    for name, *_ in memory_of or ():
        if name not in makers:
            raise UserError(f"benchmark.memory_of: {name} is none of {', '.join(makers)}")
    losses = {name: make() for name, make in makers.items()}
    for loss in losses.values():
        step(loss, *embeddings(min(n, 512), width, device))
    batch = embeddings(n, width, device)
    turns = {name: partial(lambda loss: {"seconds": step(loss, *batch)}, loss) for name, loss in losses.items()}
    measured = take_turns(turns, rounds)
    rows = compare(measured, "ours", n=n, width=width, device=device, threads=torch.get_num_threads())
    for name, n_, width_ in memory_of if memory_of is not None else [(name, n, width) for name in losses] + list(LARGE):
        peak = in_child("gte.benchmarks.loss", name, n_, width_, device)["peak"]
        rows.append({"variant": name, "n": n_, "width": width_, "device": device, "peak_mb": peak / 2**20})
    return rows


if __name__ == "__main__":
    print(json.dumps(memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
