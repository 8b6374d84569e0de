"""Encoder: mean pooling, chunks under a token budget, order, parity with sentence-transformers, recomputation."""

import copy
import json
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import cuda_on_cpu
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from gte.chunks import plan_chunks
from gte.encoder import Encoder
from gte.errors import UserError
from gte.models.fast_ids import FastIds

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
    monkeypatch.setattr("gte.models.encoding.ENCODE_BLOCK", 16)
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
    plan = encoder.plan(lengths.numpy(), 64)
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
    rows = encoder(ids, lengths, encoder.plan(lengths.numpy(), 64))
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


ODD_TEXTS = [
    *(
        "",
        " ",
        "one",
        "Two WORDS, and more.",
        "x" * 3000,
        "many words " * 300,
        "na\u00efve caf\u00e9 \u6771\u4eac \U0001f642",
    ),
    *(
        "[SEP] in a text [MASK]",
        "a\tb\nc\x00d\x7fe",
        "  leading, trailing  ",
        "e\u0301 combined",
        "under_score-dash",
        "</s><pad>",
    ),
]


def tokenizers(folder, minilm, tmp_path):
    """By name: of several kinds and settings."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(ODD_TEXTS, trainer)
    no_specials = PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="<pad>")
    ours, added, real = (AutoTokenizer.from_pretrained(path) for path in (folder, folder, minilm))
    left, raw = (AutoTokenizer.from_pretrained(folder) for _ in range(2))
    left.truncation_side, raw.split_special_tokens = "left", True
    added.add_tokens(["under_score", "caf\u00e9"])

    class Own(type(real)):
        def __call__(self, texts, **options):
            return super().__call__([text.replace("o", "0") for text in texts], **options)

    own = Own.from_pretrained(minilm)
    return dict(bert=ours, left=left, raw=raw, added=added, padding_to_128=real, own_call=own, bytes=no_specials)


@pytest.mark.parametrize("cores", [1, 16])
@pytest.mark.parametrize("max_length", [3, 12, 64])
def test_ids_are_those_of_the_tokenizers_own_call(small_model, minilm, tmp_path, monkeypatch, cores, max_length):
    monkeypatch.setattr("gte.models.fast_ids.cores", lambda: cores)
    by_words = set()
    for name, tokenizer in tokenizers(small_model, minilm, tmp_path).items():
        fast = FastIds(tokenizer, max_length)
        ids, lengths = fast(ODD_TEXTS)  # before the call, which takes the tokenizer's own padding away
        expected = tokenizer(ODD_TEXTS, truncation=True, max_length=max_length)["input_ids"]
        assert ids.tolist() == sum(expected, []) and lengths.tolist() == list(map(len, expected)), name
        by_words |= {name} if fast.words else set()
    assert by_words == ({"bert", "padding_to_128"} if cores == 1 else set())
    assert fast([])[0].shape == (0,)


def test_a_changed_tokenizer_or_length_is_read_anew(small_model):
    encoder = Encoder.from_pretrained(small_model)
    first = encoder.token_ids()
    assert encoder.token_ids() is first
    encoder.tokenizer.truncation_side = "left"
    assert encoder.token_ids() is not first
    encoder.tokenizer.add_tokens(["colour"])
    assert encoder.token_ids()(["colour"])[0].tolist() == encoder.tokenizer("colour")["input_ids"]


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ("a", "pair")])
def test_what_is_no_text_is_named_with_its_number(small_model, monkeypatch, wrong):
    monkeypatch.setattr("gte.models.encoding.ENCODE_BLOCK", 8)
    texts = ["a text"] * 20 + [wrong]  # in the third block, so in the thread
    with pytest.raises(TypeError, match=f"number 20 is a {type(wrong).__name__}: "):
        Encoder.from_pretrained(small_model).encode(texts)


@pytest.mark.parametrize("cores", [1, 8])
def test_a_text_that_is_refused_changes_no_later_vectors(small_model, monkeypatch, cores):
    monkeypatch.setattr("gte.models.fast_ids.cores", lambda: cores)
    encoder = Encoder.from_pretrained(small_model)
    with pytest.raises(UserError, match="text number 1 holds half of a surrogate pair"):
        encoder.encode(["some new words", "one more \ud800"])
    assert bool(encoder.token_ids().words) is (cores == 1)
    texts = ["then some new words", "and one more of them", "a document"]
    np.testing.assert_array_equal(encoder.encode(texts), Encoder.from_pretrained(small_model).encode(texts))


@pytest.mark.parametrize("cores", [1, 8])
def test_an_encoder_that_has_encoded_is_copied_and_pickled(small_model, monkeypatch, cores):
    monkeypatch.setattr("gte.models.fast_ids.cores", lambda: cores)
    encoder = Encoder.from_pretrained(small_model)
    expected = encoder.encode(TEXTS)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert other.fast_ids is None and encoder.fast_ids is not None
        np.testing.assert_array_equal(other.encode(TEXTS), expected)


def test_threads_that_encode_at_once_get_their_own_vectors_and_the_mode_stays(small_model, monkeypatch):
    monkeypatch.setattr("gte.models.fast_ids.cores", lambda: 1)
    monkeypatch.setattr("gte.models.encoding.ENCODE_BLOCK", 4)
    texts = [f"number {n} of many words, {n % 7} more" for n in range(120)]
    expected = Encoder.from_pretrained(small_model).encode(texts)
    encoder = Encoder.from_pretrained(small_model).train()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: encoder.encode(texts[n:] + texts[:n]), range(0, 120, 10)))
    for n, x_ND in zip(range(0, 120, 10), found, strict=True):
        np.testing.assert_allclose(np.roll(x_ND, n, axis=0), expected, atol=1e-5)
    assert all(module.training for module in encoder.modules())


def test_what_encode_does_not_take_is_said_at_once(small_model):
    encoder = Encoder.from_pretrained(small_model)
    with pytest.raises(UserError, match="precision=fp64 is unknown; choose fp32, bf16, fp16"):
        encoder.encode(TEXTS, precision="fp64")
    with pytest.raises(TypeError, match="takes a list of texts, got one generator"):
        encoder.encode(text for text in TEXTS)


def test_the_next_block_is_tokenised_while_one_is_encoded(small_model, monkeypatch):
    monkeypatch.setattr("gte.models.encoding.ENCODE_BLOCK", 8)
    encoder = Encoder.from_pretrained(small_model)
    tokenised = {start: threading.Event() for start in (0, 8, 16)}
    ids, embed, order, encoded = encoder.token_ids(), encoder.embed, [], []

    def told(texts, first, prompt):
        order.append(first)
        found = ids(texts, first, prompt)
        tokenised[first].set()
        return found

    def after_the_next(placed, chunk):
        encoded.append(len(placed.host_lengths_N))
        assert tokenised[min(8 * len(encoded), 16)].wait(10)
        assert len(order) <= len(encoded) + 1  # and none further ahead
        return embed(placed, chunk)

    monkeypatch.setattr(encoder, "token_ids", lambda: told)
    monkeypatch.setattr(encoder, "embed", after_the_next)
    assert encoder.encode(["a text"] * 24).shape == (24, 32)
    assert order == [0, 8, 16] and encoded == [8, 8, 8]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_in_half_precision_on_a_gpu_keep_the_direction(minilm, monkeypatch, precision):
    encoder = Encoder.from_pretrained(minilm)
    texts = ["A girl is styling her hair.", "Graph colouring is NP-hard. " * 12, "short", "", "\u6771\u4eac"]
    exact = encoder.encode(texts)
    with cuda_on_cpu.pretended(monkeypatch):
        rounded = encoder.encode(texts, precision=precision)
        assert cuda_on_cpu.calls == [("flash", None)] * 6 and not np.array_equal(exact, rounded)
    assert (exact * rounded).sum(1).min() > 0.999


def test_the_weights_of_a_training_are_as_they_were_after_encode_in_half_precision(small_model, monkeypatch):
    encoder = Encoder.from_pretrained(small_model)
    encoder.lm.tied = encoder.lm.embeddings.word_embeddings  # a weight in two places
    before = {name: (p, p.detach().clone()) for name, p in encoder.named_parameters(remove_duplicate=False)}
    hung, called = [], []
    for parameter in encoder.lm.parameters():  # as DistributedDataParallel does: on the node that adds its gradient
        node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
        node.register_hook(lambda *given: called.append(0))
        hung.append(node)
    with cuda_on_cpu.pretended(monkeypatch):
        first = encoder.encode(["a text"], precision="fp16")
        with monkeypatch.context() as patch:
            patch.setattr(encoder, "embed", lambda *given: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                encoder.encode(["a text"], precision="fp16")
        for name, parameter in encoder.named_parameters(remove_duplicate=False):
            assert parameter is before[name][0] and torch.equal(parameter, before[name][1]), name
        with torch.no_grad():  # a step of training
            encoder.lm.embeddings.word_embeddings.weight.neg_()
        assert not np.allclose(encoder.encode(["a text"], precision="fp16"), first, atol=0.01)
    ids, lengths = flat_inputs(encoder, ["a text"])
    encoder(ids, lengths, encoder.plan(lengths.numpy(), 64)).sum().backward()
    assert len(called) == len(hung) > 30
