"""The loss over 1, 2 and 4 gloo ranks against one process on the whole batch. Four processes serve all worlds."""

import pytest
import torch
import torch.distributed as dist
from launch import start
from torch.nn.parallel import DistributedDataParallel

from gte.gather import Ranks, current_ranks
from gte.loss import contrastive_loss, improved_contrastive_loss

LOSSES = {"improved": improved_contrastive_loss, "vanilla": contrastive_loss}
CASES = [(name, k, dtype) for name in LOSSES for k in (0, 3) for dtype in (torch.float64, torch.float32)]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WORLDS = [1, 2, 4]
PAIRS, WIDTH = 12, 8  # over all ranks
COLLECTIVES = [
    *(
        "all_gather",
        "all_gather_into_tensor",
        "all_gather_single",
        "all_gather_object",
        "all_reduce",
        "all_to_all",
        "all_to_all_single",
    ),
    *("barrier", "broadcast", "gather", "recv", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "send"),
]


def whole_batch(k, dtype):
    g = torch.Generator().manual_seed(k)
    q = torch.randn(PAIRS, WIDTH, generator=g, dtype=torch.float64)
    batch = [q, q + torch.randn(PAIRS, WIDTH, generator=g, dtype=torch.float64)]
    if k:
        batch.append(q[:, None] + 2 * torch.randn(PAIRS, k, WIDTH, generator=g, dtype=torch.float64))
    return [x.to(dtype) for x in batch]


def text_hashes(k, own):
    """Of the texts of the pairs `own`: every text stands several times in the whole batch."""
    hash_NR = torch.randint(8, (PAIRS, 2 + k), generator=torch.Generator().manual_seed(k))[own]
    return torch.cat([hash_NR[:, 0], hash_NR[:, 1], hash_NR[:, 2:].flatten()])


def linear(dtype):
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, WIDTH, dtype=dtype)


def encode_and_lose(model, name, batch, ranks=None):
    """One forward of the model over all texts, as in training: DDP reduces once a forward."""
    sizes = [x[..., 0].numel() for x in batch]
    encoded = model(torch.cat([x.reshape(-1, WIDTH) for x in batch])).split(sizes)
    return LOSSES[name](*[y.view(x.shape) for x, y in zip(batch, encoded, strict=True)], chunk_rows=5, ranks=ranks)


def record_collectives(calls):
    for collective in COLLECTIVES:
        original = getattr(dist, collective)

        def recorded(*args, collective=collective, original=original, **options):
            calls.append((collective, *[tuple(x.shape) for x in args[1:] if isinstance(x, torch.Tensor)]))
            return original(*args, **options)

        setattr(dist, collective, recorded)


def work(folder):
    dist.init_process_group("gloo")
    process = dist.get_rank()
    groups = {world: dist.new_group(range(world)) for world in WORLDS}
    current, calls = current_ranks(), []
    record_collectives(calls)
    for world in WORLDS:
        if process >= world:
            continue
        ranks = Ranks(groups[world]) if world < max(WORLDS) else current
        found = {"ranks": (ranks.rank, ranks.world_size)}
        found["gathered"] = ranks.all_gather(torch.tensor([[process, 10]]).expand(3, 2))
        found["transposed"] = ranks.all_gather(torch.arange(6.0, requires_grad=True).view(2, 3).T)
        own = slice(process * PAIRS // world, (process + 1) * PAIRS // world)
        for case in CASES:
            name, k, dtype = case
            batch = [x[own].clone().requires_grad_() for x in whole_batch(k, dtype)]
            calls.clear()
            value = LOSSES[name](*batch, chunk_rows=5, ranks=ranks)
            forward = list(calls)
            value.backward()
            found[case] = value.detach(), [x.grad for x in batch], forward, calls[len(forward) :]
            batch = [x[own].clone().requires_grad_() for x in whole_batch(k, dtype)]
            value = LOSSES[name](*batch, chunk_rows=5, ranks=ranks, text_hashes=text_hashes(k, own))
            value.backward()
            found["masked", case] = value.detach(), [x.grad for x in batch]
            model = DistributedDataParallel(linear(dtype), process_group=groups[world])
            encode_and_lose(model, name, [x[own] for x in whole_batch(k, dtype)], ranks).backward()
            found["ddp", case] = [p.grad for p in model.parameters()]
        torch.save(found, f"{folder}/{world}.{process}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    assert start(max(WORLDS), work, str(folder), cwd=folder) == [0] * max(WORLDS)
    return folder


@pytest.fixture(scope="module", params=WORLDS)
def world(request, folder):
    """What each rank of a world found: a list in rank order."""
    return [torch.load(folder / f"{request.param}.{rank}.pt", weights_only=False) for rank in range(request.param)]


def close(mine, theirs, tolerance):
    assert mine.shape == theirs.shape and theirs.abs().max() > 0
    torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def test_all_gather_returns_the_rows_in_rank_order_without_gradient(world):
    for rank, found in enumerate(world):
        assert found["ranks"] == (rank, len(world))
        assert found["gathered"].tolist() == [[other, 10] for other in range(len(world)) for _ in range(3)]
        assert found["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]] * len(world)
        assert not found["transposed"].requires_grad


def test_a_process_alone_has_no_ranks(tmp_path):
    assert current_ranks() is None
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert current_ranks() is None and Ranks().world_size == 1
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_averaged_gradient_equal_one_process_on_the_whole_batch(world, case):
    name, k, dtype = case
    batch = [x.requires_grad_() for x in whole_batch(k, dtype)]
    value = LOSSES[name](*batch)
    value.backward()
    for found in world:
        close(found[case][0], value.detach(), TOLERANCE[dtype])
        assert found[case][0] == world[0][case][0]  # bit for bit: all ranks skip a bad step, or none
    for i, x in enumerate(batch):
        averaged = torch.cat([found[case][1][i] for found in world]) / len(world)
        close(averaged, x.grad, TOLERANCE[dtype])
    if len(world) > 1:  # guard: the other ranks' texts matter
        alone = LOSSES[name](*[x[: PAIRS // len(world)] for x in batch])
        assert abs(alone - value) > 1e-2


@pytest.mark.parametrize("case", CASES, ids=str)
def test_texts_repeated_on_other_ranks_do_not_compete(world, case):
    name, k, dtype = case
    batch = [x.requires_grad_() for x in whole_batch(k, dtype)]
    value = LOSSES[name](*batch, text_hashes=text_hashes(k, slice(None)))
    value.backward()
    assert value < LOSSES[name](*batch) - 1e-2
    for found in world:
        close(found["masked", case][0], value.detach(), TOLERANCE[dtype])
    for i, x in enumerate(batch):
        averaged = torch.cat([found["masked", case][1][i] for found in world]) / len(world)
        close(averaged, x.grad, TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_through_ddp_every_rank_holds_the_gradient_of_one_process(world, case):
    name, k, dtype = case
    model = linear(dtype)
    encode_and_lose(model, name, whole_batch(k, dtype)).backward()
    for found in world:
        for mine, parameter in zip(found["ddp", case], model.parameters(), strict=True):
            close(mine, parameter.grad, TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_are_gathered_once_and_log_z_once_and_nothing_is_reduced(world, case):
    _, k, _ = case
    n = PAIRS // len(world)
    for found in world:
        *_, forward, backward = found[case]
        # log Z and the loss are 2 numbers a pair
        assert forward == [("all_gather_single", shape) for shape in ((n * (2 + k), WIDTH), (n, 2))]
        assert backward == []
