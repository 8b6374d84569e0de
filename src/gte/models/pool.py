"""An encoder on several devices at once, a process each."""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import Queue

import numpy as np
import torch
from tqdm.auto import tqdm

from gte.errors import UserError
from gte.models.load import load_encoder, weights_checksum

PIECE = 1024  # texts a task of a process


class EncoderPool:
    """`Encoder.encode` over `devices` (cuda:0, cuda:1, ... or cpu, cpu, ...): the same embeddings up to rounding.

    Every process loads the checkpoint itself, when it is first needed; cores are shared out among those on the CPU.

    Args:
        checkpoint: anything that `load_encoder` takes.
        devices: one a process.
        weights: `weights_checksum` of the encoder as it was loaded here. A run that is still training replaces its
            last.ckpt, so a process may come upon other weights; `encode` then raises UserError.
    """

    def __init__(self, checkpoint: str, devices: Sequence[str], weights: str):
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        free = context.SimpleQueue()
        for device in devices:
            free.put(device)
        threads = max(1, torch.get_num_threads() // len(devices))
        self.devices = list(devices)
        self.counts: Counter[str] = Counter()  # as Encoder.counts, of all processes
        self.processes = ProcessPoolExecutor(
            len(devices), context, initializer=start, initargs=(str(checkpoint), free, threads, weights)
        )

    def encode(self, texts: list[str], *, progress: bool = False, **settings) -> np.ndarray:
        """As `Encoder.encode`, of at least one text. The longest go first, so that the processes end together."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        size = min(PIECE, -(-len(texts) // len(self.devices)))
        pieces = [[texts[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
        done = []
        with tqdm(total=len(texts), unit=" texts", disable=not progress, leave=False) as bar:
            for x_ND, counts in self.processes.map(encode, pieces, [settings] * len(pieces)):
                self.counts += counts
                done.append(x_ND)
                bar.update(len(x_ND))
        result_ND = np.concatenate(done)
        result_ND[order] = result_ND.copy()
        return result_ND

    def close(self) -> None:
        """Ends the processes."""
        self.processes.shutdown()


def start(checkpoint: str, free: Queue, threads: int, weights: str) -> None:
    """In a new process: takes one of the free devices and loads the model there, or notes why it cannot be used."""
    global encoder, refusal
    device = free.get()
    if device == "cpu":
        torch.set_num_threads(threads)
    encoder, refusal = None, None
    try:
        encoder = load_encoder(checkpoint)
    except UserError as error:  # one raised here would reach the caller as a broken pool
        refusal = error
        return
    if weights_checksum(encoder) != weights:
        refusal = UserError(
            f"checkpoint={checkpoint} was replaced while it was being loaded, probably by its training; name one that "
            "stays: RUN/step-*.ckpt, or a copy"
        )
        return
    encoder.to(device)


def encode(texts: list[str], settings: dict) -> tuple[np.ndarray, Counter[str]]:
    """In a process that was started: the vectors, and the counts of these texts. Raises what `start` noted."""
    if refusal is not None:
        raise refusal
    encoder.counts.clear()
    return encoder.encode(texts, **settings), encoder.counts
