"""Chunks that are run a second time instead of being remembered: the memory of one chunk, and one backward pass.

`torch.utils.checkpoint` drops a chunk's activations too, but keeps the nodes of its graph; in a processor's heap these
lie between the holes that the activations leave, and the process grows with every chunk. Here a chunk leaves nothing
but its rows of the result.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from gte.attention import at_least_float32
from gte.memory import EvenMemory


def run_again(
    run: Callable[[Sequence], Tensor], chunks: Sequence[Sequence], parameters: Sequence[Tensor], device: torch.device
) -> Tensor:
    """The rows of run(chunk) of all chunks, one below the other, with gradients of `parameters` and of nothing else.

    run: n things -> [n, D].
    In the backward pass the chunks run again in the same order, with the same random numbers and precision. Each
    parameter then gets the sum over all chunks at once, made in at least float32, so that DDP reduces it once.
    """
    return RunAgain.apply(run, chunks, device, *parameters)


class RunAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, run: Callable, chunks: Sequence, device: torch.device, *parameters):
        ctx.run, ctx.chunks, ctx.device, ctx.parameters = run, chunks, device, parameters
        ctx.random = random_state(device)
        ctx.precision = precision(device)
        ctx.rows = [len(chunk) for chunk in chunks]
        even = even_memory(chunks, device)
        for number, chunk in enumerate(chunks):
            part = run(chunk)
            if number == 0:
                result = part.new_empty(sum(ctx.rows), part.shape[1])
                places = result.split(ctx.rows)
            places[number].copy_(part)
            del part
            even()
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor):
        sums = [None] * len(ctx.parameters)
        even = even_memory(ctx.chunks, ctx.device)
        devices = [] if ctx.device.type == "cpu" else [ctx.device]
        with torch.random.fork_rng(devices, device_type=ctx.device.type), torch.enable_grad():
            set_random_state(ctx.random, ctx.device)
            for chunk, rows in zip(ctx.chunks, gradient.split(ctx.rows), strict=True):
                with torch.autocast(**ctx.precision):
                    part = ctx.run(chunk)
                grads = torch.autograd.grad(part, ctx.parameters, rows, allow_unused=True)
                add(sums, grads)
                del part, grads
                even()
        grads = (s if s is None else s.to(p.dtype) for s, p in zip(sums, ctx.parameters, strict=True))
        return None, None, None, *grads


def even_memory(chunks: Sequence, device: torch.device) -> Callable[[], None]:
    """Make the function to call after each chunk."""
    return EvenMemory() if device.type == "cpu" and len(chunks) > 16 else lambda: None


def add(sums: list[Tensor | None], grads: Sequence[Tensor | None]) -> None:
    """Adds gradients to sums in at least float32; None is no gradient."""
    grown = [number for number, grad in enumerate(grads) if grad is not None and sums[number] is not None]
    if grown:  # together: on a GPU 197 small additions a chunk are bound by their launches
        torch._foreach_add_([sums[number] for number in grown], [grads[number] for number in grown])
    for number, grad in enumerate(grads):
        if grad is not None and sums[number] is None:
            sums[number] = grad.to(at_least_float32(grad))


@contextmanager
def separate_casts():
    """Under autocast, casts each weight once a chunk, not once for all.

    The gradients of a weight's chunks meet in the precision of its copy where there is one copy: in bf16 those of 136
    chunks came to 3.1 % beside the right sum, those of 17 to 1.1 %, instead of 0.3 %.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def precision(device: torch.device) -> dict:
    """The arguments of the autocast context that holds now."""
    kind = device.type
    enabled = torch.is_autocast_enabled(kind)
    return {"device_type": kind, "dtype": torch.get_autocast_dtype(kind), "enabled": enabled, "cache_enabled": False}


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Read the state of the processor's generator and of the device's."""
    of_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return torch.get_rng_state(), of_device


def set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)
