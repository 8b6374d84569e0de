"""Texts to vectors without a gradient: in blocks, in a precision, on all cores. What `Encoder.encode` does.

Shapes: N texts, T tokens of all texts end to end, D width.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from gte.attention import Runs, on_cuda
from gte.chunks import Placed, Plan, place, plan_chunks
from gte.cores import CORES
from gte.errors import UserError
from gte.inputs import pack
from gte.models.frozen import FrozenLayers, calibration_texts, first_hidden, why_not
from gte.modes import evaluating, lock_of
from gte.precision import AUTOCAST, PRECISIONS, cast_weights
from gte.prompts import prompt_length

if TYPE_CHECKING:
    from gte.encoder import Encoder

ENCODE_BLOCK = 8_192  # texts tokenised at a time
Item = TypeVar("Item")


@torch.inference_mode()
def encode(
    encoder: "Encoder",
    texts: list[str],
    *,
    batch_tokens: int | None,
    normalize: bool,
    precision: str,
    progress: bool,
    prompt: str,
) -> np.ndarray:
    """`Encoder.encode`, where the arguments are described; `prompt` is the words before each text."""
    if isinstance(texts, str) or not (hasattr(texts, "__len__") and hasattr(texts, "__getitem__")):
        raise TypeError(f"encode takes a list of texts, got one {type(texts).__name__}")
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision} is unknown; choose {', '.join(PRECISIONS)}")
    skip = prompt_length(encoder.tokenizer, prompt, encoder.max_length) if prompt else 0
    if batch_tokens is None:  # small chunks stay in a processor's cache and pad little; a GPU wants to be filled
        batch_tokens = max(2_048 if encoder.device.type == "cpu" else 65_536, encoder.max_length)
    result_ND = np.empty((len(texts), encoder.dimensions), dtype=np.float32)
    bar = tqdm(total=len(texts), unit=" texts", disable=not progress, leave=False)
    with lock_of(encoder), evaluating(encoder), inference_in(encoder, precision), bar:
        packed, token_ids = encoder.packed, encoder.token_ids()  # here: autocast is another one in each thread

        def prepare(start: int) -> tuple[int, np.ndarray, np.ndarray, Plan]:
            ids, lengths = token_ids(texts[start : start + ENCODE_BLOCK], start, prompt)
            return start, ids, lengths, plan_chunks(lengths, batch_tokens, packed)

        for start, ids, lengths, plan in ahead(prepare, range(0, len(texts), ENCODE_BLOCK)):
            encoder.counts.update(texts=len(lengths), cut=int((lengths >= encoder.max_length).sum()))
            skip_N = None if encoder.settings.include_prompt or not skip else np.full_like(lengths, skip)
            placed = place(torch.from_numpy(ids), lengths, plan, encoder.device, skip_N)
            parts = []
            for chunk, part in zip(placed.chunks, embed_chunks(encoder, placed), strict=True):
                parts.append(part)
                bar.update(len(chunk))
            x_ND = torch.cat(parts)[placed.back_N, : encoder.dimensions]
            x_ND = nn.functional.normalize(x_ND, dim=-1) if normalize else x_ND
            result_ND[start : start + len(lengths)] = to_host(x_ND)  # the one wait of a block
    return result_ND


def embed_chunks(encoder: "Encoder", placed: Placed) -> Iterator[Tensor]:
    """Embed each chunk in turn; of frozen layers one chunk a thread, since the steps between products are short."""
    CORES.look_again()
    threads = torch.get_num_threads()
    if not encoder.frozen_in_use or threads == 1 or len(placed.chunks) < 2 * threads:
        yield from (encoder.embed(placed, chunk) for chunk in placed.chunks)
        return

    @torch.inference_mode()  # a thread has a mode of its own
    def embed(chunk: range) -> Tensor:
        return encoder.embed(placed, chunk)

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield from workers.map(embed, placed.chunks)
    finally:
        torch.set_num_threads(threads)  # what a thread sets is also what new ones begin with


@contextmanager
def inference_in(encoder: "Encoder", precision: str):
    """Make `embed` compute in a precision within a with block, by frozen layers where they fit.

    Args:
        precision: one of PRECISIONS.
    Raises: UserError for int8 where the model does not allow it.
    """
    if on_cuda(encoder.device) or not encoder.packed or precision == "fp16":
        reason = "it is for packed texts on a CPU"
    else:
        reason = why_not(encoder.lm, precision)
    if reason is not None:
        if precision == "int8":
            raise UserError(f"precision=int8 cannot be: {reason}; choose fp32 or bf16")
        with computing_in(encoder, AUTOCAST[precision]):
            yield
        return
    if encoder.frozen is None or not encoder.frozen.serves(encoder.lm, precision):
        encoder.frozen = None  # first, or both would be there at once
        encoder.frozen = FrozenLayers(encoder.lm, precision, calibration(encoder) if precision == "int8" else None)
    encoder.frozen_in_use = True
    try:
        yield
    finally:
        encoder.frozen_in_use = False


def calibration(encoder: "Encoder") -> tuple[Tensor, Runs]:
    """Compute the first layer's input for `calibration_texts`, [T, D], and the runs of their lengths."""
    ids, lengths = encoder.token_ids()(calibration_texts(encoder.tokenizer, min(encoder.max_length, 512)), 0, "")
    order = np.argsort(-lengths, kind="stable")
    starts = torch.from_numpy((lengths.cumsum() - lengths)[order])
    ids, positions, runs, _ = pack(
        torch.from_numpy(ids), starts, torch.from_numpy(lengths[order]), lengths[order], encoder.lm.config
    )
    return first_hidden(encoder.lm, ids, positions), runs


@contextmanager
def computing_in(encoder: "Encoder", dtype: torch.dtype | None):
    """Within, the language model multiplies in this type; None changes nothing.

    On a GPU by a copy of its weights: so the activations between the products are as narrow, and no cast is left.
    Elsewhere by one autocast context, which casts each weight once and keeps sums and normalisation in float32.
    """
    if dtype is None:
        yield
    elif on_cuda(encoder.device):
        with cast_weights(encoder.lm, dtype):
            yield
    else:
        with torch.autocast(encoder.device.type, dtype):
            yield


def ahead(make: Callable[[int], Item], numbers: Sequence[int]) -> Iterator[Item]:
    """make(number) of each number in order; the next one is made in a thread while the caller works with one."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for number, following in zip_longest(numbers, numbers[1:]):
            item = make(number) if coming is None else coming.result()
            coming = None if following is None else thread.submit(make, following)
            yield item


def to_host(x: Tensor) -> np.ndarray:
    """Copy a tensor into an array of the host."""
    return x.cpu().numpy()


def cut_line(counts: Counter[str], max_length: int) -> str:
    """Say how many of the texts that `Encoder.counts` holds were cut, or end just there; "" where none was."""
    if not counts["cut"]:
        return ""
    share = f"{counts['cut']:,} of {counts['texts']:,} texts"
    return f"{share} have {max_length:,} tokens or more: what is beyond was cut"
