"""Models in and out: all kinds of checkpoint give one encoder, exports load elsewhere, foreign files are refused."""

import json
import pickle

import numpy as np
import pytest
import torch

from gte.encoder import Encoder
from gte.errors import UserError
from gte.export import export
from gte.hub import describe, find_checkpoint, history, initialize, load_encoder

TEXTS = ["", "one", "many words in a row " * 30, "query about a document"]
RECORD = {
    "stage": {
        "name": "pretrain",
        "global_batch": 8,
        "group_size": 1,
        "max_length": 16,
        "lr_scale": 1.0,
        "init_from": None,
    },
    "optim": {"lr": 3e-4},
    "model": {},
    "loss": "improved_contrastive_loss",
    "alpha": 0.5,
    "seed": 1,
    "precision": "32-true",
    "commit": "abc",
    "steps": 7,
    "sources": {"titles": {"rows": 1234, "licence": "CC0 1.0"}},
}


@pytest.fixture
def run(small_model, tmp_path):
    """A run directory whose last.ckpt holds an encoder of other weights than the directory small_model."""
    encoder = Encoder.from_pretrained(small_model, max_length=32)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    content = {
        "state_dict": {f"encoder.{key}": value for key, value in encoder.state_dict().items()},
        "encoder": describe(encoder),
        "history": [RECORD],
        "global_step": 7,
    }
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run", encoder


def test_run_directory_ckpt_and_export_give_the_same_embeddings(run, tmp_path):
    folder, encoder = run
    export(folder, tmp_path / "model", "my-model")
    expected = encoder.encode(TEXTS)
    for checkpoint in (folder, folder / "checkpoints" / "last.ckpt", str(tmp_path / "model")):
        loaded = load_encoder(checkpoint)
        assert loaded.max_length == 32
        np.testing.assert_array_equal(loaded.encode(TEXTS), expected)


def test_sentence_transformers_and_transformers_load_the_export(run, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from transformers import AutoModel, AutoTokenizer

    folder, encoder = run
    export(folder, tmp_path / "model", "my-model")
    peer = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5)
    assert peer.max_seq_length == 32
    inputs = AutoTokenizer.from_pretrained(tmp_path / "model")("one", return_tensors="pt")
    lm, loading = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(loading.values())  # no weight is missing, left over or of another shape
    hidden = lm.eval()(**inputs).last_hidden_state
    np.testing.assert_allclose(hidden[0].mean(0).detach(), encoder.encode(["one"], normalize=False)[0], atol=1e-5)


def test_export_holds_safetensors_only_and_a_card_that_says_how_it_was_trained(run, tmp_path):
    export(run[0], tmp_path / "model", "my-model")
    names = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert "model.safetensors" in names and not {n for n in names if n.endswith((".bin", ".pt", ".ckpt", ".pkl"))}
    card = (tmp_path / "model" / "README.md").read_text()
    for fact in ("# my-model", "stage 1: pretrain", "7 of 8 pairs", "0.0003", "| titles | 1,234 | CC0 1.0 |", "abc"):
        assert fact in card
    assert history(tmp_path / "model") == history(run[0]) == [RECORD]


def test_export_does_not_overwrite_what_is_no_model(run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no model directory"):
        export(run[0], tmp_path / "thesis", "x")
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_initialize_copies_the_weights_of_any_checkpoint(run, small_model):
    folder, trained = run
    encoder = Encoder.from_pretrained(small_model, max_length=32)
    assert not np.allclose(encoder.encode(TEXTS), trained.encode(TEXTS))
    initialize(encoder, folder)
    np.testing.assert_array_equal(encoder.encode(TEXTS), trained.encode(TEXTS))


def test_a_checkpoint_of_another_model_is_refused_with_the_first_difference(run, small_model):
    other = Encoder.from_scratch(
        Encoder.from_pretrained(small_model).tokenizer,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_length=32,
    )
    with pytest.raises(UserError, match=r"holds another model: lm\.\S+ is \(\d+, 32\) there and \(\d+, 16\) here"):
        initialize(other, run[0])


def test_no_code_runs_from_a_foreign_checkpoint(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        load_encoder(tmp_path / "evil.ckpt")
    torch.save({"state_dict": Evil()}, tmp_path / "evil2.ckpt")
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        load_encoder(tmp_path / "evil2.ckpt")
    assert not (tmp_path / "owned").exists()


def test_truncated_foreign_and_other_schema_checkpoints_are_refused_by_name(run, tmp_path):
    path = run[0] / "checkpoints" / "last.ckpt"
    (tmp_path / "half.ckpt").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"half\.ckpt"):
        load_encoder(tmp_path / "half.ckpt")
    torch.save({"model": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match=r"foreign\.ckpt is not a checkpoint of this project"):
        load_encoder(tmp_path / "foreign.ckpt")
    content = torch.load(path, weights_only=True)
    content["encoder"]["schema"] = 99
    torch.save(content, tmp_path / "future.ckpt")
    with pytest.raises(UserError, match="schema 99"):
        load_encoder(tmp_path / "future.ckpt")


def test_paths_that_are_nothing_are_refused_before_the_hub_is_asked(tmp_path):
    for path in (tmp_path / "nowhere", "./nowhere", "runs/a/b", "gone.ckpt"):
        with pytest.raises(UserError, match="does not exist"):
            find_checkpoint(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither a run directory"):
        find_checkpoint(tmp_path / "empty")
    assert find_checkpoint("bert-base-uncased") == "bert-base-uncased"


def test_exported_configuration_is_plain_json(run, tmp_path):
    export(run[0], tmp_path / "model", "my-model")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[-1] for module in modules] == ["Transformer", "Pooling", "Normalize"]
