"""Tokenizers: trained ones are the same everywhere, and token ids are exactly the tokenizer's own."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from word_pairs import corpus

from gte.data.tokenizer import (
    fingerprint,
    load_tokenizer,
    special_ids,
    train_tokenizer,
    without_long_words,
    wrap_wordpiece,
)
from gte.data.tokens import Tokens
from gte.errors import UserError

ROOT = Path(__file__).parents[2]
ODD = [
    "", " ", "\n\t", "The CAFÉ's naïve résumé", "x" * 150, "[MASK] and [CLS]x [sep]", "a\x00b\x0bc\x0cd\x1ee",
    "日本語 漢字", "e\u0301 combining", "\u00a0nbsp\u2003em", "tab\there", "emoji \U0001f600 done", "...---!!!",
    "\u017ftrange \ufb01 İstanbul ΣΑΣ", "snake_case camelCase x.y(z)[0]", "\u200bzero\u200bwidth", "don't-stop",
    "\uff46\uff55\uff4c\uff4c width", "한국어", "\u0928\u092e\u0938\u094d\u0924\u0947 words", "a\u0300", "\x7f",
]  # fmt: skip


RANGES = [
    (32, 127),
    (32, 127),
    (97, 123),
    (0, 32),
    (0x80, 0x250),
    (0x250, 0x3000),
    (0x3000, 0xD7FF),
    (0x1F300, 0x1F700),
]


def fuzz(seed: int, texts: int = 300) -> list[str]:
    """Texts of characters from everywhere: ASCII, controls, accents, scripts, symbols."""
    rng = random.Random(seed)

    def character() -> str:
        return chr(rng.randrange(*rng.choice(RANGES)))

    def piece() -> str:
        return rng.choice(["[MASK]", " ", " ", "word", "\n"]) if rng.random() < 0.3 else character()

    return ["".join(piece() for _ in range(rng.randrange(60))) for _ in range(texts)]


@pytest.fixture(scope="module")
def wordpiece() -> PreTrainedTokenizerFast:
    return train_tokenizer(corpus(), 300)


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer of another kind: RoBERTa's way, with <s> text </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def saved_bytes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


TRAIN = """
import sys
sys.path.insert(0, "tests/helpers")
from word_pairs import corpus
from gte.data.tokenizer import train_tokenizer
texts = corpus()[:: int(sys.argv[2])]
train_tokenizer(texts, 300).save_pretrained(sys.argv[1])
"""


def test_the_same_texts_give_the_same_bytes_in_any_order_process_and_number_of_threads(wordpiece, tmp_path):
    wordpiece.save_pretrained(tmp_path / "here")
    env = {**os.environ, "PYTHONPATH": "src", "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", TRAIN, str(tmp_path / "there"), "-1"], cwd=ROOT, env=env, check=True)
    train_tokenizer(corpus(seed=1), 300).save_pretrained(tmp_path / "other")
    here = saved_bytes(tmp_path / "here")
    assert "tokenizer.json" in here and here == saved_bytes(tmp_path / "there")
    assert here != saved_bytes(tmp_path / "other")


def test_training_is_the_same_in_every_script(tmp_path):
    texts = fuzz(3, 2_000) + ODD
    first, *others = (train_tokenizer(order, 2_000).get_vocab() for order in (texts, texts[::-1], texts))
    assert all(other == first for other in others)
    assert any(ord(max(token)) > 0x3000 for token in first)


def test_a_trained_directory_loads_as_a_fast_bert_like_tokenizer(wordpiece, tmp_path):
    wordpiece.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast and len(loaded) <= 300 and loaded.pad_token_id == 0
    ids = loaded("Tokens, PAIRS")["input_ids"]
    assert loaded.convert_ids_to_tokens([ids[0], ids[-1]]) == ["[CLS]", "[SEP]"] and loaded.unk_token_id not in ids
    assert loaded.decode(ids, skip_special_tokens=True) == "tokens, pairs"
    assert ids == wordpiece("tokens, pairs")["input_ids"]  # uncased
    assert loaded("CAFE\u0301 xyz漢")["input_ids"] == wordpiece("cafe xyz漢")["input_ids"]  # no accents
    assert loaded("token [MASK]")["input_ids"].count(loaded.mask_token_id) == 1
    assert loaded.model_max_length == 512
    assert not set(wordpiece.all_special_tokens) - {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def test_words_too_long_to_be_cut_are_not_trained_on_and_all_others_are(wordpiece):
    """Counted in letters, not in seconds: the trainer's time goes by the square of a word's."""
    rust = wordpiece.backend_tokenizer
    endless = "".join(random.Random(0).choices("abcdefgh", k=200_000))
    url = "https://example.org/" + "/".join(f"part{n}?x=É" for n in range(30))
    text = f"Some words, {endless}. then {url} and {'汉' * 300}"
    kept = without_long_words(text, rust)

    def words(text: str) -> list[str]:
        return [word for word, _ in rust.pre_tokenizer.pre_tokenize_str(rust.normalizer.normalize_str(text))]

    assert len(kept) < 2 * (len(url) + 400)
    assert words(kept) == [word for word in words(text) if len(word) <= 100]
    assert wordpiece.tokenize(endless) == wordpiece.tokenize("a" * 101) == ["[UNK]"]
    assert len(wordpiece.tokenize("a" * 100)) > 1
    texts = [f"the word{n % 7} and number{n} again" for n in range(40)]
    spelt = train_tokenizer([*texts, "abcdefgh " * 2 + url], 200).get_vocab()
    assert train_tokenizer([*texts, f"abcdefgh {endless[:5_000]} abcdefgh {url}"], 200).get_vocab() == spelt


def test_a_vocabulary_below_the_alphabet_is_refused():
    with pytest.raises(UserError, match=r"data\.vocab_size=20 does not even hold the"):
        train_tokenizer(corpus(), 20)


def test_the_special_tokens_around_a_text_are_the_tokenizers_own(wordpiece):
    assert special_ids(wordpiece) == ([2], [3])
    assert special_ids(byte_level()) == ([0], [2])


def test_a_tokenizer_that_pads_of_itself_adds_no_padding_to_the_special_tokens():
    padding = wrap_wordpiece({token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])})
    padding.backend_tokenizer.enable_padding(length=16)
    assert len(padding.backend_tokenizer.encode("a").ids) == 16
    assert special_ids(padding) == ([2], [3])


def test_a_fingerprint_tells_tokenizers_apart_and_survives_saving(wordpiece, tmp_path):
    wordpiece.save_pretrained(tmp_path)
    assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(wordpiece)
    others = [train_tokenizer(corpus(), 90), train_tokenizer([*corpus(), "zebra zebra"], 300), byte_level()]
    assert len({fingerprint(tokenizer) for tokenizer in [wordpiece, *others]}) == 4


def test_a_tokenizer_that_cannot_be_had_is_one_line_with_the_way_out(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in ("nowhere/nothing", str(tmp_path)):
        with pytest.raises(UserError) as error:
            load_tokenizer(name)
        assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(UserError, match=r"pass a local directory: data\.tokenizer=/path"):
        load_tokenizer("nowhere/nothing")


def own_ids(tokenizer, texts: list[str], max_tokens: int) -> list[list[int]]:
    """Oracle: transformers, text by text."""
    return [
        tokenizer(text, add_special_tokens=False, truncation=True, max_length=max_tokens)["input_ids"] for text in texts
    ]


@pytest.mark.parametrize("max_tokens", [5, 510])
def test_token_ids_are_the_tokenizers_own_for_any_text(wordpiece, max_tokens):
    texts = ODD + corpus(5) + fuzz(1) + fuzz(2)
    tokens = Tokens(wordpiece, max_tokens)
    expected = own_ids(wordpiece, texts, max_tokens)
    assert tokens.by_words
    for _ in range(2):  # the second time from memory
        assert tokens.encode(texts).to_pylist() == expected
    assert any(len(ids) == 5 for ids in expected) and any(wordpiece.unk_token_id in ids for ids in expected)


def test_tokenizers_of_another_kind_get_the_whole_texts():
    tokenizer = byte_level()
    tokens = Tokens(tokenizer, 30)
    texts = ODD + corpus(5)
    assert not tokens.by_words and tokens.encode(texts).to_pylist() == own_ids(tokenizer, texts, 30)


def test_an_added_token_that_looks_around_itself_is_respected(wordpiece, tmp_path):
    wordpiece.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_tokens([AddedToken("pair", lstrip=True)])
    tokens = Tokens(tokenizer, 30)
    texts = ["a  pair of", "pairs and pair"]
    assert not tokens.by_words and tokens.encode(texts).to_pylist() == own_ids(tokenizer, texts, 30)


def test_the_spelling_of_an_added_token_counts_in_its_own_case_only(wordpiece, tmp_path):
    wordpiece.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_tokens([AddedToken("pair", normalized=False), AddedToken("[x]", normalized=False)])
    tokens = Tokens(tokenizer, 30)
    texts = ["PAIR pair Pairs", "[X] [x] a[x]b a[X]é", "É[X] É[x]", "repair"]
    expected = own_ids(tokenizer, texts, 30)
    assert tokens.by_words and tokens.encode(texts).to_pylist() == expected
    assert len(wordpiece) in expected[1]


def test_texts_come_from_anywhere_in_an_arrow_array_or_from_a_list(wordpiece):
    texts = ["", " before it", *corpus(6, 30), "", "日本 two", ""]
    tokens = Tokens(wordpiece, 30)
    expected = own_ids(wordpiece, texts, 30)
    for kind in (pa.string(), pa.large_string()):
        assert tokens.encode(pa.array(texts, kind)).to_pylist() == expected
        assert tokens.encode(pa.array(texts, kind).slice(3, 20)).to_pylist() == expected[3:23]
    assert tokens.encode([]).to_pylist() == [] and tokens.encode(["", " "]).to_pylist() == [[], []]


def test_texts_that_come_in_several_blocks_have_the_same_ids(wordpiece, monkeypatch):
    texts = ODD + corpus(7, 50)
    expected = own_ids(wordpiece, texts, 30)
    monkeypatch.setattr("gte.data.tokens.BLOCK_BYTES", 100)
    assert Tokens(wordpiece, 30).encode(texts).to_pylist() == expected


@pytest.mark.parametrize("max_tokens", [5, 510])
def test_nanotoken_gives_the_tokenizers_own_ids_or_is_not_used(wordpiece, max_tokens, monkeypatch):
    pytest.importorskip("nanotoken", reason="pip install -r requirements-tokens.txt")
    texts = ODD + corpus(5) + fuzz(1) + fuzz(2)
    expected = own_ids(wordpiece, texts, max_tokens)
    tokens = Tokens(wordpiece, max_tokens)
    assert tokens.nanotoken is not None and tokens.encode(texts).to_pylist() == expected
    assert tokens.nanotoken is not None and tokens.compared > 500

    class Other:
        def encode_batch(self, texts, **_):
            return np.zeros(len(texts), np.uint32), np.arange(len(texts) + 1)

    monkeypatch.setattr("gte.data.tokens.read_nanotoken", lambda rules: Other())
    tokens = Tokens(wordpiece, max_tokens)
    for _ in range(2):
        assert tokens.encode(texts).to_pylist() == expected and tokens.nanotoken is None


def without_nanotoken(tokenizer, max_tokens: int) -> Tokens:
    tokens = Tokens(tokenizer, max_tokens)
    tokens.nanotoken = None
    return tokens


def test_long_texts_are_cut_to_the_same_tokens_without_reading_them_all(wordpiece):
    tokens = without_nanotoken(wordpiece, 20)
    texts = [
        "pair search " * 5_000,
        "x" * 9_000,
        " " * 9_000 + "pair",
        ("y" * 120 + " ") * 100,
        "日本 " * 5_000,
        "short",
    ]
    assert tokens.encode(texts).to_pylist() == own_ids(wordpiece, texts, 20)
    seen = []
    tokens.ids, ids = lambda data, edges: (seen.append(len(data)), ids(data, edges))[1], tokens.ids
    tokens.encode(["pair search " * 5_000])
    assert seen and max(seen) <= 20 * 16


def test_forgetting_words_changes_nothing(wordpiece, monkeypatch):
    monkeypatch.setattr("gte.data.tokens.MAX_WORDS", 10)
    tokens = Tokens(wordpiece, 510)
    for seed in range(3):
        assert tokens.encode(corpus(seed, 50)).to_pylist() == own_ids(wordpiece, corpus(seed, 50), 510)


def test_a_text_that_cannot_be_read_leaves_no_word_without_its_ids(wordpiece):
    tokens = Tokens(wordpiece, 510)
    with pytest.raises(TypeError):
        tokens.encode(["some words before \ud800"])
    texts = ["other words", "some words before"]
    assert tokens.encode(texts).to_pylist() == own_ids(wordpiece, texts, 510)


def test_ids_are_16_bit_where_the_vocabulary_allows(wordpiece):
    assert str(Tokens(wordpiece, 5).encode(["pair"]).type.value_type) == "uint16"
    vocabulary = {**wordpiece.get_vocab(), **{f"filler{i}": len(wordpiece) + i for i in range(2**16)}}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    wide = Tokens(PreTrainedTokenizerFast(tokenizer_object=tokenizer), 5)
    ids = wide.encode([f"filler{2**16 - 1}"])
    assert str(ids.type.value_type) == "uint32" and ids.to_pylist() == [[len(wordpiece) + 2**16 - 1]]
