"""What one training step promises: a bad step changes nothing, dropout is a function of the step, layers recompute."""

from itertools import pairwise

import pytest
import torch
from conftest import loaded_from
from logs import column
from trainings import TINY

from gte.data.mixture import mix
from gte.data.module import PairData
from gte.encoder import Encoder
from gte.errors import UserError
from gte.loss import improved_contrastive_loss
from gte.models.load import load_encoder
from gte.modes import evaluating
from gte.stage import Stage
from gte.training.task import ContrastiveTask, check_compiled

LOSSES = {"nan": float("nan"), "inf": float("inf")}


def run(script, prepared, *arguments, model=TINY) -> tuple[int, str, str]:
    return script("train", *model, f"data.dir={prepared}", *arguments)


@pytest.fixture(params=["random weights", "loaded from disk"])
def dropping(request) -> list[str]:
    """The arguments of a training with dropout."""
    if request.param == "random weights":
        return [*TINY, "model.dropout=0.2"]
    return loaded_from(request.getfixturevalue("pretrained"), TINY)


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
    kept = tmp_path / "run" / "checkpoints" / "step-0000004.ckpt"  # that of step 6 was written amid the bad steps
    assert f"last good checkpoint: {kept};" in line
    assert all(value.isfinite().all() for value in load_encoder(kept).state_dict().values())


def test_skipped_steps_are_still_counted_after_a_resume(script, prepared, tmp_path, spoil):
    spoil({1, 2}, float("nan"))
    assert run(script, prepared, "out=run", "stage.steps=8", "checkpoint_every=4")[0] == 0
    first = tmp_path / "run" / "checkpoints" / "step-0000004.ckpt"
    assert run(script, prepared, "out=more", "stage.steps=8", f"resume={first}")[0] == 0
    assert column(tmp_path / "more", "train/skipped") == [2.0] * 4


def test_a_resumed_run_draws_the_dropout_that_it_would_have(script, prepared, tmp_path, dropping):
    assert run(script, prepared, "stage.steps=12", "out=whole", "checkpoint_every=5", model=dropping)[0] == 0
    middle = tmp_path / "whole" / "checkpoints" / "step-0000005.ckpt"
    assert run(script, prepared, "stage.steps=12", "out=resumed", f"resume={middle}", model=dropping)[0] == 0
    assert run(script, prepared, "stage.steps=12", "out=another", "seed=1", model=dropping)[0] == 0
    whole, resumed, another = (column(tmp_path / name, "train/loss") for name in ("whole", "resumed", "another"))
    assert resumed == whole[5:] and whole[0] != another[0]


def test_a_model_from_disk_trains_with_its_dropout_from_the_first_step(script, prepared, pretrained, tmp_path):
    arguments = loaded_from(pretrained, [*TINY, "stage.steps=1", "stage.max_length=64"])
    assert run(script, prepared, "out=run", model=arguments)[0] == 0
    sizes = {"max_length": 64, "global_batch": 32, "group_size": 1, "batch_tokens": 2048, "recompute_fraction": 0.0}
    stage = Stage(name="pretrain", steps=1, epochs=None, lr_scale=1.0, init_from=None, **sizes)
    batch = PairData(prepared, stage, alpha=0.5, seed=42).steps()[0]
    encoder = Encoder.from_pretrained(pretrained)

    @torch.no_grad()
    def loss() -> float:
        torch.manual_seed(mix(mix(42, 0), 0))
        x_RD = encoder(batch.ids_T, batch.lengths_R, encoder.plan(batch.lengths_R.numpy(), 2048))
        return float(improved_contrastive_loss(x_RD[:32], x_RD[32:]))

    encoder.train()
    with_dropout = loss()
    encoder.eval()
    without = loss()
    assert column(tmp_path / "run", "train/loss") == pytest.approx([with_dropout], rel=1e-6)
    assert abs(with_dropout - without) > 1e-3


@pytest.mark.parametrize("settings", [[], ["evaluate_every=2", "evaluate.data_dir=tasks"]], ids=["plain", "evaluated"])
def test_every_part_is_in_train_mode_at_every_step_after_a_resume_too(
    script, prepared, pretrained, tmp_path, monkeypatch, settings
):
    from task_folders import write_sts

    write_sts(tmp_path / "tasks" / "Related")
    seen = []
    step = ContrastiveTask.training_step

    def spy(task, *given):
        seen.append({part.training for part in task.modules()})
        return step(task, *given)

    monkeypatch.setattr(ContrastiveTask, "training_step", spy)
    arguments = loaded_from(pretrained, [*TINY, "stage.steps=6", "checkpoint_every=3", "out=run"])
    assert run(script, prepared, *settings, model=arguments)[0] == 0
    middle = tmp_path / "run" / "checkpoints" / "step-0000003.ckpt"
    assert run(script, prepared, *settings, f"resume={middle}", "out=more", model=arguments)[0] == 0
    assert seen == [{True}] * 9


def test_encode_puts_back_the_mode_of_every_part(small_model):
    encoder = Encoder.from_pretrained(small_model).train()
    encoder.lm.embeddings.eval()
    before = [part.training for part in encoder.modules()]
    assert len(set(before)) == 2
    encoder.encode(["some text"])
    assert [part.training for part in encoder.modules()] == before
    with pytest.raises(ZeroDivisionError), evaluating(encoder):
        assert not any(part.training for part in encoder.modules())
        _ = 1 / 0
    assert [part.training for part in encoder.modules()] == before


def test_recomputed_layers_change_no_loss(script, prepared, tmp_path, dropping):
    from gte.models.fused import Attention

    forwards = []  # of a part of a layer: what is recomputed is within the layer's own hooks
    original = Attention.apply

    def spy(*given):
        forwards.append(1)
        return original(*given)

    counts = {}
    for out, settings in (
        ("plain", []),
        ("layers", ["stage.recompute_layers=true"]),
        ("both", ["stage.recompute_layers=true", "stage.recompute_fraction=1"]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Attention, "apply", spy)
            patch.setattr("gte.training.task.broken", lambda encoder: None)  # a forward of its own before a checkpoint
            assert run(script, prepared, "stage.steps=4", f"out={out}", *settings, model=dropping)[0] == 0
        counts[out] = len(forwards)
        forwards.clear()
    assert counts["layers"] == 2 * counts["plain"] > 0 and counts["both"] == 3 * counts["plain"]
    plain, layers, both = (column(tmp_path / name, "train/loss") for name in ("plain", "layers", "both"))
    assert layers == pytest.approx(plain, rel=1e-5) and both == pytest.approx(plain, rel=1e-5)


def test_compiled_dropout_is_not_recomputed_on_cuda(pretrained):
    sizes = {"max_length": 64, "global_batch": 32, "group_size": 1, "batch_tokens": 2048, "lr_scale": 1.0}
    kept, again, layers = (
        Stage(name="pretrain", steps=1, epochs=None, init_from=None, recompute_fraction=fraction, **sizes, **more)
        for fraction, more in ((0.0, {}), (0.5, {}), (0.0, {"recompute_layers": True}))
    )
    encoder = Encoder.from_pretrained(pretrained)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    check_compiled(encoder, again, cuda)
    encoder.compiled = True
    check_compiled(encoder, again, cpu)
    check_compiled(encoder, kept, cuda)
    for recomputing in (again, layers):
        with pytest.raises(UserError, match=r"model.compile=true with dropout .* stage.recompute_fraction=0"):
            check_compiled(encoder, recomputing, cuda)
    encoder.lm.config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    check_compiled(encoder, again, cuda)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_out_of_memory_names_the_settings_to_change(script, prepared, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(ContrastiveTask, "training_step", fails)
    line = script.refused("train", *TINY, f"data.dir={prepared}", "out=run")
    assert "out of memory" in line and "stage.batch_tokens" in line and "stage.recompute_fraction=1.0" in line
