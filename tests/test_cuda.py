"""On a GPU: what is computed there is what a processor computes in float64, and a run lives on after a kill.

Tolerances are multiples of a type's spacing at 1 (float16 2^-10, bfloat16 2^-7, float32 2^-23), of relative distances
|found - exact| / |exact|. On a processor, where autocast rounds at the same places, the embeddings of two layers came
to 0.10 spacings of either half type and their gradients to 0.17; in float32, to 0.6 and 2.8. Ten times as much is
allowed: a kernel may round its weights too. A text that saw its neighbour would be 100 spacings away.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from logs import column, rows
from trainings import TINY
from transformers import AutoTokenizer

from gte import attention
from gte.encoder import Encoder
from gte.loss import contrastive_loss, improved_contrastive_loss
from gte.models.load import load_encoder

DEVICE = torch.device("cuda")
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: pytest tests/test_cuda.py on a machine that has one"
)
HALF = [torch.float16, torch.bfloat16]
HEADS = {32: dict(hidden_size=384, num_attention_heads=12), 64: dict(hidden_size=768, num_attention_heads=12)}


def distance(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """|found - exact| / |exact| of all numbers together, in float64."""
    one, other = (torch.cat([x.detach().double().cpu().flatten() for x in tensors]) for tensors in (found, exact))
    return float((one - other).norm() / other.norm())


def spacing(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def make(folder, width: int, dropout: float = 0.0, **options) -> Encoder:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Encoder.from_scratch(
        tokenizer, max_length=128, num_hidden_layers=2, dropout=dropout, **HEADS[width], **options
    ).train()


def texts(n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths_N = torch.randint(3, 129, (n,), generator=generator)
    return torch.randint(5, 90, (int(lengths_N.sum()),), generator=generator, dtype=torch.int32), lengths_N


def step(encoder: Encoder, autocast: torch.dtype | None = None, fraction: float = 0.0, seed: int = 2):
    """Embeddings, gradients, and whether the chunks were packed."""
    encoder.zero_grad()
    ids_T, lengths_N = texts()
    torch.manual_seed(seed)
    with torch.autocast(encoder.device.type, autocast, enabled=autocast is not None):
        plan = encoder.plan(lengths_N.numpy(), 512)
        x_ND = encoder(ids_T, lengths_N, plan, fraction)
    assert len(plan.chunks) > 4
    weight_ND = torch.randn(x_ND.shape, generator=torch.Generator().manual_seed(3))
    (256 * x_ND * weight_ND.to(x_ND.device)).sum().backward()  # scaled, as fp16 would be
    return [x_ND], [p.grad for p in encoder.lm.parameters()], plan.packed


@pytest.fixture(scope="module", params=HEADS)
def exact(request, small_model):
    """(width of a head, embeddings, gradients) on the processor in float64, padded."""
    x, gradients, packed = step(make(small_model, request.param, padding_free=False).double())
    assert not packed
    return request.param, x, gradients


@pytest.mark.parametrize(
    ("dtype", "padding_free", "packed"),
    [
        *((dtype, None, True) for dtype in HALF),
        *((dtype, False, False) for dtype in HALF),
        (None, None, False),
        (None, True, True),
    ],
)
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_packed_and_padded_chunks_are_those_of_float64(small_model, exact, dtype, padding_free, packed, fraction):
    width, x, gradients = exact
    encoder = make(small_model, width, padding_free=padding_free).to(DEVICE)
    found_x, found_gradients, was_packed = step(encoder, dtype, fraction)
    assert was_packed == packed
    scale = 16 * spacing(torch.float32) if dtype is None else spacing(dtype)
    assert distance(found_x, x) < scale
    assert distance(found_gradients, gradients) < 2 * scale


@pytest.mark.parametrize("dtype", HALF)
def test_weights_in_half_precision_are_packed_without_autocast(small_model, exact, dtype):
    width, x, _ = exact
    found_x, _, packed = step(make(small_model, width).to(DEVICE, dtype))
    assert packed and distance(found_x, x) < 3 * spacing(dtype)  # sums are as narrow: 0.29 there


@pytest.mark.parametrize(
    ("dtype", "padding_free"), [*((d, p) for d in HALF for p in (None, False)), (None, None), (None, True)]
)
@pytest.mark.parametrize("width", HEADS)
def test_what_is_recomputed_draws_the_same_dropout(small_model, dtype, padding_free, width):
    encoder = make(small_model, width, dropout=0.1, padding_free=padding_free).to(DEVICE)
    kept, gradients, _ = step(encoder, dtype)
    for fraction in (0.5, 1.0):
        again, same, _ = step(encoder, dtype, fraction)
        # other masks would be 0.1 apart; the same ones differ by the order of sums of the backward pass alone
        assert distance(again, kept) < 1e-6
        assert distance(same, gradients) < 4 * spacing(dtype or torch.float32)
    assert distance(step(encoder, dtype, 1.0, seed=4)[0], kept) > 0.02


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_dropout_drops_as_many_weights_as_it_is_asked_to(dtype):
    offsets = torch.arange(0, 64 * 65, 64, dtype=torch.int32, device=DEVICE)
    zero = torch.zeros(64 * 64, 12, 64, dtype=dtype, device=DEVICE)
    unit = torch.eye(64, dtype=dtype, device=DEVICE).repeat(64, 1)[:, None].expand(-1, 12, -1).contiguous()
    out = attention.attend_varlen(zero, zero, unit, offsets, 64, 0.1, None)  # the weights themselves, all of them 1/64
    assert float((out == 0).float().mean()) == pytest.approx(0.1, abs=0.005)  # 3 million weights: 30 standard errors
    assert float(out.float().mean() * 64) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("window", [4, 64])
def test_a_window_hides_what_is_further_away(window):
    lengths = [40, 100, 3]
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=DEVICE)
    q, k, v = torch.randn(3, sum(lengths), 12, 64, generator=torch.Generator().manual_seed(0)).half()
    found = attention.attend_varlen(*(x.to(DEVICE) for x in (q, k, v)), offsets, 100, 0.0, None, window=window)
    for start, length in zip(offsets.tolist(), lengths, strict=False):
        rows_L = slice(start, start + length)
        place = torch.arange(length)
        near = (place[:, None] - place).abs() <= window
        one = (x[rows_L].double().transpose(0, 1) for x in (q, k, v))
        exact = torch.nn.functional.scaled_dot_product_attention(*one, attn_mask=near).transpose(0, 1)
        assert distance([found[rows_L]], [exact]) < spacing(torch.float16)


@pytest.mark.parametrize("loss", [improved_contrastive_loss, contrastive_loss])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("rows_a_tile", [None, 130])
def test_loss_and_gradient_are_those_of_float64(loss, dtype, rows_a_tile):
    """Of the same rounded inputs; so all types of input are computed to float32's exactness."""
    generator = torch.Generator().manual_seed(0)
    basis, latent = torch.randn(12, 384, generator=generator), torch.randn(4 * 300, 12, generator=generator)
    x = (latent @ basis + torch.randn(4 * 300, 384, generator=generator)).to(dtype)  # others are near, as early on
    x[300:600] = x[:300] + 0.5 * x[300:600]
    hashes = torch.randint(0, 500, (4 * 300,), generator=generator)
    found = []
    for device, cast in (("cpu", torch.float64), (DEVICE, dtype)):
        own = x.to(device, cast).requires_grad_()
        q, d, n = own[:300], own[300:600], own[600:].view(300, 2, -1)
        value = loss(q, d, n, text_hashes=hashes, chunk_rows=rows_a_tile)
        value.backward()
        found.append((value.detach(), own.grad))
    assert float(found[1][0]) == pytest.approx(float(found[0][0]), rel=1e-5) and float(found[0][0]) > 1
    assert distance([found[1][1]], [found[0][1]]) < max(1e-4, spacing(dtype))  # autograd rounds it to the input's type


@pytest.mark.parametrize("padding_free", [None, True])
def test_encode_in_half_precision_keeps_the_direction_and_the_weights(small_model, monkeypatch, padding_free):
    monkeypatch.setattr("gte.models.encoding.ENCODE_BLOCK", 64)
    encoder = make(small_model, 64, padding_free=padding_free)
    given = [f"{'number ' * (7 * n % 90)}{n}" for n in range(200)]
    exact = encoder.encode(given)
    before = [p.detach().clone() for p in encoder.parameters()]
    encoder.to(DEVICE)
    np.testing.assert_allclose(encoder.encode(given), exact, atol=2e-5)
    for precision in ("fp16", "bf16"):
        assert (encoder.encode(given, precision=precision) * exact).sum(1).min() > 0.999
    for one, other in zip(encoder.parameters(), before, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one.cpu(), other)


GPU = [
    *(word for word in TINY if not word.startswith("trainer")),
    "trainer=gpu",
    "checkpoint_every=3",
    "model.dropout=0.1",
]


def begin(cwd, prepared, *arguments) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "src" / "train.py"), *GPU, f"data.dir={prepared}", *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(prepared, tmp_path, precision):
    given = (f"trainer.precision={precision}", "stage.steps=40")
    whole, killed = (begin(tmp_path, prepared, *given, f"out={name}") for name in ("whole", "killed"))
    limit = time.monotonic() + 200
    while not list((tmp_path / "killed").glob("checkpoints/step-*.ckpt")) and time.monotonic() < limit:
        time.sleep(0.005)
    assert killed.poll() is None, "the run was done before it was killed: give it more steps"
    killed.kill()
    killed.wait()
    again = begin(tmp_path, prepared, *given, "out=killed", "resume=auto")
    for process in (whole, again):
        assert process.wait(300) == 0, process.stderr.read()
    one, other = (
        {row["step"]: float(row["train/loss"]) for row in rows(tmp_path / name)} for name in ("whole", "killed")
    )
    assert len(one) == 40 and one.keys() == other.keys()
    # the same batches and the same masks; a GPU adds gradients in no fixed order, so equal to some digits only
    assert other == pytest.approx(one, rel=0.02)


def test_a_skipped_step_in_fp16_changes_no_weight_and_training_goes_on(script, prepared, tmp_path, spoil):
    spoil({4}, float("inf"))
    given = ["trainer.precision=16-mixed", "stage.steps=30", "checkpoint_every=1", "out=run", "optim.lr=5e-3"]
    code, _, err = script("train", *GPU, *given, f"data.dir={prepared}")
    assert code == 0, err
    skipped, losses = (column(tmp_path / "run", f"train/{key}") for key in ("skipped", "loss"))
    assert skipped[4] == skipped[3] + 1 and skipped[-1] < 10
    before, after, later = (
        load_encoder(tmp_path / "run" / "checkpoints" / f"step-{step:07d}.ckpt").state_dict() for step in (4, 5, 30)
    )
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not all(torch.equal(value, later[key]) for key, value in before.items())
    assert np.mean(losses[-5:]) < np.mean(losses[:3])
