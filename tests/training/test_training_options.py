"""What training may add to the recipe, run as a user runs it: nested widths, masks, a guide, averages, schedules."""

import json
import shutil
from functools import partial
from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
import torch
from logs import column
from trainings import TINY

from gte.data.module import PairData
from gte.encoder import Encoder
from gte.errors import UserError
from gte.models import load
from gte.models.averaging import average_last
from gte.models.load import encoder_from_checkpoint, load_encoder, read_checkpoint
from gte.models.saved import steps_newest_first
from gte.optim import Optim
from gte.stage import Stage
from gte.temperature import LearntTemperature
from gte.training.guide import Guide

OPTIM = dict(lr=1.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, warmup_fraction=0.1, clip_norm=1.0)


def run(script, prepared, *arguments, model=TINY):
    code, out, err = script("train", *model, f"data.dir={prepared}", *arguments)
    assert code == 0, err
    return out


def same_weights(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_cosine_falls_by_the_cosine_and_wsd_stays_then_falls():
    cosine = [Optim(**OPTIM, schedule="cosine").factor(step, 100) for step in range(100)]
    assert cosine[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert cosine[10:] == pytest.approx([(1 + cos(pi * (step - 10) / 90)) / 2 for step in range(10, 100)])
    wsd = [Optim(**OPTIM, schedule="wsd", decay_steps=20).factor(step, 100) for step in range(100)]
    assert wsd[:10] == cosine[:10] and set(wsd[10:81]) == {1.0}
    assert wsd[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)]) and wsd[-1] > 0
    assert Optim(**OPTIM, schedule="wsd").factor(95, 100) == pytest.approx(0.5)  # a tenth of the steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "cosin"}, "optim.schedule=cosin is unknown, did you mean cosine"),
        ({"decay_steps": 5}, "belongs to optim.schedule=wsd"),
        ({"schedule": "wsd", "decay_steps": 0}, "optim.decay_steps=0 is at least 1"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        Optim(**OPTIM | change)


@pytest.mark.parametrize(("decay", "fits"), [(18, True), (19, False), (50, False)])
def test_a_decay_that_the_steps_after_the_warm_up_cannot_hold_is_refused(decay, fits):
    optim = Optim(**OPTIM, schedule="wsd", decay_steps=decay)
    if fits:
        optim.check_steps(20)
        assert optim.factor(1, 20) == optim.factor(2, 20) == 1.0  # no jump where the warm-up ends
    else:
        with pytest.raises(UserError, match=f"decay_steps={decay} is longer than .*, 18 of 20 steps"):
            optim.check_steps(20)


def test_training_refuses_a_decay_longer_than_the_stage(script, prepared):
    line = script.refused(
        "train", *TINY, f"data.dir={prepared}", "out=run", "stage.steps=3", "optim.schedule=wsd", "optim.decay_steps=4"
    )
    assert "optim.decay_steps=4" in line and "2 of 3 steps" in line


def test_a_decay_starts_from_any_stable_checkpoint(script, prepared, tmp_path):
    stable = ["optim.schedule=wsd", "stage.steps=12", "optim.decay_steps=4", "checkpoint_every=3", "out=stable"]
    run(script, prepared, *stable)
    first = tmp_path / "stable" / "checkpoints" / "step-0000003.ckpt"
    run(script, prepared, "optim.schedule=wsd", "stage.steps=7", "optim.decay_steps=4", f"resume={first}", "out=short")
    highest = max(column(tmp_path / "stable", "train/lr"))
    rates = column(tmp_path / "short", "train/lr")
    assert rates == pytest.approx([highest * left / 4 for left in (4, 3, 2, 1)])
    assert column(tmp_path / "stable", "train/lr")[3:8] == pytest.approx([highest] * 5)


def test_a_resumed_run_takes_the_configured_rate_decay_and_length_from_its_first_step(script, prepared, tmp_path):
    run(script, prepared, "stage.steps=4", "out=run", "optim.warmup_fraction=0")
    more = ["stage.steps=8", "optim.warmup_fraction=0", "optim.lr=1e-4", "optim.weight_decay=0.5", "resume=auto"]
    run(script, prepared, *more, "out=run")
    assert column(tmp_path / "run", "train/lr")[4:] == pytest.approx([1e-4 * left / 7 for left in (4, 3, 2, 1)])
    (state,) = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["optimizer_states"]
    assert [group["weight_decay"] for group in state["param_groups"]] == [0.5, 0.0]


def test_the_average_is_that_of_the_formula_and_survives_a_resume(script, prepared, tmp_path):
    options = ["stage.steps=6", "ema_decay=0.7", "checkpoint_every=1", "keep_initial=true"]
    run(script, prepared, *options, "out=whole")
    folder = tmp_path / "whole" / "checkpoints"
    steps = [load_encoder(folder / f"step-{step:07d}.ckpt").state_dict() for step in range(7)]
    average = {key: value.double() for key, value in steps[0].items()}
    for step, weights in enumerate(steps[1:], 1):
        decay = min(0.7, (1 + step) / (10 + step))
        average = {key: decay * value + (1 - decay) * weights[key] for key, value in average.items()}
    ema = load_encoder(folder / "ema.ckpt").state_dict()
    for key, value in ema.items():
        torch.testing.assert_close(value.double(), average[key], rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(value, steps[6][key]) for key, value in ema.items())
    last = load_encoder(folder / "last.ckpt").state_dict()
    assert all(torch.equal(value, steps[6][key]) for key, value in last.items())  # put back
    for name, said in (("ema", True), ("last", False)):
        assert script("export", f"checkpoint={folder}/{name}.ckpt", f"out={name}")[0] == 0
        assert ("moving average over the steps" in (tmp_path / name / "README.md").read_text()) == said
    start = f"mix_with={folder}/step-0000000.ckpt"
    assert script("export", f"checkpoint={folder}/ema.ckpt", start, "out=mixed")[0] == 0
    words = "- weights: 0.5 × moving average over the steps, decay 0.7 + 0.5 × step-0000000.ckpt\n"
    assert words in Path("mixed/README.md").read_text()
    line = script.refused("train", *TINY, f"data.dir={prepared}", *options, f"resume={folder}/ema.ckpt", "out=no")
    assert "holds weights alone" in line
    run(script, prepared, *options, f"resume={folder / 'step-0000003.ckpt'}", "out=resumed")
    resumed = load_encoder(tmp_path / "resumed" / "checkpoints" / "ema.ckpt").state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in ema.items())


def test_export_averages_the_last_checkpoints_each_loaded_once(script, prepared, tmp_path, monkeypatch):
    run(script, prepared, "stage.steps=6", "checkpoint_every=2", "out=run")
    newest = steps_newest_first(tmp_path / "run" / "checkpoints")[:2]
    one, two = (encoder_from_checkpoint(path).state_dict() for path in newest)
    code, _, err = script("export", "checkpoint=run", "out=model", "average_last=2")
    assert code == 0, err
    mean = Encoder.from_pretrained(tmp_path / "model").state_dict()
    for key, value in mean.items():
        torch.testing.assert_close(value, (one[key] + two[key]) / 2)
    assert any(not torch.equal(value, one[key]) for key, value in mean.items())
    with pytest.raises(UserError, match=r"average_last=4: .* keeps 3 step-\*.ckpt"):
        average_last(tmp_path / "run", 4)
    loaded, read = [], load.load_pickle
    monkeypatch.setattr(
        load, "load_pickle", lambda path, *given, **how: loaded.append(path.name) or read(path, *given, **how)
    )
    middle = average_last(tmp_path / "run" / "checkpoints" / "step-0000004.ckpt", 2).state_dict()
    assert loaded == ["step-0000004.ckpt", "step-0000002.ckpt"]
    oldest = encoder_from_checkpoint(tmp_path / "run" / "checkpoints" / "step-0000002.ckpt").state_dict()
    assert all(torch.allclose(value, (two[key] + oldest[key]) / 2) for key, value in middle.items())
    assert "the mean of 2 checkpoints" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(UserError, match="average_last=1 must be at least 2"):
        average_last(tmp_path / "run", 1)


def test_an_average_takes_no_checkpoint_of_a_branch_that_the_run_has_left(script, prepared, tmp_path):
    run(script, prepared, "stage.steps=8", "checkpoint_every=2", "out=run")
    folder = tmp_path / "run" / "checkpoints"
    again = ["stage.steps=6", "checkpoint_every=2", "optim.lr=1e-3"]
    run(script, prepared, *again, f"resume={folder / 'step-0000002.ckpt'}", "out=run")
    assert (folder / "step-0000008.ckpt").exists()  # of the branch that was left
    own = [encoder_from_checkpoint(folder / f"step-000000{step}.ckpt").state_dict() for step in (4, 6)]
    for start in ("run", "run/checkpoints/last.ckpt"):
        for key, value in average_last(tmp_path / start, 2).state_dict().items():
            torch.testing.assert_close(value, (own[0][key] + own[1][key]) / 2)
    with pytest.raises(UserError, match=r"average_last=4: .* keeps 3 step-\*.ckpt"):
        average_last(tmp_path / "run", 4)
    average_last(folder / "step-0000008.ckpt", 2)  # by its name it may be asked for, with what it passed
    with pytest.raises(UserError, match="average_last=3: only 2 step"):
        average_last(folder / "step-0000008.ckpt", 3)
    (folder / "last.ckpt").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"last.ckpt.*; or name the step-\*.ckpt that is the newest to average"):
        average_last(tmp_path / "run", 2)


def test_neither_averages_nor_keep_last_count_steps_between_those_of_the_branch_that_stays(
    script, prepared, tmp_path, recwarn
):
    run(script, prepared, "stage.steps=12", "checkpoint_every=2", "ema_decay=0.9", "out=run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "ema.ckpt").unlink()
    back = ["checkpoint_every=4", "optim.lr=1e-3", "keep_last=2", f"resume={folder / 'step-0000004.ckpt'}", "out=run"]
    code, _, err = script("train", *TINY, f"data.dir={prepared}", "stage.steps=12", *back)
    assert code == 0 and "the run goes on with other settings" in err
    assert not [warning for warning in recwarn if "ckpt_path" in str(warning.message)]  # Lightning's, of the callback
    left = {f"step-{step:07d}.ckpt" for step in (6, 10)}
    assert {file.name for file in folder.iterdir()} == left | {"last.ckpt", "step-0000008.ckpt", "step-0000012.ckpt"}
    own = [encoder_from_checkpoint(folder / f"step-{step:07d}.ckpt").state_dict() for step in (8, 12)]
    code, _, err = script("export", "checkpoint=run", "out=model", "average_last=2")
    assert code == 0 and "step-0000010.ckpt is not averaged: the run was resumed from an earlier step" in err
    for key, value in Encoder.from_pretrained(tmp_path / "model").state_dict().items():
        torch.testing.assert_close(value, (own[0][key] + own[1][key]) / 2)
    with pytest.raises(UserError, match="average_last=3: only 2 step"):
        average_last(tmp_path / "run", 3)


def test_export_mixes_a_model_with_the_one_that_it_was_trained_from(script, prepared, tmp_path):
    run(script, prepared, "stage.steps=4", "checkpoint_every=2", "keep_initial=true", "out=run")
    start = tmp_path / "run" / "checkpoints" / "step-0000000.ckpt"
    old, new = (encoder_from_checkpoint(path).state_dict() for path in (start, start.with_name("last.ckpt")))
    code, _, err = script("export", "checkpoint=run", "out=model", f"mix_with={start}", "mix_share=0.25")
    assert code == 0, err
    for key, value in Encoder.from_pretrained(tmp_path / "model").state_dict().items():
        torch.testing.assert_close(value, 0.75 * new[key] + 0.25 * old[key])
    assert "- weights: 0.75 × those of step 4 + 0.25 × step-0000000.ckpt\n" in Path("model/README.md").read_text()
    code, _, err = script("export", "checkpoint=model", "out=again", f"mix_with={start}")
    assert code == 0, err
    line = "- weights: 0.5 × (0.75 × those of step 4 + 0.25 × step-0000000.ckpt) + 0.5 × step-0000000.ckpt\n"
    assert line in Path("again/README.md").read_text()
    refused = partial(script.refused, "export", "checkpoint=run", "out=no")
    assert "mix_share=0.3 is the share of another model" in refused("mix_share=0.3")
    assert "a share, from 0 to 1" in refused(f"mix_with={start}", "mix_share=2")
    run(script, prepared, "stage.steps=1", "model.hidden_size=16", "model.num_attention_heads=1", "out=other")
    assert "other holds another model" in refused("mix_with=other")
    assert "nothing_here" in refused("mix_with=nothing_here")


@pytest.mark.parametrize("loss", ["improved", "vanilla"])
def test_nested_widths_masks_and_a_learnt_temperature_train_and_are_in_the_card(script, prepared, tmp_path, loss):
    width = Encoder  # the tiny model of TINY is asked below
    options = [f"loss={loss}", "loss.widths=[32,16,8]", "loss.width_weights=[1,0.5,0.5]", "loss.mask_margin=0.1"]
    out = run(script, prepared, *options, "loss.temperature=learnt", "stage.steps=4", "out=run", "optim.lr=0.05")
    assert "done" in out and width
    taus = column(tmp_path / "run", "train/temperature")
    assert len(taus) == 4 and all(0.005 < tau < 0.1 for tau in taus) and len(set(taus)) == 4
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert any(name.startswith("train/masked/") for name in rows[0].split(","))
    facts = json.loads((tmp_path / "run" / "training.json").read_text())[-1]
    assert facts["temperature"] == "learnt" and facts["loss_options"]["widths"] == [32, 16, 8]
    assert script("export", "checkpoint=run", "out=model")[0] == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "temperature learnt, widths [32, 16, 8]" in card and "mask_margin 0.1" in card


def test_a_resumed_run_has_the_temperature_that_it_would_have(script, prepared, tmp_path):
    options = ["loss.temperature={learnt: [0.02, 0.2]}", "stage.steps=6", "checkpoint_every=3", "optim.lr=0.05"]
    run(script, prepared, *options, "out=whole")
    first = tmp_path / "whole" / "checkpoints" / "step-0000003.ckpt"
    run(script, prepared, *options, f"resume={first}", "out=resumed")
    whole = column(tmp_path / "whole", "train/temperature")
    fixed = [f"resume={first}", "out=fixed", "stage.steps=6"]
    assert "learnt in one of the two" in script.refused("train", *TINY, f"data.dir={prepared}", *fixed)
    assert column(tmp_path / "resumed", "train/temperature") == whole[3:] and whole[0] == pytest.approx(
        0.0632, abs=1e-4
    )


def test_a_finished_run_of_another_loss_is_not_taken_for_this_one(script, prepared, tmp_path):
    run(script, prepared, "stage.steps=2", "out=run")
    again = ["stage.steps=2", "out=run", "resume=auto"]
    assert "was done already" in run(script, prepared, *again)
    for change in ("loss.mask_margin=0.0", "loss.widths=[16]", "mask_repeated_texts=true"):
        line = script.refused("train", *TINY, f"data.dir={prepared}", *again, change)
        assert change.split("=")[0].split(".")[-1] in line and "other settings" in line


@pytest.mark.parametrize("position", [-1e4, -3.0, 0.0, 3.0, 1e4])
def test_a_learnt_temperature_stays_within_its_bounds(position):
    learnt = LearntTemperature(lambda *_, temperature: temperature, 0.01, 0.05)
    learnt.position.data.fill_(position)
    assert 0.01 * (1 - 1e-5) <= learnt() <= 0.05 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loss.temperature={learnt: [0, 0.1]}", "the bounds must be two rising numbers above 0"),
        ("loss.temperature={learnt: [0.2, 0.1]}", "the bounds must be two rising numbers above 0"),
        ("loss.temperature={learnt: 3}", "give a number, learnt, or"),
        ("loss.temperature=warm", "loss.temperature=warm must be above 0"),
        ("loss.widths=[4096,64]", "must be at most the encoder's width"),
        ("loss.widths=[8,16]", "must be positive and falling"),
        ("loss.mask_margin=-3", "mask_margin -3 is a difference of cosines"),
        ("loss.directions=[query_to_query]", "sum no positive"),
        ("loss.guide=nowhere/at/all", "mask_margin, which is None"),
        ("ema_decay=1", "ema_decay=1 must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_one_line(script, prepared, tmp_path, setting, said):
    line = script.refused("train", *TINY, f"data.dir={prepared}", "out=run", "stage.steps=2", setting)
    assert said.replace("mask_margin, which", "what mask_margin masks, which") in line


@pytest.fixture
def guiding(script, prepared, tmp_path):
    """A model trained on the same data, exported: its tokenizer is that of the shards."""
    run(script, prepared, "stage.steps=3", "out=guide")
    assert script("export", "checkpoint=guide", "out=guiding")[0] == 0
    return tmp_path / "guiding"


def test_a_guides_vectors_are_those_of_its_own_texts(prepared, guiding, tmp_path):
    sizes = {"max_length": 64, "global_batch": 32, "batch_tokens": 2048, "recompute_fraction": 0.0}
    stage = Stage(name="finetune", steps=1, epochs=None, lr_scale=1.0, init_from=None, group_size=3, **sizes)
    data = PairData(prepared, stage, alpha=0.5, seed=42)
    guide = Guide(guiding, data)
    guide.prepare(torch.device("cpu"))
    data.guide = guide
    encoder = Encoder.from_pretrained(guiding).eval()
    for step in range(4):
        batch = data.steps()[step]
        assert batch.hashes_R is None and len(batch.guide_RG) == len(batch.lengths_R) == 32 * 4
        with torch.inference_mode():
            x_RD = encoder(batch.ids_T, batch.lengths_R, encoder.plan(batch.lengths_R.numpy(), 2048))
        cosine_R = torch.nn.functional.cosine_similarity(x_RD, batch.guide_RG.float())
        assert cosine_R.min() > 0.999


def test_a_guides_damaged_vector_is_not_used(prepared, guiding, tmp_path):
    sizes = {"max_length": 64, "global_batch": 32, "batch_tokens": 2048, "recompute_fraction": 0.0}
    stage = Stage(name="finetune", steps=1, epochs=None, lr_scale=1.0, init_from=None, group_size=1, **sizes)
    folder = Path(shutil.copytree(prepared, tmp_path / "copy", ignore=shutil.ignore_patterns("guides")))
    data = PairData(folder, stage, alpha=0.5, seed=42, sources=["colours"])
    data.guide = Guide(guiding, data)
    data.guide.prepare(torch.device("cpu"))
    file = data.guide.file("colours", "query", "vectors")
    vectors = np.load(file)
    vectors[:] = -vectors
    with open(file, "r+b") as stream:
        stream.seek(-vectors.nbytes, 2)
        stream.write(vectors.tobytes())
    with pytest.raises(UserError, match=r"colours\.query\.vectors\.npy is damaged: a vector is not as it was written"):
        data.steps()[0]


def test_training_with_a_guide_encodes_once_and_masks(script, prepared, guiding, tmp_path):
    options = [f"loss.guide={guiding}", "loss.mask_margin=0.0", "stage.steps=3"]
    run(script, prepared, *options, "out=one")
    files = sorted((prepared / "guides").rglob("*.npy"))
    assert files and all(np.load(file, mmap_mode="r").shape[0] for file in files)
    stamps = [file.stat().st_mtime_ns for file in files]
    run(script, prepared, *options, "out=two")
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert column(tmp_path / "one", "train/loss") == column(tmp_path / "two", "train/loss")
    run(script, prepared, "stage.steps=3", "out=without")
    assert column(tmp_path / "one", "train/loss")[0] < column(tmp_path / "without", "train/loss")[0]


def test_a_guide_that_reads_other_tokens_is_refused(script, prepared, small_model):
    line = script.refused(
        "train", *TINY, f"data.dir={prepared}", "out=run", f"loss.guide={small_model}", "loss.mask_margin=0.0"
    )
    assert "another tokenizer" in line
