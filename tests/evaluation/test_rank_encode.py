"""Ranks encode what they like amid training: none is waited for, and the vectors are those of one process."""

import os
from datetime import timedelta
from pathlib import Path

import launch
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from gte.encoder import Encoder

TEXTS = [f"{'word ' * (n % 9)}text {n}" for n in range(40)]


def encode_on_a_rank(model: str) -> None:
    """Vectors before and after a step of both ranks, within DDP; rank 1 encodes its last text once more, alone."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = int(os.environ["RANK"])
    torch.manual_seed(rank)
    encoder = Encoder.from_pretrained(model).train()
    parallel = DistributedDataParallel(encoder)
    own = TEXTS[rank::2]
    before = encoder.encode(own, precision="fp32")
    assert encoder.training and torch.is_grad_enabled()  # dropout is on again
    lengths = torch.full((4,), 5)
    ids = torch.arange(20, dtype=torch.int32) % 7 + 5 + rank
    parallel(ids, lengths, encoder.plan(lengths.numpy(), 64)).square().sum().backward()
    torch.optim.SGD(encoder.parameters(), 1e-2).step()
    after = encoder.encode(own, precision="fp32")
    alone = encoder.encode(own[-1:], precision="fp32") if rank else after[-1:]
    np.savez(f"rank{rank}.npz", before=before, after=after, alone=alone)
    if rank == 0:
        encoder.eval()
        torch.save(encoder.state_dict(), "after.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_ranks_within_ddp_encode_each_its_own_texts_as_one_process_does(pretrained, tmp_path: Path):
    assert launch.start(2, encode_on_a_rank, str(pretrained), cwd=tmp_path) == [0, 0]
    encoder = Encoder.from_pretrained(pretrained)
    assert encoder.lm.config.hidden_dropout_prob > 0  # which encode must switch off
    whole = encoder.encode(TEXTS, precision="fp32")
    encoder.load_state_dict(torch.load(tmp_path / "after.pt", weights_only=True))
    trained = encoder.encode(TEXTS, precision="fp32")
    assert not np.allclose(whole, trained, atol=1e-4)
    for rank in (0, 1):
        found = np.load(tmp_path / f"rank{rank}.npz")
        np.testing.assert_allclose(found["before"], whole[rank::2], atol=1e-5)
        np.testing.assert_allclose(found["after"], trained[rank::2], atol=1e-5)
        np.testing.assert_allclose(found["alone"], trained[rank::2][-1:], atol=1e-5)
