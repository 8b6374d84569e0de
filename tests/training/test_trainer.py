"""What trainer= gives: fp16 with a scaler also on a CPU; one line before any work where the machine cannot do it."""

import inspect
import shutil

import numpy as np
import pytest
import pytorch_lightning
import torch
from launch import srun, torchrun
from logs import column
from trainings import TINY

from gte.values import TRAINER_FIXED, TRAINER_READ, TRAINER_UNREAD

FP16 = ["trainer=cpu", "trainer.precision=16-mixed", "stage.steps=6", "checkpoint_every=3"]


@pytest.fixture
def run(script, prepared):
    def train(*arguments):
        code, _, err = script("train", *TINY, f"data.dir={prepared}", *arguments)
        assert code == 0, err

    return train


def checkpoint(run, name="last.ckpt") -> dict:
    return torch.load(run / "checkpoints" / name, weights_only=True)


def test_fp16_on_a_cpu_scales_the_loss_and_trains_like_fp32(run, tmp_path):
    run("out=half", *FP16)
    run("out=full", *FP16, "trainer.precision=32-true")
    half, full = column(tmp_path / "half", "train/loss"), column(tmp_path / "full", "train/loss")
    assert half != full
    np.testing.assert_allclose(half, full, rtol=0.01)
    norms = [column(tmp_path / name, "train/grad_norm") for name in ("half", "full")]
    np.testing.assert_allclose(*norms, rtol=0.03)  # unscaled before they are measured and bounded
    last = checkpoint(tmp_path / "half")
    assert last["MixedPrecision"]["scale"] == 2.0**16 and last["MixedPrecision"]["_growth_tracker"] == 6
    assert last["history"][0]["precision"] == "16-mixed" and "MixedPrecision" not in checkpoint(tmp_path / "full")


def test_a_step_that_overflows_changes_no_weight_and_halves_the_scale_that_a_checkpoint_kept(run, tmp_path):
    run("out=run", *FP16)
    middle = checkpoint(tmp_path / "run", "step-0000003.ckpt")
    assert middle["MixedPrecision"]["_growth_tracker"] == 3
    middle["MixedPrecision"]["scale"] = 2.0**60
    torch.save(middle, tmp_path / "far.ckpt")
    run("out=far", *FP16, f"resume={tmp_path / 'far.ckpt'}")
    last = checkpoint(tmp_path / "far")
    assert last["MixedPrecision"]["scale"] == 2.0**57 and last["MixedPrecision"]["_growth_tracker"] == 0
    assert column(tmp_path / "far", "train/skipped") == [1, 2, 3]
    assert all(torch.equal(value, last["state_dict"][key]) for key, value in middle["state_dict"].items())


def test_going_on_restores_the_scaler(run, tmp_path):
    run("out=whole", *FP16)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    kept = tmp_path / "killed" / "checkpoints"
    shutil.copy(kept / "step-0000003.ckpt", kept / "last.ckpt")
    run("out=killed", *FP16, "resume=auto")
    assert column(tmp_path / "killed", "train/loss") == column(tmp_path / "whole", "train/loss")
    assert checkpoint(tmp_path / "killed")["MixedPrecision"] == checkpoint(tmp_path / "whole")["MixedPrecision"]


def test_the_last_step_is_kept_whatever_the_interval(run, tmp_path):
    run("out=run", "stage.steps=5", "checkpoint_every=3")
    assert checkpoint(tmp_path / "run")["global_step"] == 5


DDP = ["trainer=ddp", "trainer.accelerator=cpu"]
ZERO = ["trainer=deepspeed", "trainer.accelerator=cpu"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DDP, "trainer.devices=3"], "stage.global_batch=32 does not divide over 3 ranks; set stage.global_batch=33"),
        ([*DDP, "trainer.num_nodes=5"], "does not divide over 5 ranks; set stage.global_batch=35"),
        ([*DDP, "trainer.devices=0"], "devices=0"),
        ([*DDP, "trainer.strategy=dpp"], "strategy='dpp'"),
        (["trainer.accelerator=abacus"], "accelerator='abacus'"),
        (["trainer.precision=17"], "Precision 17 is invalid"),
        (["+trainer.gradient_clip_val=0.5"], "set optim.clip_norm"),
        (ZERO, "DeepSpeed runs on CUDA only; use trainer=ddp trainer.accelerator=cpu"),
        ([*DDP, "trainer.strategy=deepspeed_stage_2"], "choose trainer=deepspeed, with trainer.strategy.stage=1 or 2"),
    ],
)
def test_what_no_machine_can_do_is_one_line(script, prepared, arguments, message):
    assert message in script.refused("train", *TINY, f"data.dir={prepared}", "out=run", *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("trainer", ["gpu", "ddp", "deepspeed"])
def test_without_cuda_the_trainers_for_it_are_one_line(script, prepared, trainer):
    line = script.refused("train", *TINY, f"data.dir={prepared}", "out=run", f"trainer={trainer}")
    assert "no CUDA device" in line and "trainer=cpu" in line


def test_more_devices_than_there_are_and_a_missing_deepspeed_are_one_line(script, prepared, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    run = [*TINY, f"data.dir={prepared}", "out=run"]
    line = script.refused("train", *run, "trainer=ddp", "trainer.devices=4")
    assert "requested gpu: [0, 1, 2, 3]" in line and "only has: [0, 1]" in line
    monkeypatch.setattr("gte.early.find_spec", lambda name: None)
    line = script.refused("train", *run, "trainer=deepspeed")
    assert "pip install -r requirements-deepspeed.txt" in line


@pytest.mark.parametrize(
    ("launcher", "world", "arguments", "message"),
    [
        (torchrun, 2, ["trainer=cpu"], "2 processes were started, but trainer.num_nodes=1 of trainer.devices=1 are 1"),
        (torchrun, 2, [*DDP, "trainer.devices=2", "trainer.num_nodes=2"], "trainer.devices=2 are 4"),
        (srun, 2, ["trainer=cpu"], "2 processes were started, but trainer.num_nodes=1 of trainer.devices=1 are 1"),
        (torchrun, 3, [*DDP, "trainer.devices=3"], "does not divide over 3 ranks"),
    ],
)
def test_a_launcher_that_started_another_number_of_ranks_is_one_line(
    script, prepared, monkeypatch, launcher, world, arguments, message
):
    for name, value in launcher(0, world).items():
        monkeypatch.setenv(name, str(value))
    assert message in script.refused("train", *TINY, f"data.dir={prepared}", "out=run", *arguments)


@pytest.mark.parametrize(
    ("precision", "kernel"), [("32-true", "fused"), ("bf16-mixed", "fused"), ("16-mixed", "foreach")]
)
def test_the_optimizer_never_goes_tensor_by_tensor(run, tmp_path, precision, kernel):
    run("out=run", *FP16, f"trainer.precision={precision}")
    groups = checkpoint(tmp_path / "run")["optimizer_states"][0]["param_groups"]
    assert [group[kernel] for group in groups] == [True] * len(groups) != []


def test_rounded_products_are_refused_where_the_precision_promises_float32(script, prepared, run):
    line = script.refused("train", *TINY, f"data.dir={prepared}", "loss.tf32=true", "out=run")
    assert "loss.tf32=true rounds what trainer.precision=32-true promises" in line
    run("out=run", *FP16, "trainer.precision=bf16-mixed", "loss.tf32=true")


def test_every_key_of_lightnings_trainer_is_read_fixed_or_refused_and_none_twice():
    """A new version of Lightning with another key fails here: say in gte.values what becomes of it."""
    signature = set(inspect.signature(pytorch_lightning.Trainer.__init__).parameters) - {"self"}
    classes = [*TRAINER_READ, *TRAINER_FIXED, *TRAINER_UNREAD]
    assert sorted(classes) == sorted(signature) and len(signature) > 40


@pytest.mark.parametrize("key", TRAINER_UNREAD)
def test_a_key_that_would_not_act_is_refused_by_name_with_the_setting_that_serves(key):
    from omegaconf import OmegaConf

    from gte.build import build_trainer
    from gte.errors import UserError

    settings = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "strategy": "auto", key: 5}
    with pytest.raises(UserError, match=f"trainer.{key} would not act: ") as error:
        build_trainer(OmegaConf.create(settings))
    assert TRAINER_UNREAD[key] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("+trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches would not act: set stage.global_batch"),
        ("+trainer.limit_train_batches=5", "trainer.limit_train_batches would not act: set stage.steps"),
        ("trainer.use_distributed_sampler=true", "trainer.use_distributed_sampler=True must be false"),
        ("+trainer.determinstic=true", "unknown key 'trainer.determinstic', did you mean deterministic?"),
        (
            "~trainer.use_distributed_sampler",
            "a setting cannot be removed; give another value, trainer.use_distributed",
        ),
        ("~trainer.precision", "a setting cannot be removed; give another value, trainer.precision="),
    ],
)
def test_such_a_key_stops_the_training_before_its_first_step(script, prepared, tmp_path, setting, message):
    assert message in script.refused("train", *TINY, f"data.dir={prepared}", "out=run", setting)
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("setting", ["deterministic=true", "detect_anomaly=true", "profiler=simple", "benchmark=true"])
def test_a_key_that_passes_changes_no_batch(run, tmp_path, setting):
    run("out=plain", "stage.steps=2")
    run("out=other", "stage.steps=2", f"+trainer.{setting}")
    batches = [column(tmp_path / name, "train/batch") for name in ("plain", "other")]
    assert batches[0] == batches[1] and len(set(batches[0])) == 2
