"""Encoder: mean pooling, chunks under a token budget, order, parity with sentence-transformers, recomputation."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from gte.chunks import plan_chunks
from gte.encoder import Encoder
from gte.errors import UserError

DENSE = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Dense", "path": "2_Dense"},
]
TEXTS = [
    "",
    "one",
    "two words",
    "many words in a row and then some more of them " * 9,
    "query about a document",
    " ",
    "one",
]


def flat_inputs(encoder, texts):
    ids = encoder.tokenize(texts)
    lengths = torch.tensor([len(i) for i in ids])
    return torch.tensor(sum(ids, []), dtype=torch.int32), lengths


def test_embedding_is_the_mean_over_the_tokens_special_ones_included(small_model):
    encoder = Encoder.from_pretrained(small_model)
    tokenizer, lm = AutoTokenizer.from_pretrained(small_model), AutoModel.from_pretrained(small_model).eval()
    for text, embedding in zip(TEXTS, encoder.encode(TEXTS, normalize=False), strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        hidden = lm(**inputs).last_hidden_state[0]
        np.testing.assert_allclose(embedding, hidden.mean(0).detach(), atol=2e-6)


def test_order_chunks_and_budget_change_nothing(small_model):
    encoder = Encoder.from_pretrained(small_model)
    texts = [f"{'number ' * (7 * i % 23)}{i}" for i in range(90)]
    reference = encoder.encode(texts)
    np.testing.assert_allclose(encoder.encode(texts, batch_tokens=64), reference, atol=2e-6)
    backwards = encoder.encode(texts[::-1])
    np.testing.assert_allclose(backwards[::-1], reference, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(reference, axis=1), 1, atol=1e-6)


def test_encoding_in_blocks_keeps_the_order(small_model, monkeypatch):
    encoder = Encoder.from_pretrained(small_model)
    texts = [f"text number {i}" for i in range(50)]
    reference = encoder.encode(texts)
    monkeypatch.setattr("gte.encoder.ENCODE_BLOCK", 16)
    np.testing.assert_allclose(encoder.encode(texts), reference, atol=2e-6)


def test_no_texts_give_no_rows(small_model):
    assert Encoder.from_pretrained(small_model).encode([]).shape == (0, 32)


def test_parity_with_sentence_transformers_on_a_real_model(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    peer = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    encoder = Encoder.from_pretrained(minilm)
    texts = [
        "",
        " ",
        "A girl is styling her hair.",
        "long " * 900,
        "naïve café 東京 🙂",
        "x" * 3000,
        "def f(x):\n    return x",
    ]
    texts += [f"{'word ' * (i * 13 % 70)}{i}" for i in range(40)]
    assert encoder.max_length == peer.max_seq_length == 256
    expected = peer.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    assert len(encoder.tokenize(["long " * 900])[0]) == 256  # really cut


def test_bf16_embeddings_point_where_float32_ones_do(minilm):
    encoder = Encoder.from_pretrained(minilm)
    texts = ["A girl is styling her hair.", "Graph colouring is NP-hard. " * 12, "short"]
    exact, rounded = encoder.encode(texts), encoder.encode(texts, precision="bf16")
    assert (exact * rounded).sum(1).min() > 0.9995
    assert not np.array_equal(exact, rounded)


@pytest.mark.parametrize("budget", [64, 200, 10_000])
def test_plan_covers_every_text_once_within_the_budget_and_counts_padding(budget):
    lengths = np.random.default_rng(0).integers(1, 64, size=300)
    plan = plan_chunks(lengths, budget)
    assert sorted(np.concatenate(plan.chunks)) == list(range(300))
    computed = [len(rows) * lengths[rows].max() for rows in plan.chunks]
    assert max(computed) <= budget
    assert plan.padding == pytest.approx(1 - lengths.sum() / sum(computed))
    if budget == 200:
        assert 0 < plan.padding < 0.05 < 1 - lengths.mean() / lengths.max()


def test_a_budget_below_one_text_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"batch_tokens=10 .* 12 tokens"):
        plan_chunks(np.array([3, 12]), 10)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_recomputed_chunks_give_the_same_gradients_with_dropout(small_model, fraction):
    encoder = Encoder.from_pretrained(small_model).train()
    ids, lengths = flat_inputs(encoder, [f"{'number ' * (i % 11)}{i}" for i in range(40)])
    plan = plan_chunks(lengths.numpy(), 64)
    weights = torch.randn(40, encoder.width)
    assert len(plan.chunks) > 4

    def gradients(fraction):
        torch.manual_seed(1)
        encoder.zero_grad()
        embeddings = encoder(ids, lengths, plan, fraction)
        (embeddings * weights).sum().backward()
        return embeddings.detach(), {name: p.grad.clone() for name, p in encoder.lm.named_parameters()}

    kept, kept_gradients = gradients(0.0)
    again, again_gradients = gradients(fraction)
    torch.testing.assert_close(again, kept)
    for name, gradient in kept_gradients.items():
        torch.testing.assert_close(again_gradients[name], gradient, msg=name)
    torch.manual_seed(2)
    assert not torch.equal(encoder(ids, lengths, plan, fraction), kept)  # dropout was on


def test_forward_returns_rows_in_the_order_of_the_texts(small_model):
    encoder = Encoder.from_pretrained(small_model).eval()
    ids, lengths = flat_inputs(encoder, TEXTS)
    rows = encoder(ids, lengths, plan_chunks(lengths.numpy(), 64))
    expected = encoder.encode(TEXTS, normalize=False)
    np.testing.assert_allclose(rows.detach(), expected, atol=2e-6)


def test_saved_directory_loads_again_with_its_length(small_model, tmp_path):
    encoder = Encoder.from_pretrained(small_model, max_length=20)
    encoder.save(tmp_path)
    again = Encoder.from_pretrained(tmp_path)
    assert again.max_length == 20
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_a_name_that_cannot_be_downloaded_says_how_to_give_a_local_directory():
    with pytest.raises(UserError, match=r"cannot load the model 'no-such/model'.*model.name_or_path=") as error:
        Encoder.from_pretrained("no-such/model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False},
            r"1_Pooling/config\.json: pooling_mode=\['max'\]; this encoder pools by one of mean, cls",
        ),
        ("sentence_bert_config.json", {"max_seq_length": 2.5}, "max_seq_length=2.5 must be a number of tokens"),
        ("modules.json", DENSE, r"modules\.json: module 2 \('2_Dense'\) is Dense"),
    ],
)
def test_directories_that_embed_in_another_way_are_refused(minilm, tmp_path, file, content, message):
    shutil.copytree(minilm, tmp_path / "model")
    (tmp_path / "model" / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        Encoder.from_pretrained(tmp_path / "model")


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no model directory"):
        Encoder.from_pretrained(tmp_path)


def test_from_scratch_has_the_asked_sizes_and_depends_on_the_seed_alone(small_model):
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, max_length=40)
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(Encoder.from_scratch(tokenizer, **sizes))
    assert models[0].width == 16 and len(models[0].lm.encoder.layer) == 3 and models[0].max_length == 40
    one, same, other = (model.encode(["some text"]) for model in models)
    assert np.array_equal(one, same) and not np.allclose(one, other)
