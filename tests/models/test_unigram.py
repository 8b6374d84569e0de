"""SentencePiece models (Unigram), whose words have scores: the exports of one are the model, to data and trainings."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer

from gte.data.module import PairData
from gte.data.shards import Manifest
from gte.data.tokenizer import earlier_fingerprints, fingerprint, load_tokenizer
from gte.encoder import Encoder
from gte.errors import UserError
from gte.models.load import load_encoder, weights_checksum
from gte.stage import Stage

SIZES = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
KINDS = {
    "xlm-roberta": ("XLMRobertaTokenizer", ["<s>", "<pad>", "</s>", "<unk>"], "<mask>", SIZES),
    "albert": ("AlbertTokenizer", ["<pad>", "<unk>", "[CLS]", "[SEP]"], "[MASK]", SIZES | {"embedding_size": 16}),
}
PIECES = ["▁", *(f"▁{word}" for word in ("red", "green", "blue", "what", "is", "it")), *"abcdefghijklmnopqrstuvwxyz"]
CHAIN = ["model=base", "scale=laptop", "data=local", "trainer=cpu", "trainer.precision=32-true", "workers=0",
         "stage.global_batch=8", "stage.steps=2", "stage.max_length=16", "model.max_length=32"]  # fmt: skip


def unigram(kind: str, scores: np.ndarray):
    """A tokenizer of that kind over PIECES and numbered words, as transformers makes it of a SentencePiece model."""
    name, first, mask, _ = KINDS[kind]
    words = [*PIECES, *(f"▁{number}" for number in range(len(scores) - len(PIECES)))]
    vocab = [*((token, 0.0) for token in first), *zip(words, scores.tolist(), strict=True), (mask, 0.0)]
    return getattr(transformers, name)(vocab=vocab, model_max_length=32)


def drawn(count: int = 1200) -> np.ndarray:
    """Scores of words as SentencePiece keeps them, in float32."""
    return -np.random.default_rng(0).uniform(2, 15, count).astype(np.float32)


def scores_of(tokenizer) -> np.ndarray:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return np.array([score for _, score in state["model"]["vocab"]])


@pytest.fixture(params=KINDS)
def model(request, tmp_path) -> Path:
    """The directory of a small model of that kind."""
    torch.manual_seed(0)
    tokenizer = unigram(request.param, drawn())
    tokenizer.save_pretrained(tmp_path / "M")
    sizes = KINDS[request.param][3] | {"vocab_size": len(tokenizer), "max_position_embeddings": 40}
    config = AutoConfig.for_model(request.param, pad_token_id=tokenizer.pad_token_id, **sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path / "M")
    return tmp_path / "M"


@pytest.mark.parametrize("kind", KINDS)
def test_a_fingerprint_holds_through_tokenizers_reader_of_json_and_tells_scores_apart(kind):
    one, copied, other = unigram(kind, drawn()), unigram(kind, drawn()), drawn()
    copied._tokenizer = Tokenizer.from_str(one.backend_tokenizer.to_str())
    moved = scores_of(one) != scores_of(copied)
    assert 0.05 < moved.mean() < 0.5  # what it reads is not what stands there
    assert fingerprint(one) == fingerprint(copied)
    assert earlier_fingerprints(one).isdisjoint(earlier_fingerprints(copied))
    other[7] = np.nextafter(other[7], np.float32(0))
    assert fingerprint(one) != fingerprint(unigram(kind, other))


def test_a_saved_model_has_the_scores_of_its_words_to_the_last_bit(model, tmp_path):
    encoder = Encoder.from_pretrained(model, max_length=16)
    encoder.save(tmp_path / "saved")
    for folder in (tmp_path / "saved", model):
        state = json.loads((folder / "tokenizer.json").read_text())
        np.testing.assert_array_equal([score for _, score in state["model"]["vocab"]], scores_of(encoder.tokenizer))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").model_max_length == 16
    assert encoder.tokenizer.model_max_length == 32
    assert weights_checksum(load_encoder(tmp_path / "saved")) == weights_checksum(encoder)


def write_pairs(folder: Path) -> None:
    """a.jsonl, and an evaluation task tasks/STS12."""
    (folder / "raw").mkdir()
    rows = [{"query": f"what is {n}", "pos": f"it is {n} {['red', 'green', 'blue'][n % 3]}"} for n in range(60)]
    (folder / "raw" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tasks" / "STS12").mkdir(parents=True)
    rows = [{"sentence1": f"red {n}", "sentence2": f"blue {n * 7 % 5}", "score": n} for n in range(6)]
    (folder / "tasks" / "STS12" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_an_export_takes_the_place_of_its_run_and_of_its_base_in_every_step(model, script, tmp_path):
    write_pairs(tmp_path)
    steps = [
        ("prepare", "data=local", "data.path=raw", f"model={model}"),
        ("train", *CHAIN, f"model={model}", "out=run"),
        ("export", "checkpoint=run", "out=X"),
        ("train", *CHAIN, "model=X", "stage.init_from=X", "out=again"),
        ("train", *CHAIN, f"model={model}", "stage.init_from=X", "out=third"),
        ("eval", "checkpoint=run", "suite=sts", "data_dir=tasks", "tasks=[STS12]", "out=eval"),
        ("export", "checkpoint=X", "mix_with=M", "out=mixed"),
        ("export", "checkpoint=again", "mix_with=X", "out=mixed"),
        ("export", "checkpoint=X", "results=eval", "out=scored"),
    ]
    for step in steps:
        code, _, err = script(*step)
        assert code == 0, (step, err)
    assert weights_checksum(load_encoder("X")) == weights_checksum(load_encoder("run"))
    assert "| STS12 |" in (tmp_path / "scored" / "README.md").read_text()


def test_data_of_a_manifest_with_the_scores_to_the_last_bit_fit_the_model_and_its_copies(model, script, tmp_path):
    write_pairs(tmp_path)
    exact = load_tokenizer(shutil.copytree(model, tmp_path / "exact"))
    copied = Tokenizer.from_file(str(model / "tokenizer.json"))
    copied.save(str(model / "tokenizer.json"))
    code, _, err = script("prepare", "data=local", "data.path=raw", f"model={model}", "out=data")
    assert code == 0, err
    manifest, own = Manifest.load(tmp_path / "data"), load_tokenizer(model)
    state = json.loads(own.backend_tokenizer.to_str())
    kept = {key: value for key, value in state.items() if key not in ("version", "truncation", "padding", "decoder")}
    manifest.tokenizer["fingerprint"] = sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    assert manifest.tokenizer["fingerprint"] != fingerprint(own)
    manifest.save(tmp_path / "data")
    stage = Stage("pretrain", 32, 8, 1, None, 1, 1.0, None, 1024, 0.0)
    data = PairData(tmp_path / "data", stage, alpha=0.5, seed=0)
    assert data.made_with(own) and data.made_with(exact)
    exact.add_tokens(["[QUERY]"])
    with pytest.raises(UserError, match="reads another one"):
        data.check_encoder(Encoder.from_scratch(exact, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
