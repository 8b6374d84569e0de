"""Training as a user runs it: it learns, logs, keeps checkpoints, goes on exactly, and refuses what cannot be meant."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from logs import column, rows
from trainings import TINY

from gte.models.load import history, load_encoder


@pytest.fixture
def train(script, prepared):
    def run(*arguments):
        code, out, err = script("train", *TINY, f"data.dir={prepared}", *arguments)
        assert code == 0, err
        return out

    return run


def test_a_run_learns_logs_and_keeps_what_made_it(script, train, tmp_path):
    script.draws = True
    out = train("out=run", "stage.steps=60", "keep_initial=true", "optim.lr=5e-3")
    run = tmp_path / "run"
    losses = column(run, "train/loss")
    assert len(losses) == 60 and np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    for key in ("train/lr", "train/grad_norm", "train/pairs_per_s", "train/tokens_per_s"):
        values = column(run, key)
        assert len(values) == 60 and np.isfinite(values).all() and max(values) > 0, key
    assert column(run, "train/padding") == column(run, "train/skipped") == [0] * 60
    assert max(column(run, "train/lr")) == pytest.approx(5e-3)
    by_source = {source: column(run, f"train/loss/{source}") for source in ("colours", "shapes", "times", "triples")}
    assert sorted(sum(by_source.values(), [])) == sorted(losses) and all(by_source.values())
    assert (run / "loss.png").stat().st_size > 5_000 and "last.ckpt" in out
    first, last = (load_encoder(run / "checkpoints" / name) for name in ("step-0000000.ckpt", "last.ckpt"))
    assert not np.allclose(first.encode(["colours 1 red"]), last.encode(["colours 1 red"]))
    (record,) = history(run)
    assert record["steps"] == 60 and record["sources"]["colours"]["rows"] == 400


def test_a_stage_of_longer_texts_than_the_models_trains_on_the_models_length_and_says_so(script, prepared, tmp_path):
    for name, length in (("long", 512), ("own", 48)):
        lengths = [f"stage.max_length={length}", "stage.batch_tokens=1024", "model.max_length=48", "stage.steps=3"]
        code, _, err = script("train", *TINY, f"data.dir={prepared}", f"out={name}", *lengths)
        line = "note: texts are cut at the model's 48 tokens, fewer than stage.max_length=512"
        assert code == 0 and err.count(line) == (length == 512) and "Traceback" not in err
    assert column(tmp_path / "long", "train/loss") == column(tmp_path / "own", "train/loss")
    (record,) = history(tmp_path / "long")
    assert (record["max_length"], record["stage"]["max_length"]) == (48, 512)
    assert "was done already" in script("train", *TINY, f"data.dir={prepared}", "out=long", "resume=auto", *lengths[1:],
                                        "stage.max_length=512")[1]  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_a_resumed_run_says_from_which_step_it_goes_on_and_of_how_many(script, prepared, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    lines = []
    for steps in (3, 7):
        settings = [f"data.dir={prepared}", "out=run", "resume=auto", f"stage.steps={steps}"]
        code, out, err = script("train", *TINY, *settings)
        assert code == 0, err
        lines.append(out + err)
    first, second = lines
    assert "step 3/3" in first and "step 7/7" in second
    assert re.search("begins at step 0, as .*run/checkpoints holds no checkpoint", first) and "begins at" not in second
    assert "/?" not in first + second and "step 0/7" not in second
    assert ("from step 3 on" in second) if terminal else ("step 3/7: goes on from here" in second)
    assert "from step" not in first and "goes on from here" not in first


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(train, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(f"out={name}", f"seed={seed}", "stage.steps=6")
    a, b, c = (column(tmp_path / name, "train/loss") for name in "abc")
    assert a == b != c


def test_a_resumed_run_takes_the_same_steps(train, tmp_path):
    train("out=whole", "model.dropout=0.0")
    train("out=parts", "model.dropout=0.0", "checkpoint_every=10")
    middle = tmp_path / "parts" / "checkpoints" / "step-0000010.ckpt"
    train("out=resumed", "model.dropout=0.0", f"resume={middle}")
    whole, resumed = column(tmp_path / "whole", "train/loss"), column(tmp_path / "resumed", "train/loss")
    assert len(resumed) == 14 and resumed == whole[10:]
    assert [int(row["step"]) for row in rows(tmp_path / "resumed")] == list(range(10, 24))
    one, other = (load_encoder(tmp_path / name) for name in ("whole", "resumed"))
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_going_on_in_the_same_directory_leaves_one_curve_without_hole_or_repetition(train, tmp_path):
    train("out=whole", "checkpoint_every=10")
    last = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.copy(
        tmp_path / "killed" / "checkpoints" / "step-0000010.ckpt", tmp_path / "killed" / "checkpoints" / "last.ckpt"
    )
    train("out=killed", "checkpoint_every=10", "resume=auto")
    assert [int(row["step"]) for row in rows(tmp_path / "killed")] == list(range(24))
    assert column(tmp_path / "killed", "train/loss") == column(tmp_path / "whole", "train/loss")
    assert last.exists()


def test_fine_tuning_starts_from_the_pretrained_weights_at_a_tenth_of_the_rate(train, tmp_path):
    train("out=pretrained", "stage.steps=8")
    train(
        "stage=finetune",
        "stage.init_from=pretrained",
        "out=finetuned",
        "stage.steps=3",
        "keep_initial=true",
        "sources=[triples]",
        "stage.group_size=4",
    )
    start = load_encoder(tmp_path / "finetuned" / "checkpoints" / "step-0000000.ckpt").encode(["which 3"])
    np.testing.assert_array_equal(start, load_encoder(tmp_path / "pretrained").encode(["which 3"]))
    assert max(column(tmp_path / "finetuned", "train/lr")) == pytest.approx(2e-4)
    assert [record["stage"]["name"] for record in history(tmp_path / "finetuned")] == ["pretrain", "finetune"]
    assert set(history(tmp_path / "finetuned")[1]["sources"]) == {"triples"}


def test_a_start_from_a_run_that_was_stopped_says_so_once(train, script, prepared, tmp_path):
    train("out=whole", "stage.steps=4", "checkpoint_every=2")
    half, ended = tmp_path / "half" / "checkpoints", tmp_path / "whole" / "checkpoints"
    half.mkdir(parents=True)
    shutil.copy(ended / "step-0000002.ckpt", half / "last.ckpt")
    tune = [*TINY, f"data.dir={prepared}", "stage=finetune", "stage.steps=1", "sources=[triples]", "stage.group_size=4"]
    _, _, err = script("train", *tune, "stage.init_from=half", "out=after_half")
    assert err.count("stage.init_from=half was stopped after 2 of 4 steps") == 1
    for number, meant in enumerate(("whole", "whole/checkpoints/step-0000002.ckpt")):
        code, _, err = script("train", *tune, f"stage.init_from={meant}", f"out=after_{number}")
        assert code == 0 and "was stopped after" not in err


def test_recomputation_and_small_chunks_change_no_loss(train, tmp_path):
    train("out=plain", "stage.steps=5")
    train("out=recomputed", "stage.steps=5", "stage.recompute_fraction=1.0", "stage.batch_tokens=64")
    plain, recomputed = (column(tmp_path / name, "train/loss") for name in ("plain", "recomputed"))
    np.testing.assert_allclose(recomputed, plain, rtol=2e-4)


def test_vanilla_loss_and_bf16_train_as_well(train, tmp_path):
    train("out=vanilla", "loss=vanilla", "stage.steps=3")
    train("out=half", "trainer.precision=bf16-mixed", "stage.steps=3")
    assert column(tmp_path / "vanilla", "train/loss")[0] < column(tmp_path / "half", "train/loss")[0]


def test_repeated_texts_are_no_negatives_where_asked(train, tmp_path):
    common = ["stage=finetune", "sources=[triples]", "stage.group_size=4", "stage.steps=2"]  # many equal negatives
    train(*common, "out=plain")
    train(*common, "mask_repeated_texts=true", "out=masked")
    masked, plain = (column(tmp_path / name, "train/loss")[0] for name in ("masked", "plain"))
    assert masked < plain - 1e-4


def test_wandb_runs_offline_without_a_key(train, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    train("out=run", "logger=wandb", "stage.steps=2")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(column(tmp_path / "run", "train/loss")) == 2  # and the csv is there too


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=3"], "optim.lrr"),
        (["+optim.lrr=3"], "lrr"),
        (["+experiments=mixing_ratio"], "unknown key 'experiments'"),
        (["model=bas"], "model/bas"),
        (["modle=base"], "modle"),
        (
            ["data.dir=nowhere"],
            "nowhere is no prepared folder: it has no manifest.json; make it with python src/prepare.py",
        ),
        (["sources=[colours,nonsense]"], "nonsense"),
        (["stage.global_batch=100"], "times has 90 rows"),
        (["stage.batch_tokens=20"], "stage.batch_tokens=20"),
        (["stage.init_from=gone/run/dir"], "gone/run/dir does not exist"),
        (["resume=gone.ckpt"], "gone.ckpt does not exist"),
        (["trainer=gpu"], "no CUDA device"),
        (["stage.epochs=1"], "stage.steps and stage.epochs"),
    ],
)
def test_bad_input_is_refused_in_one_line(script, prepared, arguments, message):
    if "trainer=gpu" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    directory = [] if any(a.startswith("data.dir") for a in arguments) else [f"data.dir={prepared}"]
    assert message in script.refused("train", *TINY, *directory, "out=run", *arguments)


def test_the_papers_run_without_data_or_without_a_hub_says_what_to_do(script, prepared):
    assert "make it with python src/prepare.py" in script.refused("train", "model=base", "trainer=cpu")
    data = ["data=local", f"data.dir={prepared}", "trainer=cpu", "stage.global_batch=32"]
    line = script.refused("train", "stage=pretrain", "model=base", *data)
    assert "bert-base-uncased" in line and "model.name_or_path=" in line


def test_a_finished_run_is_not_overwritten(train, script, prepared, tmp_path):
    train("out=run", "stage.steps=2")
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    assert "already holds a run" in script.refused("train", *TINY, f"data.dir={prepared}", "out=run")
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before


def test_texts_that_are_cut_are_counted_in_a_line(script, prepared, tmp_path):
    base = ["train", *TINY, f"data.dir={prepared}", "stage.steps=2"]
    code, out, err = script(*base, "stage.max_length=8", "out=short")
    cut = [
        line for line in out.splitlines() if line.endswith("of 128 texts have 8 tokens or more: what is beyond was cut")
    ]
    assert code == 0 and len(cut) == 1, err
    resumed = [*base, "stage.max_length=8", "out=short", "stage.steps=5", "resume=auto"]
    code, out, err = script(*resumed)
    assert code == 0 and "of 192 texts have 8 tokens or more: what is beyond was cut (counted since the resume)" in out
    code, out, err = script(*base, "out=long")
    assert code == 0 and "was cut" not in out, err


def test_init_from_another_model_or_another_vocabulary_is_refused(train, script, prepared, small_model, tmp_path):
    train("out=run", "stage.steps=1")
    base = [*TINY, f"data.dir={prepared}", "out=next"]
    assert "holds another model" in script.refused("train", *base, "model.hidden_size=64", "stage.init_from=run")
    assert "another tokenizer" in script.refused("train", *base, f"stage.init_from={small_model}")


def test_a_pretrained_model_with_another_tokenizer_than_the_shards_is_refused(script, prepared, small_model):
    line = script.refused(
        "train",
        "model=base",
        f"model.name_or_path={small_model}",
        "model.max_length=64",
        "stage.max_length=32",
        "stage.global_batch=32",
        "data=local",
        f"data.dir={prepared}",
        "trainer=cpu",
        "out=run",
    )
    assert "were made with the tokenizer" in line


def test_manifest_accounts_for_every_row(prepared):
    sources = json.loads((prepared / "manifest.json").read_text())["sources"]
    assert {name: facts["kept"] for name, facts in sources.items()} == {
        "colours": 400,
        "shapes": 150,
        "times": 90,
        "triples": 64,
    }


@pytest.mark.parametrize("drawn", ["gte.results.figures.loss_curves", "gte.results.report.write_run_report"])
def test_a_finished_run_whose_report_cannot_be_written_is_finished_and_says_so(
    script, prepared, tmp_path, monkeypatch, drawn
):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    script.draws = True
    monkeypatch.setattr(drawn, refuse)
    code, out, err = script("train", *TINY, f"data.dir={prepared}", "out=run", "stage.steps=2")
    assert code == 0 and "pretrain done: " in out and "Traceback" not in err, err
    (line,) = [line for line in err.splitlines() if line.startswith("note: ")]
    assert "No space left on device" in line and f"collect.py report={tmp_path / 'run'} writes it" in line
    assert not (tmp_path / "run" / "report.html").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert script("collect", "report=run")[0] == 0 and (tmp_path / "run" / "report.html").exists()
