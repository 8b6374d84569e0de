"""An ablation counts a run's own scores, each once, and means over seeds that have all tasks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from task_folders import write_retrieval, write_sts
from trainings import TINY

from gte.curves import read_rows
from gte.encoder import Encoder
from gte.errors import UserError
from gte.models import load
from gte.models.load import describe, weights_checksum
from gte.prompts import with_prompts
from gte.results.ablation import (
    averaged,
    by_line,
    by_point,
    collect,
    grid_order,
    losses_by_line,
    measured,
    metrics_of,
    overall,
    point,
    scores_by_seconds,
    table,
    tell_lacking,
)
from gte.results.differences import differences

FACTS = {"steps": 40, "stage": {"global_batch": 8}, "best": {"step": 20}}
TRAINED = ["train/loss", "train/seconds"]


def entry(checkpoint: object, score: float, **more: object) -> dict:
    return {"checkpoint": str(checkpoint), "width": 32, **more, "tasks": {"STS": {"main_score": score}}}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run's directory, as the working directory names it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a=1/checkpoints").mkdir(parents=True)
    run = Path("runs/a=1")
    (run / "metrics.csv").write_text("step,train/loss,train/pairs_per_s,eval/STS\n19,2,8,61.5\n39,1,8,\n")
    return run


def score(run: Path, name: str, *entries: dict) -> None:
    (run / "eval" / name).mkdir(parents=True, exist_ok=True)
    models = {f"m{number}": one for number, one in enumerate(entries)}
    (run / "eval" / name / "results.json").write_text(json.dumps({"models": models}))


def scored(run: Path) -> dict[int, float]:
    found = measured(run, FACTS, metrics_of(run))
    assert [metric for _, metric in found if metric != "STS"] == TRAINED
    return {step: value for (step, metric), value in found.items() if metric == "STS"}


def test_a_runs_scores_are_those_of_its_own_checkpoints_by_their_plain_vectors(run, capsys):
    others = [entry("bm25", 1), entry("runs/a=10", 2), entry("runs", 3), entry(run / "checkpoints/ema.ckpt", 4)]
    kept = [entry(f"{run} int8", 5, vectors="int8"), entry(f"{run} 16 fp32", 6, vectors="float32", width=16)]
    own = [entry(run, 70), entry(run / "checkpoints/last.ckpt", 70), entry(f"{run} fp32", 70, vectors="float32")]
    earlier = [entry(run / "step-0000010.ckpt", 50), entry(run.resolve() / "checkpoints/best.ckpt", 61.5)]
    score(run, "all", *others, *kept, *own, *earlier)
    assert scored(run) == {20: 61.5, 40: 70, 10: 50}
    assert not capsys.readouterr().err
    score(run, "all", *others, *kept, own[-1])
    assert scored(run) == {20: 61.5, 40: 70} and not capsys.readouterr().err
    score(run, "all", *others, *kept)
    assert scored(run) == {20: 61.5}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: runs/a=1/eval/all/results.json, no model in it is a checkpoint of runs/a=1")


def test_a_runs_scores_are_found_through_links_to_it_and_to_its_checkpoints(run, tmp_path):
    run.rename(tmp_path / "disk")
    run.symlink_to(tmp_path / "disk")
    (run / "checkpoints").rename(tmp_path / "large")
    (run / "checkpoints").symlink_to(tmp_path / "large")
    for number, named in enumerate((run, tmp_path / "disk", "disk/../disk/", run / "checkpoints/last.ckpt", "large")):
        score(run, "all", entry("bm25", 1), entry(named, 70 + number))
        assert scored(run) == {20: 61.5, 40: 70 + number}


def test_two_scores_of_one_step_and_task_are_refused_by_their_files_and_equal_ones_count_once(run):
    score(run, "one", entry(run, 70.125))
    score(run, "two", entry(run / "checkpoints/last.ckpt", 70.125))
    assert scored(run)[40] == 70.125
    score(run, "two", entry(run / "checkpoints/step-0000040.ckpt", 70.25))
    named = "STS at step 40 is 70.125 in runs/a=1/eval/one/results.json, 70.250 in runs/a=1/eval/two/results.json"
    with pytest.raises(UserError, match=named):
        measured(run, FACTS, metrics_of(run))


def test_a_score_in_training_and_one_after_it_count_once_and_that_of_the_file_is_the_one(run, capsys):
    score(run, "best", entry(run / "best.ckpt", 61.5004))
    assert scored(run)[20] == pytest.approx(61.5, abs=1e-3) and not capsys.readouterr().err
    score(run, "best", entry(run / "best.ckpt", 61.75))
    assert scored(run) == {20: 61.75}
    (line,) = capsys.readouterr().err.splitlines()
    assert "STS at step 20 61.750 in runs/a=1/eval/best/results.json, 61.500 in training" in line


def keep(encoder: Encoder, file: Path) -> str:
    """Writes a checkpoint of new random weights, and returns their checksum."""
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight)
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"state_dict": state, "encoder": describe(encoder)}, file)
    return weights_checksum(encoder)


def test_a_score_counts_for_the_weights_it_was_made_with_and_not_for_later_ones_of_the_same_name(
    run, small_model, capsys, monkeypatch
):
    encoder = Encoder.from_pretrained(small_model)
    names = ("last", "best", "step-0000010")
    earlier = {name: keep(encoder, run / f"checkpoints/{name}.ckpt") for name in names}
    own = [entry(run, 70, weights=earlier["last"]), entry(run / "best.ckpt", 60, weights=earlier["best"])]
    kept = entry(run / "checkpoints/step-0000010.ckpt", 50, weights=earlier["step-0000010"])
    gone = entry(run / "step-0000005.ckpt", 40, weights="sha256:of a file that is there no more")
    score(run, "old", *own, kept, gone, entry("bm25", 30, weights="bm25s"))
    assert scored(run) == {5: 40, 10: 50, 20: 60, 40: 70}
    capsys.readouterr()

    later = {name: keep(encoder, run / f"checkpoints/{name}.ckpt") for name in ("last", "best")}
    reads, read = [], load.read_checkpoint
    monkeypatch.setattr(load, "read_checkpoint", lambda path: reads.append(path.stem) or read(path))
    score(run, "again", *own)
    assert scored(run) == {5: 40, 10: 50, 20: 61.5}  # at 20 that of the training
    lines = capsys.readouterr().err.splitlines()
    told = [(file, model, name) for file in ("again", "old") for model, name in (("m0", ""), ("m1", "/best.ckpt"))]
    for line, (file, model, name) in zip(lines, told, strict=True):
        assert line.startswith(f"left out: {run}/eval/{file}/results.json, {model} has other weights than {run}{name} ")
        assert line.endswith("; evaluate it again")
    assert sorted(reads) == ["best", "last"]  # each once, step-10 before

    score(run, "again", entry(run, 71, weights=later["last"]), entry(run / "best.ckpt", 61, weights=later["best"]))
    assert scored(run) == {5: 40, 10: 50, 20: 61, 40: 71}


def test_a_score_with_other_prompts_than_the_checkpoints_own_counts_for_its_weights(run, small_model):
    encoder = Encoder.from_pretrained(small_model)
    encoder.settings = replace(encoder.settings, prompts={"query": "q: "}, default_prompt="query")
    keep(encoder, run / "checkpoints/last.ckpt")
    for number, prompts in enumerate(({"query": "find: ", "passage": "text: "}, {})):
        encoder.settings = with_prompts(encoder.settings, prompts)
        stated = {"prompts": encoder.settings.prompts} if prompts else {}
        stated["default_prompt"] = encoder.settings.default_prompt
        score(run, "all", entry(run, 70 + number, weights=weights_checksum(encoder), **stated))
        assert scored(run)[40] == 70 + number


def test_the_loss_of_a_run_is_the_mean_of_its_last_20_logged_and_finite_ones_whatever_lies_between(run, capsys):
    """An evaluation has a row of its own; those that are no number are of steps that the training skipped."""
    lines = ["eval/STS,step,train/loss"]
    for step in range(40):
        loss = {31: "nan", 35: "inf"}.get(step, step)
        lines += [f",{step},{loss}", f"50,{step},"]
    (run / "metrics.csv").write_text("\n".join([*lines, ""]))
    found = measured(run, FACTS, metrics_of(run))
    given = [step for step in range(20, 40) if step not in (31, 35)]
    assert found[40, "train/loss"] == pytest.approx(sum(given) / len(given)) and found[40, "STS"] == 50
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: runs/a=1: losses that are no number are left out of train/loss")
    (run / "metrics.csv").write_text("eval/STS,step\n50,39\n")
    assert measured(run, FACTS, metrics_of(run)) == {(40, "STS"): 50}
    (run / "metrics.csv").unlink()
    assert metrics_of(run) == {} and "has no metrics.csv" in capsys.readouterr().err


def test_a_line_that_a_kill_has_cut_is_not_read(run):
    before = measured(run, FACTS, metrics_of(run))
    for cut in ("40,", "40,9,8,", "4"):
        (run / "metrics.csv").write_text(f"{(run / 'metrics.csv').read_text().rpartition(chr(10))[0]}\n{cut}")
        assert measured(run, FACTS, metrics_of(run)) == before


def test_a_score_that_is_no_number_is_left_out_by_its_file_and_the_others_count(run, capsys):
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text + "29,1,8,nan\n")
    for name, task in (("one", "STS"), ("two", "STS"), ("three", "Other")):
        one = entry(run, math.nan)
        one["tasks"] |= {task: {"main_score": math.nan}, "Third": {"main_score": 5.0}}
        score(run, name, one)
    found = measured(run, FACTS, metrics_of(run))
    assert {key: value for key, value in found.items() if "train" not in key[1]} == {
        (20, "STS"): 61.5,
        (40, "Third"): 5,
    }
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "left out: runs/a=1/metrics.csv, eval/STS at step 30 is nan"
    assert "left out: runs/a=1/eval/three/results.json, Other of m0 is nan" in lines and len(lines) == 5


def test_eval_beside_bm25_others_and_coarse_vectors_leaves_one_score_a_run_in_the_collected_table(
    script, prepared, tmp_path
):
    write_sts(tmp_path / "suite" / "Related")
    write_retrieval(tmp_path / "suite" / "Found", documents=20)
    runs = [f"runs/alpha={alpha},seed=1" for alpha in ("0", "1")]
    for seed, run in enumerate(runs):
        arguments = [f"data.dir={prepared}", f"hydra.run.dir='{run}'", "stage.steps=2", f"seed={seed}"]
        code, _, err = script("train", *TINY, *arguments)
        assert code == 0, err
    mine, other = runs
    named = f"checkpoint={{bm25: bm25, ours: '{mine}', other: '{other}'}}"
    for out, more in (("all", []), ("coarse", ["precisions=[fp32,int8]"])):
        eval = ["suite=local", "data_dir=suite", f"out='{mine}/eval/{out}'", "precision=fp32", *more]
        code, _, err = script("eval", named, *eval)
        assert code == 0, err
    code, _, err = script("collect", "name=mixing_ratio", "runs=runs", "out=collected")
    assert code == 0, err
    models = json.loads(Path(mine, "eval/all/results.json").read_text())["models"]
    results = models["ours"]["tasks"]
    assert results["Related"]["main_score"] != models["other"]["tasks"]["Related"]["main_score"]
    found = [row for row in read_rows(Path("collected/results.csv")) if not row["metric"].startswith("train/")]
    assert {row["metric"]: float(row["value"]) for row in found} == {
        name: pytest.approx(task["main_score"], abs=1e-4) for name, task in results.items()
    }
    assert len(found) == 2 and {row["run"] for row in found} == {Path(mine).name}
    code, _, err = script("collect", "name=mine", "runs=runs", "out=own")  # a sweep that is no experiment
    assert code == 0 and Path("own/table.md").read_text() == Path("collected/table.md").read_text(), err
    page = Path(mine, "report.html")
    assert script("collect", f"report='{mine}'")[0] == 0 and "Scores: local" in page.read_text()

    more = ["stage.steps=3", "resume=auto", "seed=0"]
    code, _, err = script("train", *TINY, f"data.dir={prepared}", f"hydra.run.dir='{mine}'", *more)
    assert code == 0 and err.count("has other weights than") == 3 and "Scores: local" not in page.read_text(), err
    code, _, err = script("collect", "name=mine", "runs=runs", "out=longer")
    assert code == 0 and f"left out: {mine}/eval/all/results.json, ours has other weights than {mine} has now" in err
    assert {row["metric"] for row in read_rows(Path("longer/results.csv"))} == set(TRAINED)
    assert "there is no experiment mine; there are: " in script.refused("collect", "name=mine", "runs=runs")


def rows(*of: tuple) -> list[dict]:
    return [dict(zip(("run", "seed", "metric", "value"), row, strict=True)) for row in of]


@pytest.mark.parametrize(
    "run, expected",
    [
        ("alpha=0.5,seed=1", {"alpha": "0.5"}),
        ("widths=[384,256],seed=1", {"widths": "[384,256]"}),
        ("w={a: [1,2], b: 3},x=(4,5)", {"w": "{a: [1,2], b: 3}", "x": "(4,5)"}),
        ("key=a=b", {"key": "a=b"}),
        ("alpha=1,again", {"alpha": "1"}),
        ("seed=1", {"run": "seed=1"}),
        ("seed=1,step=400", {"step": "400"}),
        ("0", {"run": "0"}),
        ("0,step=400", {"run": "0", "step": "400"}),
        ("plain,seed=2", {"run": "plain"}),
        ("a=[1,seed=1", {"a": "[1,seed=1"}),
        ("a=1],b=2", {"a": "1]", "b": "2"}),
    ],
)
def test_a_point_is_its_keys_outside_brackets_or_the_run_itself(run, expected):
    assert point(run) == expected


def test_runs_named_by_numbers_or_with_lists_are_points_of_their_own_in_every_table(tmp_path):
    scores = rows(*((name, 1, "STS", str(50 + place)) for place, name in enumerate(("10", "9", "w=[4,2],seed=1"))))
    assert [row[0] for row in table(scores, [])[1:]] == ["run 9", "run 10", "w [4,2]"]
    assert [row[0] for row in differences(scores, [])[1:]] == ["run: 9 -> 10"]
    assert by_line(scores, [])["ours"] == [("9", [51.0]), ("10", [50.0]), ("[4,2]", [52.0])]
    curves = losses_by_line([{"run": name, "step": 1, "loss": 2} for name in ("10", "9", "w=[4,2],seed=1")], [])
    assert {x: len(seeds) for x, seeds in curves[""].items()} == {"9": 1, "10": 1, "[4,2]": 1}
    assert grid_order({"laptop": {"widths": "[4,2],[2]"}})[2:] == ["[4,2]", "[2]"]


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("pretrain_sources", ["five", "fifteen", "demo_two", "demo_five", "pairs_two", "pairs_five", "all"]),
        (
            "finetune_sources",
            ["e5", "e5_medi", "e5_medi_berri", "demo_one", "demo_two", "pairs_two", "pairs_five", "all"],
        ),
    ],
)
def test_sets_of_sources_stand_in_their_order_whichever_a_sweep_names(name, sets):
    from collect import read_grids

    order = grid_order(read_grids(name))
    scores = rows(*((f"sources={found},seed=1", 1, "A", str(n)) for n, found in enumerate(sorted(sets))))
    assert [dict(entry)["sources"] for entry in by_point(scores, order)] == sets


def test_means_pair_tasks_by_seed_and_leave_out_seeds_that_lack_one(capsys):
    scores = rows(
        *(("a=0,seed=1", 1, "A", "10"), ("a=0,seed=2", 2, "A", "20"), ("a=0,seed=3", 3, "A", "90")),
        *(("a=0,seed=2", 2, "B", "40"), ("a=0,seed=1", 1, "B", "20"), ("a=1,seed=3", 3, "A", "5")),
        *(("a=0,seed=3", 3, "train/seconds", "9"), ("a=0,seed=2", 2, "train/seconds", "7")),
        *(("a=0,seed=1", 1, "train/seconds", "8"), ("a=1,seed=3", 3, "train/seconds", "0")),
    )
    scores += rows(("a=1,seed=3", 3, "B", "7"))
    assert overall(by_point(scores, [])[("a", "0"),], ["A", "B"]) == [15.0, 30.0]
    assert by_line(scores, []) == {"ours": [("0", [15.0, 30.0]), ("1", [6.0])]}
    assert scores_by_seconds(scores, []) == {"0": [(8.0, 15.0), (7.0, 30.0)]}
    _, first, second = table(scores, [])
    assert first[:3] == ["a 0", "3", "40.00 ± 43.59"] and first[-1] == "22.50 ± 10.61" and second[-1] == "6.00"
    assert table(scores, [], {"of A": ["A"]})[1][2] == "40.00 ± 43.59"  # of a group that the seed has all of
    assert not capsys.readouterr().err
    tell_lacking(scores)
    assert capsys.readouterr().err.splitlines() == ["left out of the mean of tasks: a 0, seed 3, which lacks B"]


def test_means_of_points_are_of_the_same_tasks_or_there_is_none_and_a_line_says_so(capsys):
    scores = rows(
        *((f"a={a},seed={seed}", seed, task, "10") for a in (0, 1, 2) for seed in (1, 2) for task in "AB"),
        *(("a=3,seed=1", 1, "A", "90"), ("a=1,seed=2", 2, "C", "80")),
    )
    points = by_point(scores, [])
    for entry, metrics in points.items():
        alone = entry == (("a", "3"),)
        assert overall(metrics, averaged(points)) == ([] if alone else [10.0, 10.0])
    assert [row[-1] for row in table(scores, [])[1:]] == [*["10.00 ± 0.00"] * 3, ""]
    assert [row[2] for row in table(scores, [], {"all": ["A", "B", "C"]})[1:]] == [*["10.00 ± 0.00"] * 3, ""]
    assert [x for x, _ in by_line(scores, [])["ours"]] == ["0", "1", "2"]
    tell_lacking(scores)
    assert capsys.readouterr().err.splitlines() == [
        "note: no mean of tasks counts C: at least half of the points lack it",
        "left out of the mean of tasks: a 3, seed 1, which lacks B",
    ]
    two = rows(*((f"a={a},seed=1", 1, task, value) for a, task, value in ((0, "A", 1), (0, "B", 9), (1, "A", 2))))
    assert [row[-1] for row in table(two, [])[1:]] == ["1.00", "2.00"]  # of A alone, which both have


def test_every_run_that_a_table_counts_and_no_mean_does_is_told_of(capsys):
    trained = [(f"a={a},seed={seed}", seed, "train/loss", "1") for a in (0, 1) for seed in (1, 2)]
    tell_lacking(rows(*trained))  # a sweep that nobody evaluates
    assert not capsys.readouterr().err
    scores = rows(*trained, ("a=0,seed=1", 1, "A", "10"), ("a=0,seed=1", 1, "B", "20"))
    tell_lacking(scores)
    said = [
        f"left out of the mean of tasks: a {a}, seed {seed}, which has no evaluation" for a, seed in ("02", "11", "12")
    ]
    assert capsys.readouterr().err.splitlines() == said
    assert [row[1] for row in table(scores, [])[1:]] == ["2", "2"]
    early = rows(("a=0,seed=1,step=9", 1, "A", "10"), ("a=0,seed=1,step=10", 1, "train/loss", "1"))
    tell_lacking(early)  # the last step of a run that was evaluated before
    assert not capsys.readouterr().err


def test_a_value_that_is_no_number_stops_no_table_and_a_refused_sweep_leaves_nothing(script, tmp_path):
    """A results.csv of an older version may hold one."""
    (tmp_path / "out").mkdir()
    kept = ["run,commit,overrides,seed,metric,value", "a=0,c,,1,A,10", "a=0,c,,2,A,nan", "a=0,c,,2,train/loss,inf"]
    (tmp_path / "out/results.csv").write_text("\n".join([*kept, ""]))
    (tmp_path / "out/loss.csv").write_text("run,step,loss\n")
    code, out, err = script("collect", "name=mixing_ratio", "runs=null", "out=out")
    assert code == 0 and "| a 0 | 1 | 10.00 |" in out and "loss.png" not in out, err
    for name, value in (("x", 1), ("y", 2)):
        write_finished(tmp_path / f"runs/a=1,{name},seed=1", value)
    assert "of seed 1 is 1.0 in the run" in script.refused("collect", "name=mine", "runs=runs", "out=new")
    assert not (tmp_path / "new/results.csv").exists() and not (tmp_path / "new/loss.csv").exists()


def write_finished(run: Path, score: float, steps: int = 1) -> None:
    """A run that is done, as far as `collect` reads it."""
    for folder in ("checkpoints", ".hydra"):
        (run / folder).mkdir(parents=True)
    (run / ".hydra/overrides.yaml").write_text("[]")
    (run / "metrics.csv").write_text(f"eval/A,step,train/loss\n{score},{steps - 1},1.0\n")
    sizes = {"name": "pretrain", "max_length": 8, "global_batch": 8, "steps": steps, "epochs": None, "group_size": 1}
    sizes |= {"lr_scale": 1.0, "init_from": None, "batch_tokens": 64, "recompute_fraction": 0.0}
    seed = int(run.name[-1])
    facts = {"stage": sizes, "steps": steps, "sources": {}, "commit": "c", "seed": seed, "alpha": 0.5}
    torch.save({"state_dict": {}, "encoder": {"schema": 2}, "history": [facts]}, run / "checkpoints/last.ckpt")
    (run / "training.json").write_text(json.dumps([facts]))


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> dict[str, Path]:
    """Four finished runs of 12 steps: two points of two seeds."""
    monkeypatch.chdir(tmp_path)
    found = {f"a={a},seed={seed}": Path(f"runs/a={a},seed={seed}") for a in (0, 1) for seed in (1, 2)}
    for number, run in enumerate(found.values()):
        write_finished(run, 50 + number * number, steps=12)
    return found


def test_a_score_of_an_earlier_checkpoint_of_some_runs_adds_a_point_and_changes_no_other(sweep):
    before, _ = collect(Path("runs"))
    run = sweep["a=1,seed=2"]
    score(run, "s6", entry(run / "checkpoints/step-0000006.ckpt", 40))
    after, _ = collect(Path("runs"))
    added = [row for row in after if row not in before]
    assert [row for row in after if row in before] == before
    assert [(row["run"], row["metric"], row["value"]) for row in added] == [("a=1,seed=2,step=6", "STS", "40.0000")]
    for run in sweep.values():
        score(run, "s6", entry(run / "checkpoints/step-0000006.ckpt", 40))
    steps = {row["run"].rpartition("=")[2] for row in collect(Path("runs"))[0]}
    assert steps == {"6", "12"}  # all have several: a sweep over steps


@pytest.mark.parametrize("kept", ["kept/${hydra:sweep.subdir}", "s3://bucket/${seed}", "${out}/more"])
def test_a_finished_run_counts_wherever_its_checkpoints_are_kept(sweep, kept, capsys):
    before, curves = collect(Path("runs"))
    name, run = "a=1,seed=2", sweep["a=1,seed=2"]
    (run / "checkpoints/last.ckpt").unlink()
    (run / ".hydra/config.yaml").write_text(f"checkpoint_dir: {kept}\nseed: 2\nout: none\n")
    hydra = f"hydra:\n  sweep: {{subdir: '{name}'}}\n  runtime: {{output_dir: '{run.resolve()}'}}\n"
    (run / ".hydra/hydra.yaml").write_text(hydra)
    assert collect(Path("runs")) == (before, curves) and not capsys.readouterr().err
    folder = {"k": f"kept/{name}", "s": "s3://bucket/2", "$": f"{run}/more"}[kept[0]]
    score(run, "own", entry(f"{folder}/last.ckpt", 40), entry("elsewhere/last.ckpt", 30))
    found = [row for row in collect(Path("runs"))[0] if row not in before]
    assert [(row["run"], row["value"]) for row in found] == [(name, "40.0000")]

    with open(run / "metrics.csv", "a") as lines:  # resumed, and killed before it was done
        lines.write("60,16,1.0\n")
    assert name not in {row["run"] for row in collect(Path("runs"))[0]}
    assert f"left out: {run}, stopped after 17 steps" in capsys.readouterr().err


@pytest.mark.parametrize("beside", ["training.json", "checkpoints/step-0000012.ckpt"])
def test_a_cut_checkpoint_is_named_and_stops_neither_its_run_nor_the_others(sweep, beside, capsys):
    before = collect(Path("runs"))
    run = sweep["a=0,seed=1"]
    last = run / "checkpoints/last.ckpt"
    (run / "checkpoints/step-0000012.ckpt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:600])
    for other in {"training.json", "checkpoints/step-0000012.ckpt"} - {beside}:
        (run / other).unlink()
    assert collect(Path("runs")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {last} is truncated or altered (") and line.endswith("): not used")
    with pytest.raises(UserError, match=f"cannot read the checkpoint {last}: it is truncated or altered"):
        load.read_checkpoint(last)


def test_a_seed_with_two_values_of_a_point_is_refused_by_its_runs():
    twice = rows(("a=1,x,seed=1", 1, "A", "10"), ("a=1,y,seed=1", 1, "A", "20"))
    for read in (by_point, table, differences):
        with pytest.raises(UserError, match=r"A of seed 1 is 10\.0 in the run a=1,x,seed=1 and 20\.0 in a=1,y,seed=1"):
            read(twice, [])
    twice[1]["value"] = "10"
    assert table(twice, [])[1] == ["a 1", "1", "10.00", "10.00"]
