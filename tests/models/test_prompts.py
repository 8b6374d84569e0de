"""Prompts: sentence-transformers' vectors and mteb's scores with them, in every script and through training."""

import gzip
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from task_folders import write_retrieval, write_rows, write_sts
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from trainings import TINY, stage
from transformers import PreTrainedTokenizerFast
from word_pairs import make_pairs, plain

from gte.data.collate import frame
from gte.data.mining import mine
from gte.data.module import PairData
from gte.data.prompts import fit_prompt, flatten
from gte.data.ranking import rank_dense
from gte.data.task_folder import find_tasks
from gte.data.tokenizer import plain_reader, special_ids
from gte.encoder import Encoder
from gte.errors import UserError
from gte.evaluation.cache import text_keys
from gte.evaluation.model import EncoderModel
from gte.evaluation.tasks import make_task
from gte.models.load import load_encoder
from gte.prompts import find_prompt, prompt_of, with_prompts
from gte.settings import Settings

PROMPTS = {"query": "query: ", "document": "text in a row: "}
TEXTS = ["many words in a row", "", "one two " * 60, "  some more", "query: text"]


@pytest.fixture
def make_model(small_model, tmp_path):
    """A model directory that sentence-transformers saved, with these prompts; and sentence-transformers' own of it."""

    def make(prompts=PROMPTS, default=None, include=True, name="model"):
        pooling = Pooling(32, pooling_mode="mean", include_prompt=include)
        modules = [Transformer(str(small_model)), pooling, Normalize()]
        SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name=default).save(str(tmp_path / name))
        return tmp_path / name, SentenceTransformer(str(tmp_path / name), device="cpu")

    return make


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("include", [True, False])
def test_vectors_behind_a_prompt_are_those_of_sentence_transformers(include, padding_free, make_model):
    folder, peer = make_model(PROMPTS | {"wide": "about " * 20}, "wide", include)
    encoder = Encoder.from_pretrained(folder, padding_free=padding_free)
    assert encoder.packed == padding_free and encoder.lm.config.hidden_dropout_prob > 0
    found = {
        "default": (encoder.encode(TEXTS), peer.encode(TEXTS)),
        "query": (encoder.encode(TEXTS, prompt_name="query"), peer.encode_query(TEXTS)),
        "document": (encoder.encode(TEXTS, prompt_name="document"), peer.encode_document(TEXTS)),
        "none": (encoder.encode(TEXTS, prompt=""), peer.encode(TEXTS, prompt="")),
        "words": (encoder.encode(TEXTS, prompt="them "), peer.encode(TEXTS, prompt="them ")),
    }
    for ours, theirs in found.values():
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for name in ("default", "query", "document", "words"):
        assert np.abs(found[name][0] - found["none"][0]).max() > 1e-3, name


def test_the_prompts_own_tokens_are_pooled_or_not(make_model):
    encoders = [load_encoder(make_model(include=include)[0]) for include in (True, False)]
    vectors = [encoder.encode(TEXTS, prompt_name="query") for encoder in encoders]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_names_are_found_as_sentence_transformers_finds_them():
    settings = Settings(prompts={"query": "q: ", "passage": "p: ", "document": ""}, default_prompt="passage")
    found = [find_prompt(settings, *given) for given in ((), ("query",), ("query", "w "))]
    assert found == ["p: ", "q: ", "w "]
    assert [prompt_of(settings, kind) for kind in ("query", "document")] == ["q: ", "p: "]
    assert find_prompt(Settings()) == prompt_of(Settings(), "document") == ""
    with pytest.raises(UserError, match=r"names no prompt 'sts' \(it has: query, passage, document\)"):
        find_prompt(settings, "sts")
    assert with_prompts(settings, None) == settings
    assert with_prompts(settings, {}) == Settings()
    assert with_prompts(settings, {"passage": "d: "}).prompts == {"document": "d: ", "passage": "d: "}
    with pytest.raises(UserError, match=r"data.x=words must be words by kind, data.x=\{query: 'query: '"):
        with_prompts(settings, "words", "data.x")


def test_a_prompt_that_leaves_nothing_of_a_text_is_refused(small_model):
    encoder = Encoder.from_pretrained(small_model, max_length=8)
    assert encoder.encode(["one"], prompt="two " * 5).shape == (1, 32)
    with pytest.raises(UserError, match=r"the prompt 'two two two two two two ' takes 8 tokens, .* of max_length=8"):
        encoder.encode(["one"], prompt="two " * 6)


# --- evaluation


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A task folder each of retrieval, reranking, STS and classification."""
    folder = tmp_path_factory.mktemp("tasks")
    generator = np.random.default_rng(0)
    words = ["one", "two", "many", "words", "in", "a", "row", "and", "then", "some", "more", "of", "them", "number"]
    texts = [" ".join(generator.choice(words, 6)) for _ in range(120)]
    write_retrieval(folder / "SciFact")
    write_rows(folder / "SciFact" / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    queries = [{"_id": f"q{i}", "text": " ".join(generator.choice(words, 3))} for i in range(3)]
    write_rows(folder / "SciFact" / "queries.jsonl", queries)
    write_sts(folder / "STS12")
    pairs = [{"sentence1": texts[i], "sentence2": texts[i + 40], "score": i % 6} for i in range(40)]
    write_rows(folder / "STS12" / "test.jsonl", pairs)
    rows = [{"text": text, "label": len(text) % 3} for text in texts]
    for split in ("train", "test"):
        write_rows(folder / "EmotionClassification" / f"{split}.jsonl", rows)
    ranked = [
        {"query": texts[i], "positive": texts[i + 1 : i + 3], "negative": texts[i + 9 : i + 15]} for i in range(20)
    ]
    write_rows(folder / "AskUbuntuDupQuestions" / "test.jsonl", ranked)
    return folder


TASKS = ("SciFact", "STS12", "EmotionClassification", "AskUbuntuDupQuestions")
CHOICES = {
    "pair": (PROMPTS, None),
    "default": ({"all": "words: "}, "all"),
    "passage": ({"query": "query: ", "passage": "text: "}, None),
    "by task": (PROMPTS | {"STS": "number: ", "EmotionClassification": "some: ", "SciFact-query": "a row: "}, "query"),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_scores_are_those_of_mteb_with_sentence_transformers(choice, make_model, tasks):
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    folder, peer = make_model(*CHOICES[choice])
    encoder, used, changed = load_encoder(folder), {}, []
    bare = Encoder(encoder.lm, encoder.tokenizer, settings=replace(encoder.settings, prompts={}, default_prompt=None))
    for name in TASKS:
        task = make_task(name, find_tasks(tasks)[name])
        task.load()
        model = EncoderModel(encoder)
        ours, theirs = task.run(model), task.run(SentenceTransformerEncoderWrapper(peer))
        assert ours[task.main_score] == pytest.approx(theirs[task.main_score], abs=1e-3), name
        used[name] = model.prompts_used
        changed.append(ours != task.run(EncoderModel(bare)))
    assert any(changed)
    both, words = {"query": "query: ", "document": "text in a row: "}, {"text": "words: "}
    assert (
        used
        == {
            "pair": dict(zip(TASKS, (both, {}, {}, both), strict=True)),
            "default": dict(zip(TASKS, ({}, words, words, {}), strict=True)),
            "passage": dict(zip(TASKS, ({"query": "query: "}, {}, {}, {"query": "query: "}), strict=True)),
            "by task": dict(
                zip(TASKS, (both | {"query": "a row: "}, {"text": "number: "}, {"text": "some: "}, both), strict=True)
            ),
        }[choice]
    )


def test_a_prompt_that_nobody_reads_is_refused_by_name(script, make_model, tasks, tmp_path):
    folder, _ = make_model()
    write_rows(tmp_path / "pairs.jsonl", [{"query": "one", "pos": "two"}])
    suite = ["suite=mteb", f"data_dir={tasks}", "tasks=[SciFact]"]
    scripts = {"mine": ["in=pairs.jsonl"], "search": ["folder=.", "query=one"], "eval": suite}
    for name, arguments in scripts.items():
        line = script.refused(name, f"checkpoint={folder}", *arguments, "prompts={qurey: 'x '}")
        assert "prompts.qurey is not read here, did you mean query" in line
    line = script.refused("eval", f"checkpoint={folder}", *suite, "prompts={Banking: 'x '}")
    assert "prompts.Banking is not read here" in line
    code, _, err = script("eval", f"checkpoint={folder}", *suite, "out=e", "prompts={STS: 'x ', STS12-query: 'y '}")
    assert code == 0, err  # of other tasks of the suite


def test_a_cached_vector_is_of_one_prompt(make_model):
    texts = ["one", "two", "query: one"]
    keys = [text_keys(texts, prompt).tolist() for prompt in ("", "query: ", "query: ", "other ")]
    assert keys[1] == keys[2] and len({*keys[0], *keys[1], *keys[3]}) == 9
    model = EncoderModel(load_encoder(make_model()[0]))
    behind = [model.embed(["one"], prompt) for prompt in ("query: ", "", "query: ")]
    assert model.encoded == 2 and np.abs(behind[0] - behind[1]).max() > 1e-3
    np.testing.assert_array_equal(behind[0], behind[2])


def test_eval_records_the_prompts_and_takes_others(script, make_model, tasks, tmp_path):
    folder, _ = make_model(CHOICES["passage"][0])

    def score(*options):
        command = [
            "eval",
            f"checkpoint={folder}",
            "suite=mteb",
            f"data_dir={tasks}",
            "tasks=[SciFact]",
            "precision=fp32",
        ]
        code, out, err = script(*command, "out=e", *options)
        assert code == 0, err
        return json.loads((tmp_path / "e" / "results.json").read_text())["models"]["model"], out

    own, out = score()
    assert own["prompts"] == CHOICES["passage"][0] and own["tasks"]["SciFact"]["prompts"] == {"query": "query: "}
    assert "note: mteb has no use for the prompt 'passage'; prompts={query: ..., document: 'text: '}" in out
    given, out = score("prompts={query: 'query: ', document: 'text: '}")
    assert given["tasks"]["SciFact"]["prompts"] == {"query": "query: ", "document": "text: "}
    assert "done before" not in out and "note: mteb" not in out
    bare, _ = score("prompts={}")
    assert bare["tasks"]["SciFact"]["prompts"] == {} and "prompts" not in bare
    scores = [each["tasks"]["SciFact"]["scores"] for each in (own, given, bare)]
    assert scores[0] != scores[1] != scores[2] != scores[0]
    line = script.refused("eval", f"checkpoint={folder}", "suite=mteb", f"data_dir={tasks}", "prompts={query: 3}")
    assert "prompts={'query': 3} must be words by kind" in line


# --- mining, embeddings, search


def test_negatives_are_ranked_behind_the_prompts_and_written_without(script, make_model, tmp_path):
    queries, documents = make_pairs(6, 40)
    queries, documents = ([text.strip() for text in texts] for texts in (queries, documents))
    write_rows(tmp_path / "pairs.jsonl", [{"query": q, "pos": d} for q, d in zip(queries, documents, strict=True)])
    folder, peer = make_model()
    command = ["mine", "in=pairs.jsonl", f"checkpoint={folder}", "negatives=4", "draw=top", "precision=fp32", "depth=4"]
    choices = {"own": [], "none": ["prompts={}"], "given": ["prompts={query: 'many ', document: 'row '}"]}
    found = {}
    for name, options in choices.items():
        code, _, err = script(*command, f"out={name}", *options)
        assert code == 0, err
        with gzip.open(tmp_path / name / "pairs.jsonl.gz", "rt") as lines:
            found[name] = [json.loads(line)["neg"] for line in lines]
    words = {"own": ("query: ", "text in a row: "), "none": ("", ""), "given": ("many ", "row ")}
    for name, (query, document) in words.items():
        embed = {"embed": partial(peer.encode, prompt=document), "embed_queries": partial(peer.encode, prompt=query)}
        rank = partial(rank_dense, **embed)
        assert found[name] == mine(queries, documents, negatives=4, draw="top", depth=4, rank=rank).texts, name
    assert found["own"] != found["none"] != found["given"]
    assert {text for group in found["own"] for text in group} <= set(documents)


def test_negatives_are_ranked_behind_the_prompts_of_each_source(script, make_model, tmp_path):
    queries, documents = make_pairs(7, 60)
    pairs = {q.strip(): d.strip() for q, d in zip(queries, documents, strict=True)}
    pairs = list({plain(document): (query, document) for query, document in pairs.items()}.values())
    files = {"left": pairs[:15], "right": pairs[15:30]}
    for name, rows in files.items():
        write_rows(tmp_path / f"{name}.jsonl", [{"query": q, "pos": d} for q, d in rows])
    own = {"left": ("query: ", "row "), "right": ("many ", ""), "none": ("", "")}
    folder, peer = make_model({"left-query": "query: ", "left-document": "row ", "right-query": "many "})
    other = {"left": ("row ", "many "), "right": ("text ", "in ")}
    given = "prompts={left: {query: 'row ', document: 'many '}, query: 'text ', passage: 'in '}"
    found = {}
    for words, option in ((own, []), (other, [given])):
        command = ["mine", "in=[left.jsonl,right.jsonl]", f"checkpoint={folder}", "negatives=4", "draw=top"]
        code, out, err = script(*command, "precision=fp32", "depth=4", "out=mined", *option)
        assert code == 0 and "no prompt of the model" not in out, out + err
        before = [
            {pair[kind]: words[name][kind] for name, rows in files.items() for pair in reversed(rows)}
            for kind in (0, 1)
        ]
        embed_queries, embed = (
            lambda texts, words_of=words_of: np.stack([peer.encode(text, prompt=words_of[text]) for text in texts])
            for words_of in before
        )
        rank = partial(rank_dense, embed=embed, embed_queries=embed_queries)
        expected = mine(*zip(*pairs[:30], strict=True), negatives=4, draw="top", depth=4, rank=rank).texts
        found[len(found)] = [
            json.loads(line)["neg"]
            for name in files
            for line in gzip.decompress((tmp_path / "mined" / f"{name}.jsonl.gz").read_bytes()).splitlines()
        ]
        assert found[len(found) - 1] == expected
    assert found[0] != found[1]
    line = script.refused(*command, "out=x", "prompts={gone: {query: 'a '}}")
    assert "prompts names the source 'gone'; the sources are left, right" in line
    assert "prompts.left.queri is not read here, did you mean query" in script.refused(
        *command, "out=x", "prompts={left: {queri: 'a '}}"
    )


def test_search_takes_the_prompts_of_a_source_that_is_named(script, make_model, tmp_path):
    folder, peer = make_model({"left-query": "query: ", "left-document": "row ", "right-query": "many "})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("one of many words")
    command = ["search", f"checkpoint={folder}", "folder=notes", "query=one", "precision=fp32"]
    by_source = "prompts={left: {query: 'row ', document: 'in '}, query: 'text '}"
    for options, (query, document) in [
        (["prompt_source=left"], ("query: ", "row ")), (["prompt_source=right"], ("many ", "")), ([], ("", "")),
        (["prompt_source=left", by_source], ("row ", "in ")), (["prompt_source=right", by_source], ("text ", "")),
    ]:  # fmt: skip
        code, out, err = script(*command, *options)
        assert code == 0, err
        expected = peer.encode("one of many words", prompt=document) @ peer.encode("one", prompt=query)
        np.testing.assert_allclose(float(out.strip().splitlines()[-1].split()[1]), expected, atol=6e-4)
        assert ("prompt_source=NAME takes those of a source" in out) == (not options)
    refused = script.refused(*command, "prompt_source=lefd")
    assert "the model names no prompts of it, did you mean left?; it has: left, right" in refused
    assert "prompts by source need the source" in script.refused(*command, by_source)


def test_embed_obeys_the_default_prompt_a_name_and_words(script, make_model, tmp_path):
    folder, peer = make_model(default="document")
    (tmp_path / "a.txt").write_text("one\nmany words\n")
    options = {"prompt=query": "query: ", "prefix='two '": "two ", "prefix=''": "", "device=cpu": "text in a row: "}
    for option, words in options.items():
        code, out, err = script("embed", f"checkpoint={folder}", "in=a.txt", "out=e.npy", "precision=fp32", option)
        assert code == 0, err
        expected = peer.encode(["one", "many words"], prompt=words)
        np.testing.assert_allclose(np.load(tmp_path / "e.npy"), expected, atol=1e-5)
        assert (f"each text behind '{words}'" in out) == bool(words)
    command = ["embed", f"checkpoint={folder}", "in=a.txt", "out=e.npy"]
    assert "names no prompt 'sts' (it has: document, query)" in script.refused(*command, "prompt=sts")
    assert "are both words before each text; give one" in script.refused(*command, "prompt=query", "prefix=x")


def test_search_puts_the_prompts_before_query_and_passages_and_indexes_anew_for_others(script, make_model, tmp_path):
    folder, peer = make_model()
    (tmp_path / "notes").mkdir()
    for name in ("one", "two"):
        (tmp_path / "notes" / f"{name}.md").write_text(f"{name} of many words")
    command = ["search", f"checkpoint={folder}", "folder=notes", "query=one", "top=2", "precision=fp32"]
    for options, words, new in [
        ([], ("query: ", "text in a row: "), 2),
        ([], ("query: ", "text in a row: "), 0),
        (["prompts={query: 'more ', document: 'text in a row: '}"], ("more ", "text in a row: "), None),
        (["prompts={}"], ("", ""), 2),
    ]:
        code, out, err = script(*command, *options)
        assert code == 0 and (new is None or f"{new} of them new" in out), out + err
        documents = peer.encode(["one of many words", "two of many words"], prompt=words[1])
        expected = np.sort(documents @ peer.encode("one", prompt=words[0]))[::-1]
        scores = [float(line.split()[1]) for line in out.strip().splitlines()[-2:]]
        np.testing.assert_allclose(scores, expected, atol=6e-4)


# --- training


def tokenizers():
    """One of each way to treat the blank between a prompt and a text, trained on a few texts."""
    texts = [
        "query: how are words cut?",
        "represent this: many words, in a row (then some)",
        "don't",
        "naïve café",
    ] * 20
    kinds = {
        "words": (
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer,
            pre_tokenizers.BertPreTokenizer(),
        ),
        "bytes": (models.BPE(), trainers.BpeTrainer, pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "pieces": (models.Unigram(), trainers.UnigramTrainer, pre_tokenizers.Metaspace(prepend_scheme="always")),
    }
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    for name, (model, trainer, pre_tokenizer) in kinds.items():
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel() if name == "bytes" else decoders.Metaspace()
        options = {"vocab_size": 330, "special_tokens": special, "show_progress": False}
        options |= {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} if name == "bytes" else {}
        options |= {"unk_token": "[UNK]"} if name == "pieces" else {}
        if name == "words":
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.train_from_iterator(texts, trainer(**options))
        ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
        names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        yield name, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.mark.parametrize("max_length", [10, 40])
@pytest.mark.parametrize(("name", "tokenizer"), tokenizers())
def test_ids_behind_a_prompt_are_the_tokenizers_own_of_the_whole_string(name, tokenizer, max_length):
    texts = ["how are words cut?", "(then some)", "naïve words in a row", "a", "don't " * 30, "many words 123"]
    prefix, suffix = special_ids(tokenizer)
    longest = max_length - len(prefix) - len(suffix)
    flat = flatten([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    for words in ("query: ", "represent this:\n"):
        prompt, wrong = fit_prompt(words, plain_reader(tokenizer), texts, 0, longest, 510, "data.prompts.query")
        assert wrong == 0 and (words[-1] == "\n" or (prompt.reader is None) == (name != "bytes"))
        ids, lengths = frame(*prompt.before(flat, longest), max_length, prefix, suffix)
        expected = tokenizer([words + text for text in texts], truncation=True, max_length=max_length)["input_ids"]
        assert ids.tolist() == sum(expected, []) and lengths.tolist() == [len(each) for each in expected]
        assert max(lengths) == max_length


def test_words_that_run_into_the_text_are_refused_and_a_few_texts_that_differ_are_counted():
    reader, known, unknown = plain_reader(dict(tokenizers())["words"]), ["many words"] * 60, ["☃ words"] * 50
    with pytest.raises(UserError, match=r"data.prompts.a.query='quer': .* 60 of 110 .*, 'many words' .* with a blank"):
        fit_prompt("quer", reader, known + unknown, 0, 30, 510, "data.prompts.a.query")
    counts = [fit_prompt("[", reader, [*texts, *known, *known], 0, 30, 510, "key")[1] for texts in ([], ["SEP] words"])]
    assert counts == [0, 1]


def texts_of(batch) -> list[list[int]]:
    return [part.tolist() for part in np.split(batch.ids_T.numpy(), np.cumsum(batch.lengths_R.numpy()))[:-1]]


@pytest.fixture
def encoder(prepared):
    """A tiny encoder over the prepared folder's tokenizer."""
    from gte.data.module import prepared_tokenizer

    tokenizer = prepared_tokenizer(prepared)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Encoder.from_scratch(tokenizer, **shape, max_length=32)


def test_without_prompts_batches_are_bit_for_bit_the_same(prepared, encoder):
    for name, options in (("pretrain", {}), ("finetune", {"sources": ["triples"]})):
        facts = stage(name, group_size=4 if options else 1)
        plain = PairData(prepared, facts, alpha=0.5, seed=0, **options)
        expected = [plain.steps()[step] for step in range(6)]
        for prompts in (None, {}, {"query": ""}):
            data = PairData(prepared, facts, alpha=0.5, seed=0, **options, prompts=prompts)
            data.set_prompts(encoder)
            for step, old in enumerate(expected):
                new = data.steps()[step]
                assert torch.equal(new.ids_T, old.ids_T) and torch.equal(new.lengths_R, old.lengths_R)
                assert new.skip_R is old.skip_R is None and new[2:7] == old[2:7]
            assert encoder.settings.prompts == {} and "before" not in data.describe()


@pytest.mark.parametrize("include", [True, False])
def test_batches_hold_the_tokenizers_ids_of_prompt_and_text_and_skip_the_prompts(include, prepared, encoder):
    encoder.settings = replace(encoder.settings, include_prompt=include)
    facts = stage("finetune", group_size=3, max_length=12)
    prompts = {"query": "red: ", "document": "blue: ", "triples": {"query": "which: ", "document": "green: "}}
    data = PairData(prepared, facts, alpha=0.5, seed=0, sources=["triples"], prompts=prompts)
    data.set_prompts(encoder)
    rows, table = data.mixture.batch(3)[1], pq.read_table(prepared / "pairs" / "triples.parquet").to_pylist()
    batch, tokenizer = data.steps()[3], encoder.tokenizer

    def ids(words, texts):
        return tokenizer([words + text for text in texts], truncation=True, max_length=12)["input_ids"]

    found = texts_of(batch)
    assert found[:32] == ids("which: ", [table[row]["query"] for row in rows])
    assert found[32:64] == ids("green: ", [table[row]["document"] for row in rows])
    others = [text for row in table for text in (row["document"], *(row["negatives"] or []))]
    assert {*map(tuple, found[64:])} <= {*map(tuple, ids("green: ", others))} and len(found) == 128
    assert "'which: ' before each query, 'green: ' before each document" in data.describe()
    if include:
        assert batch.skip_R is None
        return
    counts = [len(tokenizer(words)["input_ids"]) - 1 for words in ("which: ", "green: ")]
    assert batch.skip_R.tolist() == [counts[0]] * 32 + [counts[1]] * 96
    plan = encoder.plan(batch.lengths_R.numpy(), 512)
    encoder.eval()
    trained = encoder(batch.ids_T, batch.lengths_R, plan, 1.0, batch.skip_R).detach().numpy()
    expected = encoder.encode([table[row]["query"] for row in rows], normalize=False, prompt="which: ")
    short = [row for row in range(32) if len(found[row]) < 12]
    assert len(short) > 16
    np.testing.assert_allclose(trained[short], expected[short], atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        ({"passage": "x "}, r"data.prompts.passage=x : give words as query or document, .* such a pair by source"),
        ({"coulours": {"query": "x "}}, r"names the source 'coulours'; the prepared sources are colours, shapes"),
        ({"colours": {"title": "x "}}, r"data.prompts.colours.title=x : give words as query or document"),
        ({"query": 3}, r"data.prompts.query=3: give words"),
        ({"query": "red " * 30}, r"takes 32 tokens, .* of max_length=32: nothing of a text is left"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused_in_one_line(prompts, line, prepared, encoder):
    data = PairData(prepared, stage(), alpha=0.5, seed=0, prompts=prompts)
    with pytest.raises(UserError, match=line) as error:
        data.set_prompts(encoder)
    assert "\n" not in str(error.value)


def test_the_model_keeps_what_it_was_trained_with(prepared, encoder):
    own = {"query": "old: ", "passage": "old: ", "STS": "sts: "}
    cases = [
        (None, own, "query"),
        ({}, {"STS": "sts: "}, None),
        ({"query": "new: "}, {"STS": "sts: ", "query": "new: "}, "query"),
        (
            {"query": "new: ", "times": {"query": "when: ", "document": "then: "}},
            {
                "STS": "sts: ",
                **{f"{source}-query": "new: " for source in ("colours", "shapes", "triples")},
                "times-query": "when: ",
                "times-document": "then: ",
            },
            None,
        ),
    ]
    for given, kept, default in cases:
        encoder.settings = replace(encoder.settings, prompts=own, default_prompt="query")
        data = PairData(prepared, stage(), alpha=0.5, seed=0, prompts=given)
        data.set_prompts(encoder)
        assert (encoder.settings.prompts, encoder.settings.default_prompt) == (kept, default)
        assert ("the model's own; data.prompts={} is none" in data.describe()) == (given is None)
        assert all(prompts.keys() <= {"query", "document"} for prompts in data.prompts)
    assert data.source_facts()["times"]["prompts"] == {"query": "when: ", "document": "then: "}
    assert "'new: ' before each query of colours, shapes, triples" in data.describe()


def test_words_by_source_are_those_of_the_next_stage_and_go_with_other_ones(prepared, encoder):
    by_source = {"times": {"query": "red: ", "document": "blue: "}}
    for given, said in ((by_source, ""), (None, " (the model's own"), ({}, None)):
        data = PairData(prepared, stage(), alpha=0.5, seed=0, prompts=given)
        data.set_prompts(encoder)
        if said is None:
            assert "before each" not in data.describe() and encoder.settings.prompts == {}
        else:
            assert (
                f"'red: ' before each query of times, 'blue: ' before each document of times{said}" in data.describe()
            )
            assert encoder.settings.prompts == {"times-query": "red: ", "times-document": "blue: "}


def test_a_model_with_words_by_source_alone_is_said_to_rank_without(script, make_model, tmp_path):
    folder, _ = make_model({"times-query": "red: "})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("one of many words")
    code, out, err = script("search", f"checkpoint={folder}", "folder=notes", "query=one")
    assert code == 0 and "no prompt of the model (times-query) is for all queries or documents" in out, err


def test_prompts_go_from_training_into_checkpoints_the_export_and_the_next_stage(script, prepared, tmp_path):
    base = ["train", *TINY, f"data.dir={prepared}", "stage.steps=2", "checkpoint_every=1"]
    code, out, err = script(*base, "out=run", "data.prompts={query: 'red: ', document: 'blue: '}")
    assert code == 0 and "'red: ' before each query, 'blue: ' before each document" in out, err
    encoder = load_encoder(tmp_path / "run")
    assert encoder.settings.prompts == {"query": "red: ", "document": "blue: "}
    code, _, err = script("export", "checkpoint=run", "out=model")
    assert code == 0, err
    peer = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for name, expected in (("query", peer.encode_query(TEXTS)), ("document", peer.encode_document(TEXTS))):
        np.testing.assert_allclose(encoder.encode(TEXTS, prompt_name=name), expected, atol=1e-5)
        np.testing.assert_allclose(peer.encode(TEXTS, prompt_name=name), expected, atol=1e-6)
    assert np.abs(peer.encode_query(TEXTS) - peer.encode_document(TEXTS)).max() > 1e-3
    again = [*base, "stage.init_from=run", "out=next"]
    code, out, err = script(*again)
    own = "'red: ' before each query, 'blue: ' before each document (the model's own; data.prompts={} is none)"
    assert code == 0 and own in out, err
    for last in ("last.ckpt", "step-0000002.ckpt"):
        (tmp_path / "next" / "checkpoints" / last).unlink()
    code, out, err = script(*again, "resume=auto")
    assert code == 0 and own in out, err
    assert load_encoder(tmp_path / "next").settings.prompts == encoder.settings.prompts
