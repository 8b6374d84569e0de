"""Models in and out: all kinds of checkpoint give one encoder, exports load elsewhere, foreign files are refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from tokenizers import processors

from gte.encoder import Encoder
from gte.errors import UserError
from gte.models.export import export
from gte.models.load import describe, find_checkpoint, initialize, load_encoder
from gte.models.pretrained import Settings

TEXTS = ["", "one", "many words in a row " * 30, "query about a document"]


def test_run_directory_ckpt_and_export_give_the_same_embeddings(run, tmp_path):
    folder, encoder = run
    export(folder, tmp_path / "model", "my-model")
    expected = encoder.encode(TEXTS)
    for checkpoint in (folder, folder / "checkpoints" / "last.ckpt", str(tmp_path / "model")):
        loaded = load_encoder(checkpoint)
        assert loaded.max_length == 32
        np.testing.assert_array_equal(loaded.encode(TEXTS), expected)


def write_run(folder, encoder):
    """A run directory with this encoder."""
    content = {"state_dict": {f"encoder.{key}": value for key, value in encoder.state_dict().items()}}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content | {"encoder": describe(encoder)}, folder / "checkpoints" / "last.ckpt")
    return folder


def test_initialize_copies_the_weights_of_any_checkpoint(run, small_model):
    folder, trained = run
    encoder = Encoder.from_pretrained(small_model, max_length=32)
    assert not np.allclose(encoder.encode(TEXTS), trained.encode(TEXTS))
    initialize(encoder, folder)
    np.testing.assert_array_equal(encoder.encode(TEXTS), trained.encode(TEXTS))


def test_a_stage_that_starts_from_a_model_keeps_its_prompts_and_its_cut(run, small_model, tmp_path):
    folder, trained = run
    trained.settings = Settings(32, "mean", {"query": "one "}, "query", False, 8)
    export(write_run(tmp_path / "second", trained), tmp_path / "model", "m")
    encoder = Encoder.from_pretrained(small_model, max_length=20)
    initialize(encoder, tmp_path / "model")
    own = encoder.settings
    assert own == Settings(20, "mean", {"query": "one "}, "query", False, 8)
    initialize(encoder, small_model)  # whose files say nothing of prompts
    assert encoder.settings == own
    encoder.settings = Settings(20, "mean", {"query": "two ", "document": "three "})
    initialize(encoder, tmp_path / "model")
    assert encoder.settings == own
    initialize(encoder, folder)  # trained without any
    assert encoder.settings == Settings(20, truncate_dim=8)


def test_a_stage_that_starts_from_a_model_pools_and_reads_texts_as_it_does(run, small_model, tmp_path):
    _, trained = run
    encoder = Encoder.from_pretrained(small_model)
    trained.settings = Settings(32, "cls")
    with pytest.raises(UserError, match=r"pools by cls, the model of this stage by mean; set model\.pooling=cls"):
        initialize(encoder, write_run(tmp_path / "cls", trained))
    trained.settings = Settings(32)
    trained.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        initialize(encoder, write_run(tmp_path / "bare", trained))


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


def test_python_files_of_a_model_run_only_when_asked_by_name(run, tmp_path):
    export(run[0], tmp_path / "model", "my-model")
    (tmp_path / "model" / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import BertConfig, BertModel\n"
        "class OwnConfig(BertConfig): model_type = 'own'\n"
        "class Own(BertModel): config_class = OwnConfig\n"
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"brings Python files, which .* run with trust_remote_code=true"):
        load_encoder(tmp_path / "model")
    assert not (tmp_path / "ran").exists()
    load_encoder(tmp_path / "model", trust_remote_code=True)
    assert (tmp_path / "ran").exists()
