"""What is wrong with a command shows before heavy libraries are loaded and before anything is written; --help too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "src").glob("*.py"))
HEAVY = ["torch", "pytorch_lightning", "transformers", "mteb", "sentence_transformers", "daft", "pandas", "datasets"]
TINY = ["model=tiny", "data=local", "data.dir=prepared", "trainer=cpu", "stage.global_batch=32", "stage.steps=1"]
ERRORS = [  # script, arguments, what the line says
    ("train", ["model=tiny", "data=local", "data.dir=gone", "trainer=cpu"], "gone is no prepared folder"),
    ("train", [*TINY, "stage.stepz=1"], "did you mean stage.steps?"),
    ("train", [*TINY, "stage.steps=-1"], "stage.steps=-1 must be at least 1"),
    ("train", [*TINY, "optim.lr=-1"], "optim.lr must be positive"),
    ("train", [*TINY, "stage.init_from=runs/gone"], "checkpoint runs/gone does not exist"),
    ("train", [*TINY, "resume=gone.ckpt"], "resume=gone.ckpt does not exist"),
    ("train", [*TINY, "resume=auto"], "resume=auto needs the run's directory: out=RUN_DIR"),
    ("train", [*TINY, "sources=[gone]"], "prepared has no source 'gone' for stage pretrain; it has: colours"),
    ("train", [*TINY, "stage.global_batch=100"], "source times has 90 rows, fewer than one global batch of 100"),
    ("train", [*TINY, "loss.guide=runs/gone", "loss.mask_margin=0"], "checkpoint runs/gone does not exist"),
    ("train", [*TINY, "evaluate_every=1", "evaluate.data_dir=tasks", "evaluate.tasks=[Gone]"], "no folder Gone under"),
    ("eval", ["checkpoint=bm25", "suite=local", "data_dir=tasks", "tasks=[Gone]"], "no folder Gone under tasks"),
    ("train", [*TINY, "sources=gone"], "sources=gone is no list in source_sets"),
    ("train", [*TINY, "out=begun"], "already holds a run; go on with resume=auto"),
    ("train", [*TINY, "trainer.strategy=deepspeed"], "choose trainer=deepspeed"),
    ("train", [*TINY, "+trainer.max_steps=3"], "trainer.max_steps would not act"),
    ("train", [*TINY, "model=base", "model.name_or_path=/gone"], "model.name_or_path=/gone does not exist"),
    (
        "train",
        [*TINY, "model=base", "model.name_or_path=raw", "model.revision=v2"],
        "model.revision=v2 is of a name on the hub, raw is a directory",
    ),
    ("train", [*TINY, "evaluate_every=1", "evaluate.data_dir=gone"], "evaluation folder gone does not exist"),
    ("prepare", ["data=local", "data.path=gone"], "there is no folder gone"),
    ("prepare", ["data=local", "data.path=gone", "data.dir=a", "out=b"], "are two folders for the same data"),
    ("prepare", ["data=pretrain", "data.sources=[gone]"], "unknown source 'gone'"),
    ("mine", ["in=gone"], "there is no file gone"),
    ("mine", ["in=raw", "checkpoint=runs/gone"], "checkpoint runs/gone does not exist"),
    ("mine", ["in=raw", "corpus=gone.jsonl"], "there is no file gone.jsonl"),
    ("eval", ["checkpoint=runs/gone"], "checkpoint runs/gone does not exist"),
    ("eval", ["checkpoint={a: bm25, b: runs/gone}"], "checkpoint runs/gone does not exist"),
    ("eval", ["checkpoint=bm25", "data_dir=gone"], "evaluation folder gone does not exist"),
    ("eval", ["suite=demo"], "checkpoint= is missing"),
    ("eval", ["checkpoint=bm25", "suite=demo"], "evaluation folder data/demo/eval does not exist"),
    ("eval", ["checkpoint=bm25", "suite=local"], "suite=local is what a folder holds: pass data_dir="),
    ("export", ["checkpoint=runs/gone", "out=model"], "checkpoint runs/gone does not exist"),
    ("export", ["checkpoint=bm25", "out=begun"], "exists and is no model directory"),
    ("embed", ["checkpoint=runs/gone", "in=raw/a.jsonl", "out=x.npy"], "checkpoint runs/gone does not exist"),
    ("embed", ["checkpoint=bm25", "in=gone.txt", "out=x.npy"], "in=gone.txt: there is no such file"),
    ("embed", ["checkpoint=bm25", "in=raw/a.jsonl"], "out= is missing"),
    ("search", ["folder=gone"], "folder=gone is no folder"),
    ("search", ["folder=raw", "checkpoint=runs/gone"], "checkpoint runs/gone does not exist"),
    ("collect", ["name=gone"], "there is no experiment gone"),
    ("collect", ["name=speedrun"], "is a single run without a grid"),
    ("bench", ["benchmark=gone"], "Could not find 'benchmark/gone'"),
    ("dashboard", ["entity=me", "nam=x"], "did you mean name?"),
]
RUN = """
import contextlib, io, json, runpy, sys
from pathlib import Path
from hydra.core.global_hydra import GlobalHydra
root, heavy, commands = sys.argv[1], set(json.loads(sys.argv[2])), json.loads(sys.argv[3])
here = lambda: sorted((str(file), file.read_bytes().hex() if file.is_file() else "") for file in Path().rglob("*"))
before, found = here(), []
for name, arguments in commands:
    GlobalHydra.instance().clear()
    sys.argv = [f"{root}/src/{name}.py", *arguments]
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    found.append([code, out.getvalue(), sorted(heavy & set(sys.modules)), here() == before])
print(json.dumps(found))
"""


def results(commands: list, folder: Path) -> list:
    """(exit code, what is printed, heavy modules loaded so far, whether the folder is as before) of each command."""
    command = [sys.executable, "-c", RUN, str(ROOT), json.dumps(HEAVY), json.dumps(commands)]
    path = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, cwd=folder, env=path, capture_output=True, check=True).stdout)


@pytest.fixture
def folder(tmp_path, prepared) -> Path:
    (tmp_path / "raw").mkdir()
    (tmp_path / "runs").mkdir()  # where it is, runs/gone is no name of the hub
    (tmp_path / "raw" / "a.jsonl").write_text(json.dumps({"query": "a", "pos": "b"}))
    (tmp_path / "tasks" / "STS12").mkdir(parents=True)
    (tmp_path / "prepared").symlink_to(prepared)
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "begun" / "checkpoints" / "last.ckpt").write_bytes(b"of another run")
    (tmp_path / "begun" / ".hydra").mkdir()
    (tmp_path / "begun" / ".hydra" / "overrides.yaml").write_text("- of another run\n")
    return tmp_path


def test_an_error_in_settings_or_paths_loads_nothing_heavy_and_leaves_nothing(folder):
    found = results([error[:2] for error in ERRORS], folder)
    for (name, arguments, line), (code, said, heavy, unchanged) in zip(ERRORS, found, strict=True):
        shown = [one for one in said.splitlines() if one.startswith("error: ")]
        assert code == 2 and len(shown) == 1 and line in shown[0], (name, arguments, said)
        assert heavy == [], (name, arguments[-1])
        assert unchanged, (name, arguments)
    assert {error[0] for error in ERRORS} == set(SCRIPTS)


@pytest.mark.slow
def test_the_probe_sees_what_is_loaded_and_written(folder):
    """The same probe on a training that starts, and is refused by what only its data tell: its directory goes again."""
    train = [*TINY, "out=new/run", "data.weights={gone: 1}"]
    ((code, said, heavy, unchanged),) = results([["train", train]], folder)
    assert code == 2 and "data.weights names 'gone'" in said and "torch" in heavy and unchanged
    (folder / "new").mkdir()
    ((_, _, _, unchanged),) = results([["train", [*train, "out=begun", "resume=auto"]]], folder)
    assert not unchanged, "a directory that was there keeps what Hydra writes"


def test_help_is_a_sentence_an_example_and_every_setting_with_its_comment(tmp_path):
    found = results([[name, ["--help"]] for name in SCRIPTS], tmp_path)
    for name, (code, said, heavy, unchanged) in zip(SCRIPTS, found, strict=True):
        assert code == 0 and heavy == [] and unchanged
        file = ROOT / "conf" / f"{name}.yaml"
        lines, settings = said.splitlines(), yaml.safe_load(file.read_text())
        assert lines[0].endswith(".") and any(line.startswith(f"  python src/{name}.py ") for line in lines)
        written = file.read_text().splitlines()
        for key in settings.keys() - {"defaults", "hydra"}:
            (line,) = [line for line in written if line.startswith(f"{key}:")]
            assert f"  {line}" in lines, (name, key)
            above = written[written.index(line) - 1]
            assert " # " in line or above.startswith("# "), f"{key} of conf/{name}.yaml says nothing of itself"
        chosen = [entry for entry in settings["defaults"] if isinstance(entry, dict)]
        groups = {key for entry in chosen for key in entry if not key.startswith("override ")}
        shown = {line.split("=")[0].strip() for line in lines if "  (default: " in line} - {"+experiment"}
        assert shown == groups and not {"  hydra:", "  defaults:"} & set(lines)


def test_help_of_a_group_is_its_choices_with_their_settings(tmp_path):
    asked = [["train", ["--help", "loss"]], ["train", ["model=tiny", "-h"]], ["train", ["--help", "model=tinny"]]]
    (_, loss, *_), (_, tiny, *_), (code, wrong, *_) = results(asked, tmp_path)
    assert "loss=improved" in loss and "loss=vanilla" in loss and "  temperature: 0.01 " in loss
    assert "model=tiny\n" in tiny and "hidden_size: 128" in tiny and "model=base" not in tiny
    assert code == 2 and "did you mean tiny" in wrong
