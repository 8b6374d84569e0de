"""A run that diverges keeps, names, averages and publishes only weights that are of use."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_script
from trainings import TINY
from transformers import BertConfig, BertModel

from gte.errors import UserError
from gte.models.broken import broken
from gte.models.load import damage, load_encoder
from gte.models.saved import last_good, why_not_good

DIVERGING = ["optim.lr=1e30", "max_skipped=5", "stage.steps=20", "out=run"]


def finite_by_transformers(file: Path) -> bool:
    """Whether all weights of a checkpoint and its vector of a few ids are finite: by transformers' own BERT."""
    content = torch.load(file, weights_only=True)
    weights = {key.removeprefix("encoder.lm."): value for key, value in content["state_dict"].items()}
    model = BertModel(BertConfig.from_dict(json.loads(content["encoder"]["config"]))).eval()
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        hidden = model(torch.tensor([[2, 7, 9, 11, 3]])).last_hidden_state
    return all(bool(value.isfinite().all()) for value in [*weights.values(), hidden])


def poison(file: Path, out: Path, how: float) -> Path:
    """Writes a checkpoint with weights of a diverged run: huge, or not finite."""
    content = torch.load(file, weights_only=True)
    for key, value in content["state_dict"].items():
        if value.is_floating_point():
            content["state_dict"][key] = value.sign() * how if np.isfinite(how) else value * how
    torch.save(content, out)
    return out


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    """A run of four steps, each kept, made once."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = [*TINY, f"data.dir={prepared}", "stage.steps=4", "checkpoint_every=1", "out=run"]
        assert run_script(patch, "train", *settings) == 0
    return folder / "run"


@pytest.mark.parametrize("every", [1, 2, 1000])
def test_no_file_of_a_run_that_diverged_holds_broken_weights(script, prepared, tmp_path, every):
    line = script.refused(
        "train", *TINY, f"data.dir={prepared}", *DIVERGING, f"checkpoint_every={every}", "ema_decay=0.9"
    )
    files = sorted((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert all(finite_by_transformers(file) for file in files), files
    named = re.search(r"last good checkpoint: (\S+);", line)
    assert bool(named) == bool(files) and (not named or finite_by_transformers(Path(named[1])))
    assert named or "there is no good checkpoint" in line


def test_a_run_whose_last_steps_broke_the_weights_is_not_done(script, prepared, tmp_path):
    """Fewer bad steps in a row than max_skipped stops at: it said `done` and kept the weights."""
    settings = [*TINY, f"data.dir={prepared}", "optim.lr=1e30", "stage.steps=4", "out=run"]
    line = script.refused("train", *settings)
    assert re.search(r"the weights after step \d are not saved: .*; there is no good checkpoint", line)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize("keep_last", [1, 2])
def test_the_last_good_checkpoint_stays_whatever_keep_last_says(script, prepared, tmp_path, spoil, keep_last):
    spoil(range(4, 100), float("nan"))
    settings = [*TINY, f"data.dir={prepared}", "out=run", "checkpoint_every=1", "max_skipped=4", "stage.steps=20"]
    line = script.refused("train", *settings, f"keep_last={keep_last}")
    good = tmp_path / "run" / "checkpoints" / "step-0000004.ckpt"
    assert f"last good checkpoint: {good}; go on from it by resume=" in line
    kept = {file.name for file in good.parent.glob("step-*.ckpt")}
    assert good.name in kept and len(kept) == keep_last + 1
    assert torch.load(good, weights_only=True)["skipped"]["in_a_row"] == 0


@pytest.mark.parametrize("how", [1e30, float("nan"), float("inf")])
def test_broken_weights_are_neither_exported_nor_averaged_nor_trained_on(script, prepared, run, tmp_path, how):
    shutil.copytree(run, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoints"
    bad = poison(kept / "step-0000004.ckpt", tmp_path / "bad.ckpt", how)
    assert finite_by_transformers(kept / "step-0000004.ckpt") and not finite_by_transformers(bad)
    assert broken(load_encoder(bad)) and broken(load_encoder(kept / "last.ckpt")) is None
    for options in ([], ["onnx=true"]):
        line = script.refused("export", f"checkpoint={bad}", "out=model", *options)
        assert f"{bad} is not exported: " in line and not list(tmp_path.glob("model/*"))
    settings = [*TINY, f"data.dir={prepared}", "stage.steps=1", "out=more", f"stage.init_from={bad}"]
    assert "name an earlier checkpoint of its run" in script.refused("train", *settings)
    expected = load_average([kept / f"step-000000{step}.ckpt" for step in (3, 2)])
    shutil.copy(bad, kept / "step-0000004.ckpt")
    code, _, err = script("export", "checkpoint=run", "average_last=2", "out=averaged")
    assert code == 0 and "step-0000004.ckpt is not averaged: " in err, err
    found = load_encoder(tmp_path / "averaged").state_dict()
    assert all(torch.allclose(value, expected[key], atol=1e-7) for key, value in found.items())
    assert "only 3 step-*.ckpt" in script.refused("export", "checkpoint=run", "average_last=4", "out=four")


def flip_a_bit(file: Path) -> None:
    """Flips the highest bit of an exponent in the middle of a checkpoint's largest tensor."""
    with zipfile.ZipFile(file) as records:
        largest = max(records.infolist(), key=lambda record: record.file_size)
    content = bytearray(file.read_bytes())
    names = sum(
        int.from_bytes(content[largest.header_offset + at : largest.header_offset + at + 2], "little")
        for at in (26, 28)
    )
    content[largest.header_offset + 30 + names + largest.file_size // 8 * 4 + 3] ^= 0x08
    file.write_bytes(content)


def test_a_checkpoint_with_a_flipped_bit_is_refused_by_all_that_load_one(script, prepared, run, tmp_path):
    bad = tmp_path / "bad.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", bad)
    flip_a_bit(bad)
    assert finite_by_transformers(bad)  # nothing but the checksum tells
    (tmp_path / "texts.jsonl").write_text('{"text": "a word"}\n')
    training = [*TINY, f"data.dir={prepared}", "stage.steps=1", "out=more"]
    for command in (
        ["export", f"checkpoint={bad}", "out=model"],
        ["embed", f"checkpoint={bad}", "in=texts.jsonl", "out=texts.npy"],
        ["train", *training, f"stage.init_from={bad}"],
        ["train", *training, "loss.mask_margin=0.0", f"loss.guide={bad}"],
    ):
        assert re.search(f"cannot read the checkpoint {bad}: it is altered in .*data/", script.refused(*command))


def test_every_state_in_a_folder_as_deepspeed_writes_it_is_compared(tmp_path):
    folder = tmp_path / "last.ckpt" / "checkpoint"
    folder.mkdir(parents=True)
    names = ["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"]
    for name in names:
        torch.save({"exp_avg": torch.ones(1000)}, folder / name)
    assert damage(folder.parent) is None
    for name in names:
        intact = (folder / name).read_bytes()
        flip_a_bit(folder / name)
        assert re.fullmatch(rf"altered in .*data/0, {name}", damage(folder.parent))
        (folder / name).write_bytes(intact)
    assert damage(folder.parent) is None


@pytest.mark.parametrize(("how", "what"), [(1e25, "0"), (float("nan"), "not finite")])
def test_vectors_without_a_direction_are_not_published(script, prepared, run, tmp_path, how, what):
    """Of a last norm of 1e25 every vector is finite and, normalised, 0: published with exit code 0."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    norms = [key for key in content["state_dict"] if "output.LayerNorm" in key][-2:]
    for key in norms:
        content["state_dict"][key] *= how
    bad = tmp_path / "bad.ckpt"
    torch.save(content, bad)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a line of words")
    pairs = [json.dumps({"query": f"word {n}", "pos": f"number {n}"}) for n in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(pairs))
    training = [*TINY, f"data.dir={prepared}", "stage.steps=1", "out=more"]
    for command in (
        ["embed", f"checkpoint={bad}", "in=texts/a.txt", "out=a.npy"],
        ["search", f"checkpoint={bad}", "folder=texts", "query=words", "out=index"],
        ["mine", f"checkpoint={bad}", "in=a.jsonl", "out=mined"],
    ):
        assert re.search(f"(embedding is|embeddings are) {what} in ", script.refused(*command)), command
    line = script.refused("train", *training, "loss.mask_margin=0.0", f"loss.guide={bad}")
    assert f"loss.guide={bad}: " in line and "not finite" in line
    assert not [*tmp_path.glob("*.npy"), *tmp_path.rglob("*.parquet"), *tmp_path.glob("mined/*.jsonl*")]


def load_average(files: list[Path]) -> dict:
    """The mean of checkpoints' weights, tensor by tensor in float64."""
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    return {
        key.removeprefix("encoder."): (sum(state[key].double() for state in states) / len(states)).float()
        for key in states[0]
    }


def test_good_is_whole_written_before_the_streak_and_of_finite_vectors(run, tmp_path):
    shutil.copytree(run / "checkpoints", tmp_path / "kept")
    steps = [tmp_path / "kept" / f"step-000000{step}.ckpt" for step in (1, 2, 3, 4)]
    (tmp_path / "kept" / "last.ckpt").unlink()
    assert last_good(tmp_path / "kept") == steps[3]
    shutil.copy(poison(steps[3], tmp_path / "bad.ckpt", 1e30), steps[3])
    assert "not finite" in why_not_good(steps[3]) and last_good(tmp_path / "kept") == steps[2]
    content = torch.load(steps[2], weights_only=True)
    content["skipped"]["in_a_row"] = 1
    torch.save(content, steps[2])
    assert "amid steps that were skipped" in why_not_good(steps[2]) and last_good(tmp_path / "kept") == steps[1]
    steps[1].write_bytes(steps[1].read_bytes()[:900])
    assert "truncated" in why_not_good(steps[1]) and last_good(tmp_path / "kept") == steps[0]
    steps[0].unlink()
    assert last_good(tmp_path / "kept") is None


def test_a_folder_of_deepspeed_is_good_where_each_of_its_files_is_intact(run, tmp_path):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    parts = tmp_path / "step-0000001.ckpt" / "checkpoint"
    parts.mkdir(parents=True)
    torch.save(content | {"module": content["state_dict"]}, parts / "mp_rank_00_model_states.pt")
    state = parts / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": torch.ones(300)}, state)
    assert why_not_good(parts.parent) is None and last_good(tmp_path) == parts.parent
    state.write_bytes(state.read_bytes()[:900])
    assert re.fullmatch(f"it is truncated.*, {state.name}", why_not_good(parts.parent)) and last_good(tmp_path) is None


def test_an_onnx_graph_with_vectors_that_are_not_finite_is_refused(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from gte.models.onnx import write_onnx

    nowhere = np.full((1, 1), np.nan, np.float32)
    monkeypatch.setattr("gte.models.onnx.onnx_embeddings", lambda file, encoder, texts: nowhere.repeat(len(texts), 0))
    with pytest.raises(UserError, match="differs by nan from PyTorch"):
        write_onnx(load_encoder(run), tmp_path / "onnx")


def test_looking_at_the_weights_changes_nothing_of_the_training(pretrained):
    from gte.encoder import Encoder

    encoder = Encoder.from_pretrained(pretrained).train()
    modes, state = [part.training for part in encoder.modules()], torch.get_rng_state()
    encoder.tokenizer.backend_tokenizer.enable_truncation(7)
    rules = encoder.tokenizer.backend_tokenizer.to_str()
    assert broken(encoder) is None
    assert [part.training for part in encoder.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in encoder.parameters())
    assert encoder.tokenizer.backend_tokenizer.to_str() == rules
