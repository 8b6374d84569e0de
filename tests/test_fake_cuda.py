"""The training step and encode without a GPU: fake tensors that know their device, so that a mix-up fails here.

Their device is "cuda" where PyTorch finds one. Elsewhere it is "meta", taken for a GPU: PyTorch without CUDA cannot go
backward through fake CUDA tensors. What asks a tensor for its value fails as well, since none has any: there the host
would have to wait for a GPU.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode, fake_impls
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from transformers import AutoConfig, AutoModel, AutoTokenizer

from gte import attention, chunks, inputs, recompute
from gte.data.collate import Batch
from gte.encoder import Encoder
from gte.loss import contrastive_loss, improved_contrastive_loss
from gte.models import encoding
from gte.training.task import ContrastiveTask

REAL = torch.cuda.is_available()
DEVICE = torch.device("cuda" if REAL else "meta")
HALF = [torch.float16, torch.bfloat16]


@pytest.fixture
def gpu(monkeypatch):
    """Fake tensors, and a device that is taken for a GPU with flash kernels."""
    for module in (attention, chunks, encoding, inputs):
        monkeypatch.setattr(module, "on_cuda", lambda device: device.type == DEVICE.type)
    monkeypatch.setattr(attention, "has_flash", lambda device: True)
    monkeypatch.setattr(torch.Tensor, "numpy", real_numbers(torch.Tensor.numpy))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x.clone())  # which a processor alone cannot
    monkeypatch.setattr(encoding, "to_host", lambda x_ND: np.zeros(on_gpu(x_ND).shape, np.float32))
    monkeypatch.setattr("gte.loss._chunk_rows", lambda x_RD, tiles: 8)
    efficient = torch.ops.aten._efficient_attention_backward.default
    monkeypatch.setitem(fake_impls.op_implementations_dict, efficient, efficient_backward)
    if not REAL:  # generators and autocast, which "meta" has not; they place no tensor
        monkeypatch.setattr(recompute, "random_state", lambda device: None)
        monkeypatch.setattr(recompute, "set_random_state", lambda state, device: None)
        monkeypatch.setattr(torch.random, "fork_rng", lambda *given, **named: nullcontext())
        monkeypatch.setattr(recompute, "precision", lambda device: {"device_type": DEVICE.type})
        monkeypatch.setattr(torch, "autocast", lambda device_type, *given, **named: nullcontext())
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def efficient_backward(mode, operator, grad, q, k, v, *given, **named):
    """For PyTorch's own, whose arguments are not those of the operator (2.13: it lacks `out`)."""
    tensors = [x for x in (grad, q, k, v, *given) if isinstance(x, torch.Tensor) and x.ndim]
    assert {x.device for x in tensors} == {q.device}
    with mode:
        return *map(torch.empty_like, (q, k, v)), q.new_empty(0)


def real_numbers(numpy):
    """Tensor.numpy of the host's own tensors, which fake tensors would take for theirs."""

    def read(x: torch.Tensor) -> np.ndarray:
        assert not isinstance(x, FakeTensor), "the host reads a tensor that it would have to wait for"
        with unset_fake_temporarily():
            return numpy(x)

    return read


def on_gpu(x: torch.Tensor) -> torch.Tensor:
    assert isinstance(x, FakeTensor) and x.device.type == DEVICE.type
    return x


def same_device(module: nn.Embedding, given) -> None:
    """Fake tensors do not look at the ids of an embedding, a GPU does."""
    assert given[0].device == module.weight.device, "ids and embeddings are on different devices"


CONFIG = {"modernbert": dict(local_attention=8, global_attn_every_n_layers=2)}


def fake_encoder(folder, dtype: torch.dtype, kind: str = "bert", **options) -> Encoder:
    with unset_fake_temporarily():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if kind == "bert":
            sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
            encoder = Encoder.from_scratch(tokenizer, max_length=32, dropout=0.1, **sizes, **options)
        else:
            sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96)
            config = AutoConfig.for_model(
                kind, vocab_size=len(tokenizer), pad_token_id=0, **sizes, **CONFIG.get(kind, {})
            )
            encoder = Encoder(AutoModel.from_config(config), tokenizer, 32, **options)
    for module in encoder.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(same_device)
    return encoder.train().to(DEVICE, dtype)


def batch_of(pairs: int, negatives: int, hashes: bool) -> Batch:
    lengths = np.random.default_rng(0).integers(3, 30, size=pairs * (2 + negatives))
    ids = np.random.default_rng(1).integers(5, 90, size=lengths.sum()).astype(np.int32)
    hash_R = torch.arange(len(lengths)) % 5 if hashes else None
    return Batch(torch.from_numpy(ids), torch.from_numpy(lengths), pairs, negatives, 0, 0, 0, hash_R)


def train(encoder: Encoder, monkeypatch, loss=improved_contrastive_loss, negatives=0, hashes=False, fraction=1.0):
    """The task's own training step and its backward pass; the number of chunks and whether they were packed."""
    monkeypatch.setattr(ContrastiveTask, "check_ids", lambda task, batch: None)  # looks at ids on the host
    stage = SimpleNamespace(recompute_layers=False, max_length=32, batch_tokens=64, recompute_fraction=fraction)
    task = ContrastiveTask(encoder, loss, None, stage, total_steps=1, sources=["a"], history=[])
    plans, made = [], encoder.plan
    monkeypatch.setattr(encoder, "plan", lambda *given: plans.append(made(*given)) or plans[-1])
    with unset_fake_temporarily():  # a batch comes from a worker, as tensors of the host
        batch = batch_of(5, negatives, hashes)
    value = task.training_step(batch, 0)
    on_gpu(value).backward()
    for name, parameter in encoder.lm.named_parameters():
        assert on_gpu(parameter.grad).shape == parameter.shape, name
    return plans[0]


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("dtype", "packed"), [*((dtype, True) for dtype in HALF), (torch.float32, False)])
def test_a_training_step_stays_on_the_gpu(small_model, gpu, monkeypatch, dtype, packed, fraction):
    plan = train(fake_encoder(small_model, dtype), monkeypatch, fraction=fraction)
    assert plan.packed == packed and len(plan.chunks) > 2


@pytest.mark.parametrize("loss", [improved_contrastive_loss, contrastive_loss])
@pytest.mark.parametrize(("negatives", "hashes"), [(0, True), (3, False), (3, True)])
def test_both_losses_with_negatives_and_hashes_stay_on_the_gpu(small_model, gpu, monkeypatch, loss, negatives, hashes):
    train(fake_encoder(small_model, torch.bfloat16), monkeypatch, loss, negatives, hashes, fraction=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_chunks_stay_on_the_gpu_in_full_precision_too(small_model, gpu, monkeypatch, dtype):
    assert train(fake_encoder(small_model, dtype, padding_free=True), monkeypatch).packed


@pytest.mark.parametrize(("kind", "packed"), [("mpnet", False), ("distilbert", True), ("modernbert", True)])
def test_other_kinds_stay_on_the_gpu(small_model, gpu, monkeypatch, kind, packed):
    monkeypatch.setattr("transformers.masking_utils._ignore_bidirectional_mask_sdpa", lambda *given, **named: False)
    assert train(fake_encoder(small_model, torch.bfloat16, kind), monkeypatch).packed == packed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_every_pooling_stays_on_the_gpu_with_and_without_a_prompt_left_out(small_model, gpu, dtype, pooling):
    encoder = fake_encoder(small_model, dtype, pooling=pooling)
    with unset_fake_temporarily():
        batch, skip_N = batch_of(5, 0, False), torch.full((10,), 2)
    for skip in (None, skip_N):
        plan = encoder.plan(np.asarray(batch.lengths_R.numpy()), 64)
        on_gpu(encoder(batch.ids_T, batch.lengths_R, plan, 1.0, skip)).sum().backward()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_encode_stays_on_the_gpu_and_fetches_a_block_at_once(small_model, gpu, monkeypatch, precision):
    encoder = fake_encoder(small_model, torch.float32)
    fetched, fetch = [], encoding.to_host
    monkeypatch.setattr(encoding, "to_host", lambda x_ND: fetched.append(len(x_ND)) or fetch(x_ND))
    monkeypatch.setattr(encoding, "ENCODE_BLOCK", 16)
    texts = [f"{'number ' * (n % 7)}{n}" for n in range(40)]
    seen = set()
    encoder.lm.register_forward_pre_hook(lambda lm, given: seen.add(next(lm.parameters()).dtype))
    assert encoder.encode(texts, batch_tokens=64, precision=precision).shape == (40, 64)
    assert fetched == [16, 16, 8] and seen == {encoding.AUTOCAST[precision] or torch.float32}


def test_fake_tensors_tell_a_mix_up_and_a_wait(gpu):
    there = torch.zeros(3, device=DEVICE)
    with pytest.raises(Exception, match="same device"):
        there + torch.zeros(3)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        there.max().item()
