"""Gradients through the whole encoder on 1, 2 and 4 gloo ranks against one process on all texts, with dropout on.

A rank draws its dropout from a seed of its own; the one process encodes each rank's texts under that rank's seed.
Four processes serve all worlds.
"""

from collections import Counter
from copy import deepcopy
from functools import cache
from itertools import product

import pytest
import torch
import torch.distributed as dist
from launch import start
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile
from transformers import AutoTokenizer

from gte.encoder import Encoder
from gte.gather import Ranks, current_ranks
from gte.loss import contrastive_loss, improved_contrastive_loss

LOSSES = {"improved": improved_contrastive_loss, "vanilla": contrastive_loss}
CASES = list(product(LOSSES, (0, 3), (True, False), (0.0, 1.0), (torch.float64, torch.float32)))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WORLDS = [1, 2, 4]
PAIRS, BUDGET = 8, 40  # over all ranks; tokens of a chunk


@cache
def loaded(saved, packed):
    return Encoder.from_pretrained(saved, padding_free=packed)


def small_encoder(saved, packed, dtype):
    """As a training from a model directory has it."""
    return deepcopy(loaded(saved, packed)).to(dtype).train()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_model):
    """A model directory: a small BERT with dropout."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    folder = tmp_path_factory.mktemp("saved")
    Encoder.from_scratch(tokenizer, **sizes, max_length=32, dropout=0.2).save(folder)
    return folder


def texts(k, rank, world):
    """Token ids of a rank's queries, documents and negatives, end to end, and their lengths."""
    g = torch.Generator().manual_seed(k)
    lengths = torch.randint(3, 30, (PAIRS, 2 + k), generator=g)
    ids = [[torch.randint(5, 80, (int(n),), generator=g) for n in row] for row in lengths]
    own = range(rank * PAIRS // world, (rank + 1) * PAIRS // world)
    chosen = [(i, j) for j in (0, 1) for i in own] + [(i, j) for i in own for j in range(2, 2 + k)]
    return torch.cat([ids[i][j] for i, j in chosen]), torch.tensor([lengths[i, j] for i, j in chosen])


def encode(model, encoder, k, rank, world, recompute):
    """[N, D] queries, [N, D] documents and [N, K, D] negatives of a rank."""
    torch.manual_seed(100 + rank)
    ids_T, lengths_R = texts(k, rank, world)
    x_RD = model(ids_T, lengths_R, encoder.plan(lengths_R.numpy(), BUDGET), recompute)
    n = PAIRS // world
    return [x_RD[:n], x_RD[n : 2 * n], *([x_RD[2 * n :].view(n, k, -1)] if k else [])]


def step(model, encoder, case, ranks):
    name, k, _, recompute, _ = case
    own = (ranks.rank, ranks.world_size) if ranks else (0, 1)
    loss = LOSSES[name](*encode(model, encoder, k, *own, recompute), ranks=ranks)
    loss.backward()
    return loss.detach()


def work(saved, folder):
    dist.init_process_group("gloo")
    process = dist.get_rank()
    groups = {world: dist.new_group(range(world)) for world in WORLDS}
    ranks = {1: None, 2: Ranks(groups[2]), 4: current_ranks()}  # the first as training has it without ranks
    for world in WORLDS:
        if process < world:
            torch.save(gradients(saved, ranks[world], groups[world]), f"{folder}/{world}.{process}.pt")
    dist.barrier()
    dist.destroy_process_group()


def gradients(saved, ranks, group):
    """The loss and the gradients of each case, and the collectives of a step of the last."""
    found = {}
    for case in CASES:
        _, _, packed, _, dtype = case
        encoder = small_encoder(saved, packed, dtype)
        model = DistributedDataParallel(encoder, broadcast_buffers=False, process_group=group)
        value = step(model, encoder, case, ranks)
        found[case] = value, {key: p.grad.clone() for key, p in encoder.named_parameters() if p.requires_grad}
    step(model, encoder, case, ranks)  # the second after DDP has sorted its buckets
    with profile() as recorded:
        step(model, encoder, case, ranks)
    found["collectives"] = Counter(e.name for e in recorded.events() if e.name.startswith("c10d::"))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, saved):
    folder = tmp_path_factory.mktemp("ranks")
    assert start(max(WORLDS), work, saved, folder, cwd=folder) == [0] * max(WORLDS)
    return folder


@pytest.fixture(scope="module", params=WORLDS)
def world(request, folder):
    """What each rank of a world found: a list in rank order."""
    return [torch.load(folder / f"{request.param}.{rank}.pt", weights_only=False) for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_equal_those_of_one_process_on_all_texts(world, case, saved):
    name, k, packed, _, dtype = case
    encoder = small_encoder(saved, packed, dtype)
    parts = [encode(encoder, encoder, k, rank, len(world), 0.0) for rank in range(len(world))]
    loss = LOSSES[name](*map(torch.cat, zip(*parts, strict=True)))
    loss.backward()
    gradient = {key: p.grad for key, p in encoder.named_parameters() if p.requires_grad}
    largest = max(g.abs().max() for g in gradient.values())
    for value, found in (rank[case] for rank in world):
        torch.testing.assert_close(value, loss.detach(), rtol=TOLERANCE[dtype], atol=0)
        assert found.keys() == gradient.keys()
        for key, mine in found.items():
            assert mine.dtype == dtype
            torch.testing.assert_close(mine, gradient[key], rtol=0, atol=TOLERANCE[dtype] * largest, msg=key)


def test_the_cases_have_dropout_uneven_texts_and_several_chunks(saved):
    encoder = small_encoder(saved, True, torch.float64)
    for k in (0, 3):
        for world in WORLDS:
            _, lengths = texts(k, 0, world)
            assert len(set(lengths.tolist())) > 2 and len(encoder.plan(lengths.numpy(), BUDGET).chunks) > 1
    dropped = encode(encoder, encoder, 0, 0, 1, 0.0)[0]
    assert not torch.allclose(dropped, encode(encoder.eval(), encoder, 0, 0, 1, 0.0)[0], rtol=0.05)


def test_a_step_gathers_twice_and_reduces_each_gradient_once(world):
    for found in world:
        gathers = {"c10d::_allgather_base_": 2} if len(world) > 1 else {}
        assert found["collectives"] == {"c10d::allreduce_": 1, **gathers}
