"""Chunks of a step on several cores at once: a thread a share of them, each with one of PyTorch's own threads.

Between two large products a step has many small operations, which gain nothing from a second core; two chunks at a time
do. Forward and backward alike: each thread keeps the graph of its own chunks and walks it back.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from gte.recompute import add, precision


def shares(chunks: int, device: torch.device, lm: nn.Module) -> int:
    """How many threads a step's chunks are shared out to; 1 where that does not pay or would not be the same step.

    Dropout draws from one generator, in an order that threads would not keep: with it a step has one thread.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or not torch.is_grad_enabled() or chunks < 2 * threads or (lm.training and has_dropout(lm)):
        return 1
    return threads


def has_dropout(lm: nn.Module) -> bool:
    """Whether a language model drops anything in train mode, by its modules or by its configuration."""
    settings = [value for key, value in lm.config.to_dict().items() if "drop" in key and isinstance(value, float)]
    return any(settings) or any(part.p > 0 for part in lm.modules() if isinstance(part, nn.Dropout))


def run_side_by_side(
    run: Callable[[Sequence], Tensor], chunks: Sequence[Sequence], parameters: Sequence[Tensor], threads: int
) -> Tensor:
    """The rows of run(chunk) of all chunks, one below the other, with gradients of `parameters` and of nothing else.

    Args:
        run: n things -> [n, D]; is called by several threads at a time.
        chunks: thread t gets every threads-th of them from the t-th on, so that a run is the same each time.
        threads: at least 2, and not more than there are chunks.
    """
    return SideBySide.apply(run, chunks, threads, *parameters)


class SideBySide(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, chunks, threads, *parameters):
        parts: list[Tensor | None] = [None] * len(chunks)
        context = precision(torch.device("cpu"))

        def work(share: range) -> None:
            with torch.enable_grad(), torch.autocast(**context):  # both are a thread's own
                for number in share:
                    parts[number] = run(chunks[number])

        ctx.shares = [range(first, len(chunks), threads) for first in range(threads)]
        in_threads(work, ctx.shares)
        ctx.parts, ctx.parameters = parts, parameters
        return torch.cat([part.detach() for part in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        rows = gradient.split([len(part) for part in ctx.parts])
        found = [None] * len(ctx.shares)

        def work(share: range) -> None:
            outputs = [ctx.parts[number] for number in share]
            given = [rows[number] for number in share]
            found[share.start] = torch.autograd.grad(outputs, ctx.parameters, given, allow_unused=True)

        in_threads(work, ctx.shares)
        ctx.parts = None
        sums: list[Tensor | None] = [None] * len(ctx.parameters)
        for grads in found:
            add(sums, grads)
        grads = (s if s is None else s.to(p.dtype) for s, p in zip(sums, ctx.parameters, strict=True))
        return None, None, None, *grads


def in_threads(work: Callable[[range], None], shares: list[range]) -> None:
    """Calls `work` with every share, each in a thread with one of PyTorch's threads. Raises as the first of them."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(len(shares), initializer=torch.set_num_threads, initargs=(1,)) as workers:
            list(workers.map(work, shares))
    finally:
        torch.set_num_threads(threads)  # what a thread sets is also what new ones begin with
