"""An encoder on several devices at once, a process each."""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from tqdm.auto import tqdm

from gte.models.load import load_encoder

PIECE = 1024  # texts a task of a process


class EncoderPool:
    """`Encoder.encode` over `devices` (cuda:0, cuda:1, ... or cpu, cpu, ...): the same embeddings up to rounding.

    Every process loads the checkpoint itself, when it is first needed; cores are shared out among those on the CPU.
    """

    def __init__(self, checkpoint: str, devices: Sequence[str]):
        context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
        free = context.SimpleQueue()
        for device in devices:
            free.put(device)
        threads = max(1, torch.get_num_threads() // len(devices))
        self.devices = list(devices)
        self.counts: Counter[str] = Counter()  # as Encoder.counts, of all processes
        self.processes = ProcessPoolExecutor(
            len(devices), context, initializer=start, initargs=(str(checkpoint), free, threads)
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


def start(checkpoint: str, free, threads: int) -> None:
    """In a new process: takes one of the free devices and loads the model there."""
    global encoder
    device = free.get()
    if device == "cpu":
        torch.set_num_threads(threads)
    encoder = load_encoder(checkpoint).to(device)


def encode(texts: list[str], settings: dict) -> tuple[np.ndarray, Counter[str]]:
    """In a process that was started: the vectors, and the counts of these texts."""
    encoder.counts.clear()
    return encoder.encode(texts, **settings), encoder.counts
