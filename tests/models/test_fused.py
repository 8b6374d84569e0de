"""The written-out halves of a BERT or ModernBERT layer give what transformers' layers give, forward and backward."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    CamembertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from gte.encoder import Encoder
from gte.models import fused, fused_attention, fused_modernbert, fused_steps

LENGTHS = torch.tensor([17, 16, 16, 15, 9, 9, 9, 4, 3, 1])
RUNS = [(1, 17), (2, 16), (1, 15), (3, 9), (1, 4), (1, 3), (1, 1)]
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=600)
UNFUSED = {ours: theirs for theirs, ours in fused.FUSED.items()}
HALVES = (fused.Attention, fused.FeedForward, fused_modernbert.Attention, fused_modernbert.GatedUnit)
OTHERS = {"roberta": RobertaConfig, "xlm-roberta": XLMRobertaConfig, "camembert": CamembertConfig}
# a layer without a norm that sees all, and one with a window shorter than the texts
MODERNBERT = ModernBertConfig(**SIZES, max_position_embeddings=40, local_attention=10, pad_token_id=0, bos_token_id=1)


def load(folder, dropout: float, fuse: bool) -> Encoder:
    """A saved model with its dropout in the configuration, in training mode."""
    if "modernbert" in (folder / "config.json").read_text():
        rates = dict(attention_dropout=dropout, mlp_dropout=dropout, embedding_dropout=dropout)
    else:
        rates = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    lm = AutoModel.from_pretrained(folder, **rates)
    encoder = Encoder(lm, AutoTokenizer.from_pretrained(folder), 32).train()
    if not fuse:
        for layer in encoder.lm.modules():
            layer.__class__ = UNFUSED.get(type(layer), type(layer))
    return encoder


def outcome(encoder: Encoder, autocast=None, fraction: float = 0.0, budget: int = 64) -> tuple[torch.Tensor, ...]:
    """Embeddings and all gradients, in float64."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (int(LENGTHS.sum()),), generator=generator)
    plan = encoder.plan(LENGTHS.numpy(), budget)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        x_ND = encoder(ids, LENGTHS, plan, fraction)
    assert x_ND.dtype == torch.float32
    (x_ND * torch.randn(x_ND.shape, generator=generator)).sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
    return x_ND.detach().double(), gradients.double()


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.fixture
def calls(monkeypatch):
    """Counts how often a half is run forward."""
    counted = []
    for half in HALVES:
        run = half.apply
        monkeypatch.setattr(half, "apply", lambda *given, run=run: counted.append(run) or run(*given))
    return counted


@pytest.fixture(params=["bert", "electra", "modernbert", *OTHERS])
def saved(request, small_model, tmp_path):
    """A saved model of each kind that is known."""
    if request.param == "bert":
        return small_model
    torch.manual_seed(0)
    if request.param == "modernbert":
        config = MODERNBERT
    elif request.param == "electra":
        config = ElectraConfig(**SIZES, embedding_size=16, max_position_embeddings=40)
    else:
        config = OTHERS[request.param](**SIZES, max_position_embeddings=40, pad_token_id=1, type_vocab_size=1)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(small_model).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("autocast", "of_x", "of_gradients"), [(None, 1e-5, 1e-5), (torch.bfloat16, 0.01, 0.02)], ids=["fp32", "bf16"]
)
def test_fused_layers_give_the_embeddings_and_gradients_of_transformers(saved, calls, autocast, of_x, of_gradients):
    exact = outcome(load(saved, 0.0, fuse=False))
    assert not calls
    theirs = outcome(load(saved, 0.0, fuse=False), autocast)
    x, gradients = outcome(load(saved, 0.0, fuse=True), autocast)
    assert len(calls) == 8  # two halves of two layers, two chunks
    assert error(x, theirs[0]) < of_x and error(gradients, theirs[1]) < of_gradients
    if autocast:  # no further from the truth than what they take the place of
        assert error(x, exact[0]) < 1.2 * error(theirs[0], exact[0])
        assert error(gradients, exact[1]) < 1.2 * error(theirs[1], exact[1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("eager", [True, False])
def test_gradients_of_both_halves_are_those_of_finite_differences(monkeypatch, dropout, eager):
    if eager:
        monkeypatch.setattr(fused_attention, "keeps_weights", lambda *_: True)
        monkeypatch.setattr(fused_attention, "pads", lambda *_: True)
    torch.manual_seed(0)
    runs, width, inner = [(1, 8), (1, 7), (2, 2)], 4, 6
    assert len(fused_attention.in_groups(runs, torch.float64)) == (
        2 if eager else 3
    )  # the first two are padded to one length

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    x = leaf(19, width)
    square = [leaf(*shape) for _ in range(4) for shape in ((width, width), (width,))]
    norm = [leaf(width), leaf(width)]

    def attention(x, *parameters):
        torch.manual_seed(1)
        return fused.Attention.apply(x, runs, x.dtype, 2, (dropout, dropout), 1e-5, *parameters)

    def feed_forward(x, *parameters):
        torch.manual_seed(1)
        return fused.FeedForward.apply(x, x.dtype, dropout, 1e-5, *parameters)

    torch.autograd.gradcheck(attention, (x, *square, *norm))
    torch.autograd.gradcheck(feed_forward, (x, leaf(inner, width), leaf(inner), leaf(width, inner), leaf(width), *norm))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("window", [None, 2])
def test_gradients_of_both_halves_of_modernbert_are_those_of_finite_differences(monkeypatch, dropout, eager, window):
    if eager:
        monkeypatch.setattr(fused_attention, "keeps_weights", lambda *_: True)
        monkeypatch.setattr(fused_attention, "pads", lambda *_: True)
    torch.manual_seed(0)
    runs, width, inner, angle = [(1, 8), (1, 7), (2, 2)], 8, 6, torch.rand(19, 2, dtype=torch.float64)
    angles = [turn(angle).repeat(1, 2) for turn in (torch.cos, torch.sin)]

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    def attention(x, weight, *parameters):
        torch.manual_seed(1)
        options = (angles, runs, x.dtype, 2, window, (dropout, dropout), 1e-5)
        return fused_modernbert.Attention.apply(x, *options, weight, *parameters)

    def gated(x, *parameters):
        torch.manual_seed(1)
        return fused_modernbert.GatedUnit.apply(x, x.dtype, dropout, 1e-5, *parameters)

    x, square = leaf(19, width), [leaf(3 * width, width), leaf(width, width)]
    torch.autograd.gradcheck(attention, (x, leaf(width), *square), fast_mode=True)
    torch.autograd.gradcheck(attention, (x, None, *square), fast_mode=True)  # the first layer has no norm
    torch.autograd.gradcheck(gated, (x, leaf(width), leaf(2 * inner, width), leaf(width, inner)), fast_mode=True)


@pytest.mark.parametrize("saved", ["bert", "modernbert"], indirect=True)
def test_fused_layers_give_what_transformers_gives_each_text_alone_in_float64(saved, calls):
    found = outcome(load(saved, 0.0, fuse=True))
    assert len(calls) == 8
    lm = AutoModel.from_pretrained(saved, dtype=torch.float64, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (int(LENGTHS.sum()),), generator=generator)
    rows = [lm(text[None]).last_hidden_state[0].mean(0) for text in ids.split(LENGTHS.tolist())]
    x_ND = torch.stack(rows)
    (x_ND * torch.randn(x_ND.shape, generator=generator)).sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in lm.parameters() if p.grad is not None])
    assert error(found[0], x_ND.detach()) < 1e-6 and error(found[1], gradients) < 1e-5


def test_a_window_over_texts_longer_than_its_blocks_is_left_to_transformers():
    assert fused_attention.fits_window([(1, 256), (9, 3)], 8) and fused_attention.fits_window([(1, 257)], None)
    assert not fused_attention.fits_window([(1, 257), (9, 3)], 8)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("saved", ["bert", "modernbert"], indirect=True)
def test_padding_texts_of_near_lengths_changes_nothing(saved, monkeypatch, autocast):
    for choice in ("pads", "keeps_weights"):  # in float32 too, where a wrong weight is seen
        monkeypatch.setattr(fused_attention, choice, lambda *_: True)
    grouped = outcome(load(saved, 0.0, fuse=True), autocast)
    monkeypatch.setattr(fused_attention, "in_groups", lambda runs, dtype: [[run] for run in runs])
    alone = outcome(load(saved, 0.0, fuse=True), autocast)
    monkeypatch.undo()
    assert any(len(group) > 1 for group in fused_attention.in_groups(RUNS, torch.bfloat16))
    for one, other in zip(grouped, alone, strict=True):
        assert error(one, other) < (0.004 if autocast else 2e-6)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("saved", ["bert", "modernbert"], indirect=True)
def test_dropout_has_the_mean_and_spread_of_transformers(saved, autocast):
    def draws(fuse: bool) -> torch.Tensor:
        encoder = load(saved, 0.2, fuse)
        torch.manual_seed(0)
        ids = (torch.arange(5, 5 + int(LENGTHS.sum())) % 50 + 5).repeat(20)
        lengths = LENGTHS.repeat(20)  # every text twenty times in a chunk, each with a mask of its own
        plan = encoder.plan(lengths.numpy(), 20 * 128)
        with torch.no_grad(), torch.autocast("cpu", autocast, enabled=autocast is not None):
            x_ND = torch.cat([encoder(ids, lengths, plan) for _ in range(20)])
        return x_ND.view(400, len(LENGTHS), -1)

    ours, theirs = draws(True), draws(False)
    assert theirs.std(0).mean() > 0.05  # guard: dropout is really there
    spread = theirs.std(0)
    assert ((ours.mean(0) - theirs.mean(0)) / spread).abs().max() < 5 * (2 / 400) ** 0.5
    assert float((ours.std(0) / spread).mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dropout", [0.1, 0.25, 0.9])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_mask_drops_at_the_rate_and_each_of_its_places_by_itself(dropout, dtype):
    torch.manual_seed(0)
    mask = fused_steps.draw_mask(torch.empty(999, 1001, dtype=dtype), dropout)
    assert mask.dtype == dtype and mask.unique().tolist() == [0, 1]
    mask = mask.double().flatten()
    deviation = (dropout * (1 - dropout)) ** 0.5
    assert float(mask.mean()) == pytest.approx(1 - dropout, abs=4 * deviation / len(mask) ** 0.5)
    centred = (mask - mask.mean()) / deviation
    for distance in (1, 2, 3, 4, 1001):  # within a draw, the next draw, the next row
        assert abs(float((centred[distance:] * centred[:-distance]).mean())) < 4 / len(mask) ** 0.5


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("fraction", [0.5, 1.0])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("saved", ["bert", "modernbert"], indirect=True)
def test_recomputation_draws_the_same_dropout(saved, layers, fraction, autocast):
    encoder = load(saved, 0.2, fuse=True)
    torch.manual_seed(3)
    kept = outcome(encoder, autocast)
    encoder.zero_grad()
    if layers:
        encoder.lm.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(3)
    again = outcome(encoder, autocast, 0.0 if layers else fraction)
    torch.manual_seed(4)
    encoder.zero_grad()
    assert error(outcome(encoder, autocast)[0], kept[0]) > 0.05  # guard
    assert error(again[0], kept[0]) < 1e-6 and error(again[1], kept[1]) < (2e-3 if autocast else 1e-5)


def test_all_but_packed_texts_is_left_to_transformers(small_model, calls):
    encoder = load(small_model, 0.0, fuse=True)
    encoder.padding_free = False
    encoder.encode(["red blue", "green"])
    outcome(encoder)
    encoder.padding_free = None
    encoder.lm.encoder.layer[0].output.dense = nn.Sequential(encoder.lm.encoder.layer[0].output.dense)  # an adapter
    assert not calls
    outcome(encoder)
    assert len(calls) == 4  # the other layer in two chunks


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_encode_drops_nothing_and_gives_the_vectors_of_transformers(saved, calls, monkeypatch, precision):
    monkeypatch.setattr("gte.models.encoding.why_not", lambda lm, precision: "as where frozen layers do not fit")
    texts = ["red blue", "green", "many words in a row and then some", "a " * 17, "a " * 15] * 3
    theirs = load(saved, 0.3, fuse=False).encode(texts, precision=precision)
    assert not calls
    ours = load(saved, 0.3, fuse=True).encode(texts, precision=precision)
    assert calls and error(torch.from_numpy(ours), torch.from_numpy(theirs)) < (1e-6 if precision == "fp32" else 0.01)


def test_a_fused_model_is_copied_pickled_and_saved_like_any_other(small_model, tmp_path):
    encoder = load(small_model, 0.0, fuse=True)
    plain = AutoModel.from_pretrained(small_model, add_pooling_layer=False)
    assert list(encoder.lm.state_dict()) == list(plain.state_dict())
    names = [name for name, _ in encoder.lm.named_modules() if name != "pooler"]
    assert names == [name for name, _ in plain.named_modules()]
    expected = outcome(encoder)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        other.zero_grad()
        assert isinstance(other.lm.encoder.layer[0], fused.FusedBertLayer)
        assert all(torch.equal(one, two) for one, two in zip(outcome(other), expected, strict=True))
    encoder.save(tmp_path)
    assert "Fused" not in (tmp_path / "config.json").read_text()
    assert all(
        torch.equal(p, q)
        for p, q in zip(
            plain.parameters(), AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).parameters(), strict=True
        )
    )


@pytest.mark.parametrize("missing", [torch.bfloat16, torch.float32])
def test_products_do_without_onednn_in_a_type_that_it_lacks_on_this_processor(monkeypatch, missing):
    def lacks(*given):
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(fused_steps, "ONEDNN", lacks)
    monkeypatch.setattr(fused_steps, "ONEDNN_TYPES", fused_steps.ONEDNN_TYPES - {missing})
    x, weight, bias = (torch.randn(shape, dtype=missing) for shape in [(5, 4), (3, 4), (3,)])
    assert torch.equal(fused_steps.product(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


def test_onednn_is_asked_for_bf16_only_where_it_has_it():
    assert (torch.bfloat16 in fused_steps.ONEDNN_TYPES) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
