"""Made models of many kinds, saved to disk with dropout and loaded back: each text's vector is that of it alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from gte import attention
from gte.encoder import Encoder
from gte.errors import UserError
from gte.training.task import ContrastiveTask

SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
DROPOUT = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
BERT = SIZES | DROPOUT | {"max_position_embeddings": 128}
ROBERTA = SIZES | DROPOUT | {"max_position_embeddings": 130}  # the first two are of the padding id and before it
KINDS = {
    "albert": BERT | {"embedding_size": 16},
    "bert": BERT,
    "camembert": ROBERTA,
    "deberta-v2": BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "distilbert": dict(dim=32, n_layers=3, n_heads=2, hidden_dim=48, dropout=0.2, attention_dropout=0.2),
    "electra": BERT | {"embedding_size": 16},
    "longformer": ROBERTA | {"attention_window": 8},
    "modernbert": SIZES | {"local_attention": 16, "attention_dropout": 0.2, "mlp_dropout": 0.2},
    "mpnet": ROBERTA,
    "nomic_bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}  # fmt: skip
PACKED = ["albert", "bert", "camembert", "distilbert", "electra", "modernbert", "nomic_bert", "roberta", "xlm-roberta"]
WORDS = [f"w{n}" for n in range(100)]
TEXTS = [" ".join(WORDS[n : n + n * 7 % 31]) for n in range(40)]
TEXTS += ["w1 <pad> w2 w3", "<pad>", "w1 w2 <pad>", "w4 <pad> <pad> w5 w6", "w7", "w7 w8 " * 40, "w9 " * 17, "w9 " * 7]


def made_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, between <s> and </s>; its padding id is RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = Tokenizer(models.WordLevel({t: i for i, t in enumerate([*special, *WORDS])}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"], special, strict=True))
    names |= {"cls_token": "<s>", "sep_token": "</s>", "model_max_length": 100}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **names)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The directory of a made model by its kind; every weight is large enough to tell."""

    def make(kind: str):
        folder = tmp_path_factory.getbasetemp() / f"made-{kind}"
        if not folder.exists():
            torch.manual_seed(0)
            made_tokenizer().save_pretrained(folder)
            config = AutoConfig.for_model(kind, vocab_size=105, pad_token_id=1, bos_token_id=0, **KINDS[kind])
            config.cls_token_id, config.sep_token_id, config.eos_token_id = 0, 2, 2
            lm = AutoModel.from_config(config)
            with torch.no_grad():
                for parameter in lm.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
            lm.save_pretrained(folder)
        return folder

    return make


def alone(folder, texts: list[str]) -> np.ndarray:
    """The mean of plain transformers' last layer over each text by itself."""
    tokenizer, lm = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in texts]
        return np.stack([lm(**given).last_hidden_state[0].mean(0).numpy() for given in inputs])


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_among_others_has_the_vector_that_plain_transformers_gives_it_alone(made, kind):
    encoder = Encoder.from_pretrained(made(kind))
    assert encoder.packed == (kind in PACKED)
    expected = alone(made(kind), TEXTS)
    assert np.abs(expected - expected.mean(0)).mean() > 0.05  # really different vectors
    assert np.abs(encoder.encode(TEXTS, batch_tokens=256, normalize=False) - expected).max() < 1e-5
    padded = Encoder.from_pretrained(made(kind), padding_free=False)
    assert np.abs(padded.encode(TEXTS, batch_tokens=256, normalize=False) - expected).max() < 1e-5


def embeddings_and_gradients(encoder: Encoder, recompute_fraction: float = 0.0, texts=TEXTS) -> list[torch.Tensor]:
    """Of texts in chunks of 128 tokens."""
    ids = encoder.tokenize(texts)
    lengths = torch.tensor([len(text) for text in ids])
    plan = encoder.plan(lengths.numpy(), 128)
    torch.manual_seed(1)
    encoder.zero_grad()
    x_ND = encoder(torch.tensor(sum(ids, [])), lengths, plan, recompute_fraction)
    (x_ND * torch.randn(x_ND.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return [x_ND.detach(), *(p.grad for p in encoder.lm.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", PACKED)
def test_gradients_of_packed_chunks_are_those_of_padded_ones(made, kind):
    packed, padded = (Encoder.from_pretrained(made(kind), padding_free=choice).eval() for choice in (True, False))
    results = [embeddings_and_gradients(encoder) for encoder in (packed, padded)]
    assert len(results[0]) == len(results[1]) > 10
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("kind", PACKED)
def test_recomputed_packed_chunks_draw_the_same_dropout(made, kind):
    encoder = Encoder.from_pretrained(made(kind)).train()
    kept, again = embeddings_and_gradients(encoder), embeddings_and_gradients(encoder, 1.0)
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))
    assert not torch.allclose(kept[0], embeddings_and_gradients(encoder.eval())[0], atol=0.01)  # dropout was on


@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "albert"])  # transformers recomputes none of it
def test_recomputed_layers_of_packed_chunks_give_the_same_gradients(made, kind):
    encoder = Encoder.from_pretrained(made(kind)).train()
    kept = embeddings_and_gradients(encoder)
    encoder.lm.gradient_checkpointing_enable({"use_reentrant": False})
    for one, other in zip(kept, embeddings_and_gradients(encoder), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))


def without_dropout(encoder: Encoder) -> Encoder:
    """In training mode, where layers are recomputed; compiled code would draw other random numbers."""
    for part in encoder.train().modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.0
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_a_compiled_model_gives_the_vectors_and_gradients_of_the_plain_one(made, kind):
    plain = without_dropout(Encoder.from_pretrained(made(kind), padding_free=False))
    compiled = without_dropout(Encoder.from_pretrained(made(kind), compile=True))
    compiled.lm.gradient_checkpointing_enable({"use_reentrant": False})
    results = [embeddings_and_gradients(encoder, texts=TEXTS[:12]) for encoder in (plain, compiled)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))


def test_a_compiled_model_refuses_to_be_packed(made):
    assert not Encoder.from_pretrained(made("bert"), compile=True).packed
    with pytest.raises(UserError, match=r"^model.compile=true works on padded chunks only; set model.padding_free"):
        Encoder.from_pretrained(made("bert"), compile=True, padding_free=True)


def test_a_model_whose_layers_cannot_be_recomputed_is_refused_by_name(made):
    stage, encoder = SimpleNamespace(recompute_layers=True), Encoder.from_pretrained(made("albert"))
    with pytest.raises(UserError, match=r"stage.recompute_layers=true .* 'albert'.*recompute_fraction"):
        ContrastiveTask(encoder, None, None, stage, total_steps=1, sources=[], history=[])


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_bf16_vectors_of_packed_texts_point_where_those_alone_do(made, kind):
    encoder = Encoder.from_pretrained(made(kind))
    expected = alone(made(kind), TEXTS)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (encoder.encode(TEXTS, precision="bf16") * expected).sum(1).min() > 0.999


def test_what_is_padded_refuses_to_be_packed(made):
    with pytest.raises(UserError, match="not known to be right for the model type 'mpnet'"):
        Encoder.from_pretrained(made("mpnet"), padding_free=True)


def band_by_hand(q, k, v, window):
    """softmax(q k^T / sqrt E) v over the tokens at most `window` away, one query at a time."""
    rows = []
    for place in range(q.shape[2]):
        near = slice(max(place - window, 0), place + window + 1)
        scores = torch.einsum("nhe,nhle->nhl", q[:, :, place], k[:, :, near]) * q.shape[-1] ** -0.5
        rows.append(torch.einsum("nhl,nhle->nhe", scores.softmax(-1), v[:, :, near]))
    return torch.stack(rows, 2)


@pytest.mark.parametrize("length", [9, 10, 16, 33, 61])
@pytest.mark.parametrize("eager", [0, 128])
def test_a_band_in_blocks_is_the_softmax_over_the_near_tokens(monkeypatch, length, eager):
    monkeypatch.setattr(attention, "BAND_ROWS", 16)
    attention.band_mask.cache_clear()
    generator = torch.Generator().manual_seed(0)
    qkv = [torch.randn(2 * length, 2, 4, generator=generator, requires_grad=True) for _ in range(3)]
    dense = [x.unflatten(0, (2, length)).transpose(1, 2) for x in qkv]
    expected = band_by_hand(*dense, 8).transpose(1, 2).flatten(0, 1)
    found = attention.attend_each(*qkv, [(2, length)], 0.0, None, eager, 8)
    attention.band_mask.cache_clear()
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=generator)
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), qkv) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)
