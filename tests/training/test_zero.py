"""Real DeepSpeed ZeRO-1 on two gloo ranks takes DDP's steps, with half of the optimizer's state on each."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import train

from gte.models.export import export
from gte.models.load import history, load_encoder
from gte.one_line import one_line
from gte.remote import find_checkpoint

pytest.importorskip("deepspeed", reason="pip install -r requirements-test.txt")

RUN = [
    "model=tiny",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.dropout=0.1",
    "data=local",
    "workers=0",
    "stage.global_batch=32",
    "stage.steps=6",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "checkpoint_every=4",
]
ZERO = ["trainer=deepspeed", "trainer.strategy._target_=zero_on_cpu.ZeroOnCPU"]
RUNS = {
    "ddp": ["trainer=ddp", "trainer.precision=32-true"],
    "zero": [*ZERO, "trainer.precision=32-true"],
    "recomputed": [*ZERO, "trainer.precision=32-true", "stage.recompute_fraction=1.0"],
    "bf16": [*ZERO, "trainer.precision=bf16-mixed"],
    "fp16": [*ZERO, "trainer.precision=16-mixed", "max_skipped=9"],
}


class Runs:
    """A folder with a run by each of RUNS that a test asks for: `runs / name`."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.data, self.made = folder, data, set()

    def __truediv__(self, name: str) -> Path:
        if name not in self.made:
            train(2, *RUN, f"data.dir={self.data}", *RUNS[name], f"out={name}", cwd=self.folder)
            self.made.add(name)
        return self.folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory, prepared) -> Runs:
    return Runs(tmp_path_factory.mktemp("zero"), prepared)


def column(run, key: str) -> list[float]:
    with open(run / "metrics.csv", newline="") as lines:
        return [float(row[key]) for row in csv.DictReader(lines)]


def states(run, checkpoint="last.ckpt"):
    """The optimizer state of each rank."""
    files = sorted((run / "checkpoints" / checkpoint).glob("*/*zero_pp_rank_*"))
    return [torch.load(file, weights_only=False)["optimizer_state_dict"] for file in files]


@pytest.mark.parametrize("name", ["zero", "recomputed"])
def test_losses_gradient_norms_and_weights_equal_ddps(runs, name):
    for key in ("train/loss", "train/grad_norm", "train/lr"):
        zero, ddp = column(runs / name, key), column(runs / "ddp", key)
        assert len(zero) == 6
        np.testing.assert_allclose(zero, ddp, rtol=1e-5)
    assert min(column(runs / name, "train/grad_norm")) > 1  # the bound of 1.0 really acts
    zero, ddp = (load_encoder(run).state_dict() for run in (runs / name, runs / "ddp"))
    for key, value in ddp.items():
        torch.testing.assert_close(zero[key], value, rtol=1e-3, atol=2e-3, msg=key)  # a step's rate: see below
    # Adam moves a weight by up to the rate where its gradient is rounding noise: one word's row on some processors
    far = sum(int((~torch.isclose(zero[key], value, rtol=1e-3, atol=2e-5)).sum()) for key, value in ddp.items())
    assert far <= 1e-4 * sum(value.numel() for value in ddp.values())


def test_a_rank_holds_half_of_the_optimizer_state(runs):
    trained = sum(p.numel() for p in load_encoder(runs / "zero").parameters() if p.requires_grad)
    for state in states(runs / "zero"):
        moments = [entry["exp_avg"].numel() for entry in state["base_optimizer_state"]["state"].values()]
        assert sum(moments) == pytest.approx(trained / 2, rel=0.01)
    assert len(states(runs / "zero")) == 2


@pytest.mark.parametrize("name", ["zero", "bf16"])
def test_what_a_run_leaves_is_a_checkpoint_like_any_other(runs, name, tmp_path):
    run = runs / name
    (record,) = history(run)
    assert record["steps"] == 6 and history(run / "checkpoints" / "step-0000004.ckpt")[0]["steps"] == 4
    by_run, by_checkpoint = load_encoder(run), load_encoder(run / "checkpoints" / "last.ckpt")
    export(run, tmp_path / "model", "a model")
    exported = load_encoder(tmp_path / "model")
    for key, value in by_run.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, by_checkpoint.state_dict()[key]) and torch.equal(value, exported.state_dict()[key])


def test_a_checkpoint_in_half_precision_keeps_the_weights_that_the_optimizer_updates(runs):
    content = torch.load(find_checkpoint(runs / "bf16"), weights_only=True)
    half, kept = content["module"], load_encoder(runs / "bf16").state_dict()
    masters = torch.cat([part for state in states(runs / "bf16") for part in state["single_partition_of_fp32_groups"]])
    rounded = 0
    for key, value in kept.items():
        assert half[f"encoder.{key}"].dtype == torch.bfloat16
        torch.testing.assert_close(half[f"encoder.{key}"].float(), value, rtol=2**-8, atol=1e-6)
        if "pooler" not in key:
            assert torch.isin(value, masters).all()
            rounded += (half[f"encoder.{key}"].float() != value).sum()
    assert rounded > 10_000


def test_fp16_skips_the_steps_that_overflow_and_halves_the_scale(runs):
    norms, skipped = column(runs / "fp16", "train/grad_norm"), column(runs / "fp16", "train/skipped")
    assert np.isinf(norms[0]) and skipped == np.isinf(norms).cumsum().tolist()
    scales = [states(runs / "fp16", name)[0]["loss_scaler"].cur_scale for name in ("step-0000004.ckpt", "last.ckpt")]
    assert scales[1] == scales[0] / 4 < 2**16


@pytest.mark.parametrize(
    "name", [pytest.param("zero", marks=pytest.mark.slow), "bf16", pytest.param("fp16", marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_exactly(runs, prepared, tmp_path, name):
    shutil.copytree(runs / name, tmp_path / name)
    kept = tmp_path / name / "checkpoints"
    shutil.rmtree(kept / "last.ckpt")
    shutil.copytree(kept / "step-0000004.ckpt", kept / "last.ckpt")
    shutil.copytree(kept / "step-0000004.ckpt", kept / ".last.ckpt.partial")  # killed while it wrote
    train(2, *RUN, f"data.dir={prepared}", *RUNS[name], f"out={name}", "resume=auto", cwd=tmp_path)
    assert name == "fp16" or column(runs / name, "train/skipped")[-1] == 0  # what was kept has moved since
    for key in ("train/loss", "train/grad_norm", "train/lr", "train/skipped"):
        assert column(tmp_path / name, key) == column(runs / name, key)
    for mine, theirs in zip(states(tmp_path / name), states(runs / name), strict=True):
        for a, b in zip(*(x["single_partition_of_fp32_groups"] for x in (mine, theirs)), strict=True):
            assert torch.equal(a, b)
    assert {path.name for path in kept.iterdir()} == {"last.ckpt", "step-0000004.ckpt"}


def test_a_pretraining_run_of_deepspeed_starts_a_fine_tuning_run(runs, script, prepared):
    run = [*RUN, "trainer=cpu", "trainer.devices=1", f"data.dir={prepared}", "stage=finetune", "stage.steps=1"]
    code, _, err = script("train", *run, f"stage.init_from={runs / 'bf16'}", "keep_initial=true", "out=next")
    assert code == 0, err
    first = load_encoder("next/checkpoints/step-0000000.ckpt").state_dict()
    assert all(torch.equal(value, first[key]) for key, value in load_encoder(runs / "bf16").state_dict().items())
    assert [record["stage"]["name"] for record in history("next")] == ["pretrain", "finetune"]


def test_going_on_in_another_way_is_refused_in_one_line(runs, script, prepared, tmp_path):
    run = [*RUN, f"data.dir={prepared}", "out=next"]
    last = runs / "zero" / "checkpoints" / "last.ckpt"
    assert "written by DeepSpeed" in script.refused("train", *run, *RUNS["ddp"], f"resume={last}")
    line = script.refused("train", *run, *RUNS["zero"], f"resume={runs / 'ddp' / 'checkpoints' / 'last.ckpt'}")
    assert "written without DeepSpeed" in line and "stage.init_from=" in line
    line = script.refused("train", *run, *RUNS["zero"], "trainer.devices=4", f"resume={last}")
    assert "optimizer state of 2 ranks, this run has 4" in line


class Foreign:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


def test_no_code_in_a_checkpoint_is_run(runs, script, prepared, tmp_path):
    copied = tmp_path / "last.ckpt"
    shutil.copytree(runs / "zero" / "checkpoints" / "last.ckpt", copied)
    content = torch.load(find_checkpoint(copied), weights_only=True)
    torch.save(content | {"more": Foreign()}, find_checkpoint(copied))
    line = script.refused("train", *RUN, f"data.dir={prepared}", *RUNS["zero"], f"resume={copied}", "out=next")
    assert "print" in line and "was run" not in line
    with pytest.raises(Exception) as error:
        load_encoder(copied)
    assert "cannot read the checkpoint" in one_line(error.value)
