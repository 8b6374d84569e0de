"""Tokenizers: loaded from a directory or the hub, or trained here; what identifies one."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from gte.errors import UserError
from gte.files import read_json
from gte.hub import SMALL_FILES, download, loading
from gte.remote import check_revision

if TYPE_CHECKING:  # it loads PyTorch: two seconds, in which a preparation's workers can start
    from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# sentence-transformers names a file of settings after one of these, whatever the language model
TRANSFORMER_KINDS = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]
LONGEST_WORD = 100  # letters of a word that WordPiece cuts; a longer one is [UNK]
LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1}}}")
ALPHABET = 400  # single characters a trained vocabulary may hold; rarer ones become [UNK]


def load_tokenizer(name_or_path: str | Path, revision: str | None = None) -> "PreTrainedTokenizerFast":
    """Load the fast tokenizer of a local directory or of a model on the hub.

    Args:
        name_or_path: a directory, or owner/name on the hub.
        revision: branch, tag or commit on the hub; None is the newest. Of a directory it is refused.
    Raises: UserError where neither gives one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train_tokenizer(["a text"] * 9, vocab_size=64).save_pretrained(folder)
    ...     tokenizer = load_tokenizer(folder)
    >>> tokenizer.convert_ids_to_tokens(tokenizer("Text")["input_ids"])
    ['[CLS]', 'text', '[SEP]']
    """
    name = str(name_or_path)
    check_revision(name, revision)
    way_out = "pass a local directory: data.tokenizer=/path/to/model, or train one: data.tokenizer=null"
    with loading("tokenizer", name, way_out) as local:
        root = Path(name) if Path(name).exists() else download(name, local, SMALL_FILES, revision)
        return open_tokenizer(root / dict(read_modules(root)).get("Transformer", ""))


def commit_of(tokenizer: "PreTrainedTokenizerFast") -> str | None:
    """The commit on the hub that a tokenizer was read at, by the hub's cache; None for one of another directory."""
    found = re.search(r"/snapshots/([0-9a-f]{40})(?:/|$)", str(tokenizer.name_or_path))
    return found and found[1]


def open_tokenizer(folder: Path, trust_remote_code: bool = False) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of a language model's directory. Raises UserError where it is none, or not all of it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(f"{folder} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    file, settings = read_transformer(folder)
    normalizer = backend(tokenizer).normalizer
    if settings.get("do_lower_case") and (normalizer is None or normalizer.normalize_str("A") != "a"):
        # transformers forgets a normalizer that it is given when it saves the tokenizer of a BERT
        raise UserError(f"{file}: do_lower_case is not supported; put a lower-casing normalizer in the tokenizer")
    return tokenizer


def read_modules(root: Path) -> list[tuple[str, str]]:
    """The kind and path of each module of a sentence-transformers directory, in order; none of any other directory.

    Raises UserError where modules.json is not what sentence-transformers writes.
    """
    file = root / "modules.json"
    if not file.exists():
        return []
    modules = []
    for part in read_json(file, list):
        if not (isinstance(part, dict) and all(isinstance(part.get(key), str) for key in ("type", "path"))):
            raise UserError(f"{file} is no list of modules, each with its type and path")
        known = re.fullmatch(r"sentence_transformers\.(\w+\.)*(?P<kind>\w+)", part["type"])
        if part["path"].startswith("/") or ".." in part["path"].split("/"):
            raise UserError(f"{file}: the path {part['path']} leads out of the model's directory")
        modules.append((known["kind"] if known else f"{part['type']} of another package", part["path"]))
    return modules


def read_transformer(folder: Path) -> tuple[Path, dict]:
    """The file in which sentence-transformers keeps settings of a language model, and them; none where it is absent."""
    files = [folder / f"sentence_{kind}_config.json" for kind in TRANSFORMER_KINDS]
    file = next((file for file in files if file.exists()), files[0])
    return file, read_json(file) if file.exists() else {}


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train an uncased WordPiece in BERT's manner, [CLS] text [SEP].

    A function of the texts as a multiset: their order, the number of threads and the process make no difference.

    Args:
        texts: the training texts.
        vocab_size: the most entries that the vocabulary may have.
    Raises: UserError where vocab_size does not even hold the special tokens and the alphabet.

    >>> tokenizer = train_tokenizer(["low lower lowest"] * 9, vocab_size=32)
    >>> tokenizer.tokenize("Lower")
    ['lower']
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = frequent_characters(texts, tokenizer.normalizer)
    # The trainer numbers '##x' in the order of a hash map, another in each process, and breaks ties by these numbers.
    # Stated as special tokens they get fixed ones; only the vocabulary is taken over, so nothing stays special.
    joined = [f"##{character}" for character in alphabet if continues_word(character, tokenizer)]
    fixed = SPECIAL + alphabet + joined
    if vocab_size < len(fixed):
        raise UserError(
            f"data.vocab_size={vocab_size} does not even hold the {len(fixed)} special tokens and characters of these "
            f"texts; give more, {4 * len(fixed)} say"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=fixed, initial_alphabet=alphabet, limit_alphabet=len(alphabet),
        show_progress=False,
    )  # fmt: skip
    short = [without_long_words(text, tokenizer) for text in texts]  # now: in training it waits for its own lock
    tokenizer.train_from_iterator(short, trainer)
    return wrap_wordpiece(tokenizer.get_vocab())


def without_long_words(text: str, tokenizer: Tokenizer) -> str:
    """A text without the words that WordPiece reads as [UNK] whatever its vocabulary is, those of over LONGEST_WORD
    letters. The trainer would take time by the square of their length: 47 s for one of 200,000 letters."""
    if not LONG_WORD.search(text):
        return text
    words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    return " ".join(word for word, _ in words if len(word) <= LONGEST_WORD)


def wrap_wordpiece(vocabulary: dict[str, int]) -> "PreTrainedTokenizerFast":
    """A fast tokenizer over a WordPiece vocabulary that holds SPECIAL, uncased, [CLS] text [SEP]."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def frequent_characters(texts: Sequence[str], normalizer: normalizers.Normalizer) -> list[str]:
    """The at most ALPHABET most frequent characters of the normalised texts, in order of code point."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for start in range(0, len(texts), 10_000):
        codes = np.frombuffer("".join(texts[start : start + 10_000]).encode("utf-32-le"), dtype=np.uint32)
        counts += np.bincount(codes, minlength=len(counts))
    normalised: Counter[str] = Counter()
    for code in counts.nonzero()[0]:
        for character in normalizer.normalize_str(chr(code)):
            if not character.isspace():
                normalised[character] += int(counts[code])
    ranked = sorted(normalised, key=lambda character: (-normalised[character], character))
    return sorted(ranked[:ALPHABET])


def continues_word(character: str, tokenizer: Tokenizer) -> bool:
    """Whether a word can continue with this character: punctuation and ideographs stand alone."""
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(f"a{character}"))) == 1


def fingerprint(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Compute the SHA-256 of everything by which a tokenizer turns text into ids, added and special tokens included.

    Args:
        tokenizer: a fast one of transformers.
    Returns: 64 hexadecimal digits.

    >>> one, other = (train_tokenizer([text] * 9, vocab_size=64) for text in ("low", "high"))
    >>> fingerprint(one) == fingerprint(other)
    False
    """
    return hashlib.sha256(rules(tokenizer).encode()).hexdigest()


def earlier_fingerprints(tokenizer: "PreTrainedTokenizerFast") -> set[str]:
    """As older manifests hold it: at first without added tokens, and without the special tokens around a text; then
    with the scores of words to the last bit."""
    state = stated_rules(tokenizer)
    first = {key: state.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
    return {hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest() for parts in (first, state)}


def rules(tokenizer: "PreTrainedTokenizerFast") -> str:
    """A fast tokenizer's rules as one string: tokenizer.json without what each encoding sets or decoding uses.

    Scores of words (Unigram's) are rounded to float32, which SentencePiece keeps them in: tokenizers' reader of JSON
    misses one in eight by the last bit of a float64, so a model and a copy of it would read texts by other rules.
    """
    state = stated_rules(tokenizer)
    if state.get("model", {}).get("type") == "Unigram":
        words, scores = zip(*state["model"]["vocab"], strict=True)
        state["model"]["vocab"] = list(zip(words, np.array(scores, dtype=np.float32).tolist(), strict=True))
    return json.dumps(state, sort_keys=True)


def stated_rules(tokenizer: "PreTrainedTokenizerFast") -> dict:
    """The content of tokenizer.json without what each encoding sets or decoding uses."""
    state = json.loads(backend(tokenizer).to_str())
    for key in ("version", "truncation", "padding", "decoder"):
        state.pop(key, None)
    return state


def backend(tokenizer: "PreTrainedTokenizerFast") -> Tokenizer:
    """The Rust tokenizer below a fast one."""
    return tokenizer.backend_tokenizer


def plain_reader(tokenizer: "PreTrainedTokenizerFast") -> Tokenizer:
    """A copy of the Rust tokenizer that neither pads nor cuts; the caller's keeps its settings."""
    rust = Tokenizer.from_str(backend(tokenizer).to_str())
    rust.no_padding()  # all-MiniLM-L6-v2's tokenizer.json, for one, pads every text to 128
    rust.no_truncation()
    return rust


def special_ids(tokenizer: "PreTrainedTokenizerFast") -> tuple[list[int], list[int]]:
    """Find the ids that a tokenizer puts before and after a single text, by letting it do so.

    >>> special_ids(train_tokenizer(["a text"] * 9, vocab_size=64))  # [CLS] and [SEP]
    ([2], [3])
    """
    encoded = plain_reader(tokenizer).encode("a", add_special_tokens=True)
    inner = [place for place, special in enumerate(encoded.special_tokens_mask) if not special]
    if not inner:
        raise UserError("the tokenizer has no token for the letter 'a', nor one for what is unknown: it reads no texts")
    return encoded.ids[: inner[0]], encoded.ids[inner[-1] + 1 :]
