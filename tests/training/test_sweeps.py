"""Experiments: a grid by scale, a process a point; failures are told and lose nothing, a rerun repeats nothing."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from gte.curves import read_rows
from gte.models.load import history
from gte.overrides import read_arguments
from gte.results.ablation import table

CONFIGURED = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf/experiment").glob("*.yaml")}
SINGLE = {"speedrun", "speedrun_finetune"}  # two stages of one run, without a grid
EXPERIMENTS = {name: facts for name, facts in CONFIGURED.items() if name not in SINGLE}
SMALL = [
    *(
        "model=tiny",
        "data=local",
        "trainer.precision=32-true",
        "workers=0",
        "model.hidden_size=32",
        "model.num_hidden_layers=1",
    ),
    *("stage.steps=4", "evaluate_every=null"),
]


def values(grid: dict) -> dict[str, list[str]]:
    return {key: str(text).split(",") for key, text in grid.items()}


def test_every_experiment_has_results_and_the_other_way_round():
    kept = {path.parent.name for path in (ROOT / "experiments").glob("*/results.csv")} - {
        "demo",
        "widths",
        "further",
    }  # no grids
    assert kept == set(CONFIGURED) - {"speedrun_finetune"}  # whose results are speedrun's


def test_the_grids_at_full_scale_are_the_papers():
    """Figure 3 and Tables 8 to 11."""
    grid = {name: values(experiment["grids"]["paper"]) for name, experiment in EXPERIMENTS.items()}
    assert grid["mixing_ratio"]["data.alpha"] == ["0", "0.3", "0.5", "1"]
    assert grid["model_size"]["model"] == ["small", "base", "large"]
    assert grid["batch_size"]["stage.global_batch"] == [str(512 * 2**k) for k in range(6)]
    assert grid["objective"]["loss"] == ["vanilla", "improved"]
    assert grid["training_steps"] == {"checkpoint_every": ["10000"]}
    assert grid["training_stages"]["+experiment/stages"] == ["PT", "FT", "Full"]
    sets = EXPERIMENTS["pretrain_sources"]["source_sets"]
    pretrain = yaml.safe_load((ROOT / "conf/data/pretrain.yaml").read_text())["sources"]
    assert [len(sets[name] or pretrain) for name in grid["pretrain_sources"]["sources"]] == [5, 15, 33]
    assert set(sets["five"]) < set(sets["fifteen"]) < set(pretrain)
    sizes = {
        path.stem: yaml.safe_load(path.read_text())["pairs"] for path in (ROOT / "conf/source").glob("[!fd]*/*.yaml")
    }
    assert set(sets["five"]) == set(sorted(pretrain, key=sizes.get)[-5:])


@pytest.mark.parametrize("scale", ["paper", "laptop"])
@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_the_ends_of_every_grid_compose(name, scale):
    shared = yaml.safe_load((ROOT / "conf/hydra/sweeper/grids.yaml").read_text())["shared"]
    grid = values(shared.get(scale, {}) | EXPERIMENTS[name]["grids"][scale])
    for end in (0, -1):
        chosen = [f"{key}={choices[end]}" for key, choices in grid.items()]
        GlobalHydra.instance().clear()
        with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
            cfg = compose("train", [f"+experiment={name}", f"scale={scale}", *chosen, "out=x"])
        assert cfg.resume == "auto" and cfg.stage.name in ("pretrain", "finetune")
    if "sources" in grid:
        assert set(grid["sources"]) <= set(EXPERIMENTS[name]["source_sets"])


@pytest.fixture
def started(script, monkeypatch, tmp_path):
    """Commands of the points, which are not run; their exit codes are those in `codes`, then 0."""
    Plugins.instance()  # finds the launcher, and loads its module anew
    import hydra_plugins.processes as processes

    for data in ("demo", "pretrain"):
        (tmp_path / "data" / data).mkdir(parents=True)
        (tmp_path / "data" / data / "manifest.json").write_text("{}")

    def run(self, command, folder, **_):
        run.commands.append(command)
        return run.codes.pop(0) if run.codes else 0

    run.commands, run.codes = [], []
    monkeypatch.setattr(processes.Processes, "wait_for", run)
    return run


def test_a_point_is_a_process_of_its_own_with_its_own_directory(script, started):
    code, _, err = script("train", "-m", "+experiment=mixing_ratio", "scale=laptop", "seed=7", "data.alpha=0,1")
    assert code == 0, err
    assert len(started.commands) == 2
    for command, alpha in zip(started.commands, ("0", "1"), strict=True):
        assert command[1] == str(ROOT / "src/train.py") and "-m" not in command
        assert {"hydra.mode=RUN", f"data.alpha={alpha}", "seed=7", "model=tiny", "scale=laptop"} <= set(command)
        assert f'hydra.run.dir="multirun/mixing_ratio/alpha={alpha},seed=7"' in command


def test_a_point_knows_the_sweeps_directory_as_the_command_line_has_it(script, started):
    sweep = ["-m", "+experiment=training_stages", "+experiment/stages=Full", "scale=laptop", "seed=1"]
    code, _, err = script("train", *sweep, "hydra.sweep.dir=multirun/other=place")
    assert code == 0, err
    (command,) = started.commands
    assert 'hydra.sweep.dir="multirun/other=place"' in command
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("train", command[2:], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        assert cfg.stage.init_from == "multirun/other=place/stages=PT,seed=1"


def test_failed_points_are_named_and_the_others_run(script, started):
    started.codes = [0, 3, 0, 2]
    code, _, err = script("train", "-m", "+experiment=mixing_ratio", "scale=laptop", "seed=1")
    assert code == 1 and len(started.commands) == 4
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: 2 of 4 points failed: ")
    assert "alpha=0.3,seed=1 (exit code 3)" in line and "alpha=1,seed=1 (exit code 2)" in line


def test_a_fine_tuning_waits_for_the_pre_training_that_it_starts_from(script, started, monkeypatch):
    import hydra_plugins.processes as processes

    events, fine_tuning = [], threading.Event()

    def run(self, command, folder, **_):
        (stage,) = (stage for stage in ("PT", "FT", "Full") if f"stages={stage}," in command[-1])
        events.append(f"{stage} begins")
        if stage == "FT":
            fine_tuning.set()
        elif stage == "PT":
            assert fine_tuning.wait(60)
            time.sleep(0.3)  # in which Full would begin
        events.append(f"{stage} ends")
        return 0

    monkeypatch.setattr(processes.Processes, "wait_for", run)
    code, _, err = script(
        "train", "-m", "+experiment=training_stages", "scale=laptop", "hydra.launcher.parallel=3", "seed=1"
    )
    assert code == 0, err
    assert events.index("FT begins") < events.index("PT ends") < events.index("Full begins")


def stages_of(commands: list[list[str]]) -> list[str]:
    return [command[-1].partition("stages=")[2].partition(",")[0] for command in commands]


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("code, how", [(3, "failed"), (-9, "failed"), (75, "was stopped")])
def test_a_fine_tuning_of_a_failed_pre_training_is_not_started_and_fails_with_its_code(
    script, started, monkeypatch, parallel, code, how
):
    import hydra_plugins.processes as processes

    def run(self, command, folder, **_):
        started.commands.append(command)
        return code if "stages=PT," in command[-1] else 0

    monkeypatch.setattr(processes.Processes, "wait_for", run)
    sweep = ["+experiment=training_stages", "scale=laptop", "seed=1,2", f"hydra.launcher.parallel={parallel}"]
    exit_code, out, err = script("train", "-m", *sweep)
    assert exit_code == 1 and sorted(stages_of(started.commands)) == ["FT", "FT", "PT", "PT"]
    for seed in (1, 2):
        full, pretrained = (f"multirun/training_stages/stages={stage},seed={seed}" for stage in ("Full", "PT"))
        assert f"== {full}: not started, {pretrained} that it starts from {how}" in out.splitlines()
        assert f"{full} (exit code {code})" in err
    assert "error: 4 of 6 points failed" in err


def test_a_line_is_written_in_one_piece_so_that_those_of_parallel_points_do_not_mingle(started, monkeypatch):
    import hydra_plugins.processes as processes

    pieces = []
    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=pieces.append, flush=lambda: None))
    processes.say("== a point: exit code 0")
    assert pieces == ["== a point: exit code 0\n"]


@pytest.mark.parametrize("written", ["multirun/x/", "./multirun/x", "multirun//y/../x", "{cwd}/multirun/x", "linked"])
@pytest.mark.parametrize("pretrained", ["{cwd}/multirun/x/stages=PT,seed=1", "multirun/x/stages=PT,seed=1/best.ckpt"])
def test_a_pre_training_is_known_however_its_path_is_written(script, started, tmp_path, written, pretrained):
    (tmp_path / "multirun/x").mkdir(parents=True)
    (tmp_path / "linked").symlink_to("multirun/x")
    started.codes = [3]
    stages = ["+experiment=training_stages", "+experiment/stages=PT,Full", "scale=laptop", "seed=1"]
    places = [f"hydra.sweep.dir={written}", f'pretrained="{pretrained}"']
    code, out, _ = script("train", "-m", *stages, *(text.format(cwd=tmp_path) for text in places))
    assert code == 1 and stages_of(started.commands) == ["PT"] and ": not started" in out


def test_a_pre_training_is_known_by_the_address_of_its_checkpoints(script, started):
    started.codes = [3]
    stages = ["+experiment=training_stages", "+experiment/stages=PT,Full", "scale=laptop", "seed=1"]
    kept = ["checkpoint_dir=s3://bucket/${hydra:sweep.subdir}", 'pretrained="s3://bucket/stages=PT,seed=1/best.ckpt"']
    code, out, _ = script("train", "-m", *stages, *kept)
    assert code == 1 and stages_of(started.commands) == ["PT"] and ": not started" in out


@pytest.mark.parametrize("kept", ["kept", "s3://bucket/kept", "multirun/mixing_ratio/../kept/", "${paths.data}/kept"])
def test_points_that_share_their_checkpoints_are_refused_by_their_names(script, started, kept):
    sweep = ["+experiment=mixing_ratio", "scale=laptop", "seed=1", "data.alpha=0,1", f"checkpoint_dir={kept}"]
    line = script.refused("train", "-m", *sweep)
    shared = kept.replace("${paths.data}", "data")
    assert f"2 points would keep their checkpoints in checkpoint_dir={shared}: " in line
    assert "alpha=0,seed=1, multirun/mixing_ratio/alpha=1,seed=1; give each" in line and not started.commands
    assert line.endswith(f"'checkpoint_dir={shared}/${{hydra:sweep.subdir}}'")


def in_its_process(command: list[str]) -> DictConfig:
    """The settings that a point's process composes, as `train.py` reads its command line."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose("train", read_arguments("train", command[2:]), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


@pytest.mark.parametrize(
    ("folder", "subdir", "names"),
    [
        ("s3://bucket", [], ["alpha=0,seed=1", "alpha=1,seed=1"]),
        ("/abs/k=1", ["hydra.sweep.subdir=${hydra.job.num}"], ["0", "1"]),
        ("C:\\d e", ["hydra.sweep.subdir=\"a=${data.alpha},b 'c'\""], ["a=0,b 'c'", "a=1,b 'c'"]),
    ],
)
def test_the_paths_of_points_are_what_the_sweep_says_with_each_ones_subdir(script, started, folder, subdir, names):
    sweep = ["+experiment=mixing_ratio", "scale=laptop", "seed=1", "data.alpha=0,1", *subdir]
    typed = [f"{key}={folder}/${{hydra:sweep.subdir}}" for key in ("checkpoint_dir", "stage.init_from", "resume")]
    code, _, err = script("train", "-m", *sweep, *typed)
    assert code == 0, err
    for command, name in zip(started.commands, names, strict=True):
        cfg = in_its_process(command)
        assert {cfg.checkpoint_dir, cfg.stage.init_from, cfg.resume} == {f"{folder}/{name}"}


@pytest.mark.parametrize(
    "own", ["kept/${hydra:job.num}", "kept/${hydra:job.id}", "kept/${data.alpha}", "kept/${hydra:job.override_dirname}"]
)
def test_what_tells_the_checkpoints_of_points_apart_does_so_in_their_processes(script, started, own):
    """A single run's own hydra.job.num is None, and its subdir one of no sweep."""
    sweep = ["+experiment=mixing_ratio", "scale=laptop", "seed=1", "data.alpha=0,1", f"checkpoint_dir={own}"]
    varied = "hydra.job.config.override_dirname.exclude_keys"
    shared = yaml.safe_load((ROOT / "conf/hydra/sweeper/grids.yaml").read_text())["shared"]["laptop"]
    keys = ",".join(["experiment", "scale", "seed", "checkpoint_dir", *shared])
    code, _, err = script("train", "-m", *sweep, f"{varied}=[{keys}]")
    assert code == 0, err
    names = ["data.alpha=0", "data.alpha=1"] if own.endswith("dirname}") else ["0", "1"]
    assert [in_its_process(command).checkpoint_dir for command in started.commands] == [f"kept/{k}" for k in names]


def test_checkpoints_within_a_runs_own_directory_are_each_points_own(script, started):
    sweep = ["+experiment=mixing_ratio", "scale=laptop", "seed=1", "data.alpha=0,1", "checkpoint_dir=${out}/kept"]
    code, _, err = script("train", "-m", *sweep)
    assert code == 0 and len(started.commands) == 2, err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["+experiment=mixing"], "Could not find 'experiment/mixing'"),
        (["+experiments=mixing_ratio"], "unknown key 'experiments'"),
        (["+experiment=mixing_ratio", "+experiment=batch_size"], "Multiple values for experiment"),
        (["+experiment=mixing_ratio,batch_size", "scale=laptop"], "several experiments in one command"),
        (["optim.lrr=1,2"], "optim.lrr"),
        (["+alpha=0,1"], "unknown key 'alpha'"),
        (["+experiment=mixing_ratio", "trainer=cpu", "hydra.sweep.subdir=x"], "two points would write"),
        (["+experiment=mixing_ratio", "hydra.launcher.parallel=0"], "at least 1 point"),
        (["trainer=cpu", "stage.steps=4,abc"], "stage.steps=abc must be"),
        (["trainer=cpu", "stage.steps=4,-1"], "stage.steps=-1"),
        (["trainer=cpu", "optim.lr=1e-3,-1"], "optim.lr must be positive"),
        (["trainer=cpu", "+trainer.max_steps=5,6"], "trainer.max_steps would not act"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_trained(script, started, arguments, said):
    assert said in script.refused("train", "-m", *arguments)
    assert not started.commands


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "src/train.py", "-m", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_a_sweep_trains_its_points_and_a_rerun_what_is_missing(prepared, script, tmp_path):
    point = [*SMALL, f"data.dir={prepared}", "seed=1", "loss=improved"]
    done = sweep(tmp_path, "+experiment=batch_size", "scale=laptop", "stage.global_batch=100000,8", *point)
    runs = tmp_path / "multirun/batch_size"
    trained, stepless = (f"loss=improved,batch={batch},seed=1" for batch in (8, 16))
    assert done.returncode == 1, done.stderr
    failed = "multirun/batch_size/loss=improved,batch=100000,seed=1 (exit code 2)"
    assert f"error: 1 of 2 points failed: {failed}" in done.stderr
    assert "fewer than one global batch of 100000" in done.stderr and "Traceback" not in done.stderr
    kept = runs / trained / "checkpoints/last.ckpt"
    assert history(kept)[-1]["steps"] == 4
    before = kept.stat().st_mtime_ns

    again = sweep(tmp_path, "+experiment=batch_size", "scale=laptop", "stage.global_batch=8", *point)
    assert again.returncode == 0 and "was done already" in again.stdout
    assert kept.stat().st_mtime_ns == before and len(read_rows(runs / trained / "metrics.csv")) == 4

    other = sweep(tmp_path, "+experiment=batch_size", "scale=laptop", "stage.global_batch=8", *point, "optim.lr=1e-3")
    assert other.returncode == 1 and "of a finished run with other settings: optim.lr=0.001 (was 0.002)" in other.stderr

    shutil.copytree(runs / trained / ".hydra", runs / stepless / ".hydra")
    code, _, err = script("collect", "name=batch_size", f"runs={runs}", "out=collected")
    assert code == 0 and "left out" in err and stepless in err
    row, spent = read_rows(Path("collected/results.csv"))
    losses = [float(row["train/loss"]) for row in read_rows(runs / trained / "metrics.csv")]
    assert (row["run"], row["seed"], row["metric"]) == (trained, "1", "train/loss")
    assert float(row["value"]) == pytest.approx(sum(losses) / 4, abs=1e-4)
    assert "stage.global_batch=8" in row["overrides"] and len(row["commit"]) >= 40
    rates = [float(row["train/pairs_per_s"]) for row in read_rows(runs / trained / "metrics.csv")]
    assert spent["metric"] == "train/seconds"
    assert float(spent["value"]) == pytest.approx(sum(8 / rate for rate in rates), abs=1e-4)
    curve = [float(point["loss"]) for point in read_rows(Path("collected/loss.csv"))]
    assert curve == pytest.approx(losses, abs=1e-4)
    written = {name: Path("collected", name).read_bytes() for name in ("report.html", "loss.svg", "results.csv")}
    assert trained.encode() in written["report.html"]
    for name in ("report.html", "loss.svg"):
        Path("collected", name).unlink()
    code, _, err = script("collect", "name=batch_size", "runs=null", "out=collected")
    assert code == 0, err
    assert Path("collected/loss.svg").read_bytes() == written["loss.svg"]
    assert Path("collected/results.csv").read_bytes() == written["results.csv"]
    assert trained.encode() in Path("collected/report.html").read_bytes()


@pytest.mark.slow
def test_four_points_of_two_ranks_are_four_jobs_of_two_ranks(prepared, tmp_path):
    point = [*SMALL, f"data.dir={prepared}", "seed=1", "trainer=ddp", "trainer.accelerator=cpu"]
    point += ["trainer.devices=2", "stage.global_batch=16"]
    done = sweep(tmp_path, "+experiment=mixing_ratio", "scale=laptop", "data.alpha=0,0.3,0.5,1", *point)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "multirun/mixing_ratio").glob("alpha=*"))
    assert len(runs) == 4
    for run in runs:
        assert len(read_rows(run / "metrics.csv")) == 4 and history(run)[-1]["steps"] == 4
    assert done.stdout.count("writes ") == 4  # each job says so once, on its first rank
    assert not any((tmp_path / "multirun").glob("*/*/multirun"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_launchers_run_the_same_points(prepared, tmp_path, launcher):
    point = [*SMALL, f"data.dir={prepared}", "seed=1", "loss=improved", f"hydra/launcher={launcher}"]
    done = sweep(tmp_path, "+experiment=batch_size", "scale=laptop", "stage.global_batch=8,100000,16", *point)
    assert done.returncode == 1, done.stderr
    assert "batch=100000,seed=1" in done.stderr
    runs = tmp_path / "multirun/batch_size"
    assert [history(runs / f"loss=improved,batch={batch},seed=1")[-1]["steps"] for batch in (8, 16)] == [4, 4]


def test_tables_have_mean_and_spread_over_seeds_in_the_grids_order():
    scores = [
        {"run": f"loss={loss},seed={seed}", "metric": metric, "value": str(value)}
        for loss, seed, metric, value in [
            *(("improved", 1, "STS", 50), ("improved", 2, "STS", 52), ("improved", 1, "nDCG", 20)),
            *(("improved", 2, "nDCG", 30), ("vanilla", 1, "STS", 48), ("vanilla", 1, "nDCG", 10)),
        ]
    ]
    header, vanilla, improved = table(scores, ["vanilla", "improved"])
    assert header == ["point", "seeds", "STS", "nDCG", "mean of tasks"]
    assert vanilla == ["loss vanilla", "1", "48.00", "10.00", "29.00"]
    spread = f"± {2**0.5:.2f}"  # of two values two apart
    assert improved == ["loss improved", "2", f"51.00 {spread}", "25.00 ± 7.07", "38.00 ± 4.24"]


def test_data_that_are_not_there_are_said_once_before_any_point_starts(script, started, tmp_path):
    (tmp_path / "data/demo/manifest.json").unlink()
    line = script.refused("train", "-m", "+experiment=mixing_ratio", "scale=laptop")
    assert "make it with python src/prepare.py data=demo" in line and not started.commands
