"""What one training step promises: a bad step changes nothing, dropout is a function of the step, layers recompute."""

from itertools import pairwise

import pytest
import torch
from test_train import TINY, column

from gte.hub import load_encoder
from gte.loss import improved_contrastive_loss

LOSSES = {"nan": float("nan"), "inf": float("inf")}


@pytest.fixture
def spoil(monkeypatch):
    """Makes the loss of the given calls, counted from 0, not finite; returns the list of the calls made."""

    def choose(which, value: float) -> list[int]:
        calls: list[int] = []

        def loss(*given, **options):
            calls.append(len(calls))
            result = improved_contrastive_loss(*given, **options)
            return result * value if calls[-1] in which else result

        monkeypatch.setattr("gte.loss.improved_contrastive_loss", loss)
        return calls

    return choose


def run(script, prepared, *arguments) -> tuple[int, str, str]:
    return script("train", *TINY, f"data.dir={prepared}", *arguments)


@pytest.mark.parametrize("value", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(script, prepared, tmp_path, spoil, value, precision):
    spoil({2, 3, 6}, value)
    common = ["stage.steps=9", "checkpoint_every=1", f"trainer.precision={precision}", "out=run"]
    code, _, err = run(script, prepared, *common)
    assert code == 0, err
    skipped = column(tmp_path / "run", "train/skipped")
    grown = [int(after > before) for before, after in zip([0, *skipped], skipped, strict=False)]
    assert all(grown[step] for step in (2, 3, 6)) and sum(grown) == skipped[-1]
    if precision != "16-mixed":  # whose scale may overflow at other steps too
        assert skipped[-1] == 3
    weights = [
        load_encoder(tmp_path / "run" / "checkpoints" / f"step-{step:07d}.ckpt").state_dict() for step in range(1, 10)
    ]
    for step, (before, after) in enumerate(pairwise(weights), 1):
        same = all(torch.equal(value, after[key]) for key, value in before.items())
        assert same == bool(grown[step]), step
        assert all(value.isfinite().all() for value in after.values())


def test_a_run_of_bad_steps_stops_and_names_the_last_good_checkpoint(script, prepared, tmp_path, spoil):
    calls = spoil(range(5, 100), float("nan"))
    line = script.refused(
        "train", *TINY, f"data.dir={prepared}", "out=run", "checkpoint_every=2", "max_skipped=3", "stage.steps=20"
    )
    assert "3 steps in a row, up to step 7," in line and len(calls) == 8
    kept = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert str(kept) in line
    assert all(value.isfinite().all() for value in load_encoder(kept).state_dict().values())


def test_skipped_steps_are_still_counted_after_a_resume(script, prepared, tmp_path, spoil):
    spoil({1, 2}, float("nan"))
    assert run(script, prepared, "out=run", "stage.steps=8", "checkpoint_every=4")[0] == 0
    first = tmp_path / "run" / "checkpoints" / "step-0000004.ckpt"
    assert run(script, prepared, "out=more", "stage.steps=8", f"resume={first}")[0] == 0
    assert column(tmp_path / "more", "train/skipped") == [2.0] * 4


def test_a_resumed_run_draws_the_dropout_that_it_would_have(script, prepared, tmp_path):
    common = ["model.dropout=0.3", "stage.steps=12"]
    assert run(script, prepared, *common, "out=whole", "checkpoint_every=5")[0] == 0
    middle = tmp_path / "whole" / "checkpoints" / "step-0000005.ckpt"
    assert run(script, prepared, *common, "out=resumed", f"resume={middle}")[0] == 0
    assert run(script, prepared, "stage.steps=12", "model.dropout=0.0", "out=without")[0] == 0
    whole, resumed, without = (column(tmp_path / name, "train/loss") for name in ("whole", "resumed", "without"))
    assert resumed == whole[5:] and whole[0] != without[0]


def test_recomputed_layers_change_no_loss(script, prepared, tmp_path):
    from transformers.modeling_layers import GradientCheckpointingLayer

    recomputing = []
    original = GradientCheckpointingLayer.__call__

    def spy(layer, *given, **options):
        recomputing.append(layer.gradient_checkpointing and layer.training)
        return original(layer, *given, **options)

    common = ["model.dropout=0.2", "stage.steps=4"]
    assert run(script, prepared, *common, "out=plain")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientCheckpointingLayer, "__call__", spy)
        assert run(script, prepared, *common, "out=layers", "stage.recompute_layers=true")[0] == 0
        assert (
            run(script, prepared, *common, "out=both", "stage.recompute_layers=true", "stage.recompute_fraction=1")[0]
            == 0
        )
    assert recomputing and all(recomputing)
    plain, layers, both = (column(tmp_path / name, "train/loss") for name in ("plain", "layers", "both"))
    assert layers == pytest.approx(plain, rel=1e-5) and both == pytest.approx(plain, rel=1e-5)
