"""`make gpu` on small sizes without a card: it runs, it finds what is wrong, and no check takes another down."""

import gzip
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from gte.benchmarks.gpu import __main__ as command
from gte.benchmarks.gpu import pack
from gte.benchmarks.gpu.card import cuda_devices
from gte.benchmarks.gpu.catalogue import CHECKS, Check
from gte.benchmarks.gpu.checks import attention, encoder, loss
from gte.benchmarks.gpu.findings import Findings
from gte.benchmarks.gpu.runner import run_checks
from gte.benchmarks.gpu.setting import Setting
from gte.benchmarks.gpu.table import BEGIN, END, into_readme
from gte.data.shards import Manifest
from gte.encoder import Encoder

TROUBLE = """
import subprocess, sys, time

def fine(findings, setting):
    findings.row("a row", seconds=1.5)
    findings.at_least("speed", 2.0, 2.5, "M tokens/s")
    findings.at_most("memory", 1.0, 1.5, "GB")

def crashes(findings, setting):
    findings.row("before", seconds=1.0)
    raise ValueError("something broke")

def hangs(findings, setting):
    findings.row("before", seconds=1.0)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"])

def exhausts(findings, setting):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


@pytest.fixture
def setting(prepared, tmp_path) -> Setting:
    """Small sizes on the CPU over the prepared pairs of all tests."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "data").symlink_to(prepared)
    (tmp_path / "work").mkdir()
    return Setting("cpu", True, str(tmp_path / "pack"), str(tmp_path / "work"))


def test_a_machine_without_a_card_says_so_in_one_line_and_exits_with_2():
    if cuda_devices()[0]:
        pytest.skip("this machine has a CUDA device")
    for program in (["src/gte/benchmarks/gpu/card.py"], ["-m", "gte.benchmarks.gpu"]):
        done = subprocess.run(
            [sys.executable, *program], cwd=ROOT, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
        )
        assert done.returncode == 2 and not done.stdout
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: this machine has no CUDA device")


def test_a_check_that_crashes_or_hangs_loses_only_itself_and_is_named(tmp_path, monkeypatch):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "trouble.py").write_text(TROUBLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limits = {"crashes": 100, "hangs": 6, "exhausts": 100, "fine": 100}
    checks = {name: Check("trouble", seconds, "") for name, seconds in limits.items()}
    lines, start = [], time.perf_counter()
    setting = Setting("cpu", False, str(tmp_path), str(tmp_path)).to_json()
    found = run_checks(checks, setting, tmp_path / "out", budget=1000, folder="bad", tell=lines.append)
    assert time.perf_counter() - start < 500  # the sleeping grandchild is ended with its check
    assert {name: each["ok"] for name, each in found.items()} == dict.fromkeys(checks, False) | {"fine": True}
    assert found["crashes"]["faults"] == ["crashed, exit 1: ValueError: something broke"]
    assert found["hangs"]["faults"] == ["ended at its limit of 6 s"]
    assert "stage.batch_tokens" in found["exhausts"]["faults"][0]
    assert "stage.recompute_fraction" in found["exhausts"]["faults"][0]
    assert found["crashes"]["rows"] == found["hangs"]["rows"] == {"before": {"seconds": 1.0}}  # measured before
    assert [target["met"] for target in found["fine"]["targets"].values()] == [True, False]
    for name in checks:
        assert any(line.split()[1] == name for line in lines)
    assert "something broke" in (tmp_path / "out" / "log.txt").read_text()


def test_a_check_that_no_longer_fits_the_budget_is_named_and_not_run(tmp_path):
    lines = []
    found = run_checks({"env": Check("none", 60, "")}, "{}", tmp_path, budget=10, tell=lines.append)
    assert not found["env"]["ok"] and lines == ["left     env: 10 s of 10 were left; run it by CHECKS=env"]


def test_every_check_of_the_catalogue_is_a_function_and_all_fit_into_one_place():
    import importlib

    for name, check in CHECKS.items():
        assert callable(getattr(importlib.import_module(f"gte.benchmarks.gpu.checks.{check.module}"), name))
        assert check.says and check.seconds <= 150
    with pytest.raises(SystemExit) as stop:
        command.main(["--only", "loss_exakt"])
    assert stop.value.code == 2


def test_nan_and_what_is_above_the_limit_is_a_fault(tmp_path):
    findings = Findings(tmp_path / "f.json")
    findings.bound("row", 0.1, fine=0.05, large=0.2, none=float("nan"))
    assert [line.split(":")[1].split()[0] for line in findings.faults] == ["large", "none"]
    assert json.loads((tmp_path / "f.json").read_text())["rows"]["row"] == {"fine": 0.05, "large": 0.2, "none": "nan"}


def test_the_dry_run_finds_the_device_right(setting, tmp_path, capsys):
    code = command.main(["--cpu", "--only", "encoder", "--pack", setting.pack, "--out", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert code == 0, capsys.readouterr().out
    assert results["where"]["commit"] and results["where"]["torch"] == torch.__version__
    rows = results["checks"]["encoder"]["rows"]
    assert {"base packed bf16", "minilm padded fp32", "dropout packed fp32", "encode default bf16"} <= set(rows)
    assert 0 < rows["minilm packed fp32"]["gradients"] < 2e-4 < rows["minilm packed bf16"]["gradients"] * 10
    assert "| encoder | ok |" in (tmp_path / "out" / "table.md").read_text()


def test_the_loss_of_the_device_is_held_against_float64(setting, tmp_path, monkeypatch):
    sound, broken = (Findings(tmp_path / f"{name}.json") for name in ("sound", "broken"))
    loss.loss_exact(sound, setting)
    assert len(sound.rows) == 9 and not sound.faults
    exact = loss.improved_contrastive_loss

    def wrong(*given, chunk_rows=None, **options):
        return exact(*given, **options) * (1.001 if chunk_rows else 1)  # where it is in chunks, as on the device

    monkeypatch.setattr(loss, "improved_contrastive_loss", wrong)
    loss.loss_exact(broken, setting)
    assert any(line.startswith("improved float32: loss") for line in broken.faults), broken.faults


@pytest.mark.slow
def test_the_whole_dry_run_ends_without_a_fault(setting, tmp_path, capsys):
    code = command.main(["--cpu", "--budget", "3000", "--pack", setting.pack, "--out", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out" / "results.json").read_text())["checks"]
    assert code == 0, capsys.readouterr().out
    assert set(results) == set(CHECKS)
    assert "needs" in results["evaluation"]["skipped"]  # the pack of this test has no tasks
    resumed = next(row for label, row in results["train"]["rows"].items() if label.endswith("resumed"))
    stopped = next(row for label, row in results["train"]["rows"].items() if label.endswith("stopped"))
    assert stopped["rows_when_stopped"] < resumed["steps"] == 40


def test_recomputation_that_draws_other_dropout_is_found(setting, tmp_path, monkeypatch):
    model = setting.encoder(setting.model("minilm", dropout=0.1), padding_free=True)
    batch = setting.batch(12)
    sound = Findings(tmp_path / "sound.json")
    encoder.compare_dropout(sound, "packed", model, batch, "fp32")
    assert not sound.faults and len(sound.rows) == 1
    monkeypatch.setattr("gte.recompute.set_random_state", lambda *_: torch.manual_seed(99))
    broken = Findings(tmp_path / "broken.json")
    encoder.compare_dropout(broken, "packed", model, batch, "fp32")
    assert [line.split()[1] for line in broken.faults] == ["recomputed_gradients", "half_recomputed_gradients"]
    model.eval()
    off = Findings(tmp_path / "off.json")
    encoder.compare_dropout(off, "packed", model, batch, "fp32")
    assert "no dropout" in off.faults[0]


def test_another_result_than_the_cpus_is_found(setting, tmp_path, monkeypatch):
    folder, batch = setting.model("minilm", dropout=0.0), setting.batch(12)
    exact = encoder.pass_through(setting.encoder(folder, padding_free=False), batch, "fp32")
    findings = Findings(tmp_path / "f.json")
    monkeypatch.setattr("gte.inputs.position_ids", lambda ids, within, config: within * 0)  # each token the first
    encoder.compare_pass(findings, "packed fp32", setting.encoder(folder, padding_free=True), batch, "fp32", exact)
    assert [line.split()[2] for line in findings.faults] == ["embeddings", "gradients"]


@pytest.mark.parametrize("packed", [False, True])
def test_the_share_of_dropout_is_told_from_a_sixteenth(setting, packed):
    """cuDNN's attention of some versions drops in steps of 1/16: 0.0625 or 0.125 where 0.1 is asked for."""
    folder = attention.uniform_model(setting)
    found = attention.dropped(setting, folder, packed, "fp32", 64)
    assert found["dropped"] == pytest.approx(0.1, abs=0.005) and found["mean"] == pytest.approx(1, abs=0.01)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_probs_dropout_prob": 1 / 16}))
    assert attention.dropped(setting, folder, packed, "fp32", 64)["dropped"] == pytest.approx(1 / 16, abs=0.005)


def test_the_table_takes_the_place_of_the_one_before_and_nothing_else(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    target = {"goal": "≥ 2 M tokens/s", "measured": 1.5, "met": False}
    checks = {
        "env": {"ok": True, "seconds": 3.0, "rows": {"copy": {"tb_per_s": 2.9}}, "targets": {"speed": target}},
        "train": {"ok": False, "seconds": 9.0, "rows": {}, "targets": {}, "faults": ["ended at its limit of 9 s"]},
        "ddp": {"ok": False, "left": "3 s of 9 were left"},
    }  # fmt: skip
    into_readme(
        {"where": {"device": "a card", "torch": "2.0", "commit": "abc"}, "command": "c", "checks": checks}, file
    )
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert "device a card" in text and "commit abc" in text
    assert "| speed | ≥ 2 M tokens/s | 1.5 | **no** |" in text and "| env | copy | tb_per_s 2.9 |" in text
    assert "**failed**: ended at its limit of 9 s" in text and "not run: 3 s of 9 were left" in text
    experiment = (ROOT / "experiments" / "gpu" / "README.md").read_text()
    assert experiment.count(BEGIN) == experiment.count(END) == 1


def write_shared(folder: Path, pairs: int) -> None:
    """The folders pairs/ and eval/ of real data, small."""
    from task_folders import write_retrieval, write_sts

    (folder / "pairs").mkdir(parents=True)
    with gzip.open(folder / "pairs" / "a.jsonl.gz", "wt") as out:
        for number in range(pairs):
            out.write(json.dumps({"query": f"query {number}", "pos": f"document {number} of them"}) + "\n")
    write_sts(folder / "eval" / "STSBenchmark")
    write_retrieval(folder / "eval" / "SciFact")
    for task in ("STSBenchmark", "SciFact"):
        for file in (folder / "eval" / task).glob("*.jsonl"):
            file.with_suffix(".jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()


def test_the_pack_holds_data_and_a_model_that_embeds_the_tasks_as_the_real_one(tmp_path, monkeypatch, minilm):
    write_shared(tmp_path / "shared", 130)
    monkeypatch.chdir(tmp_path)
    assert pack.main(["--data", "shared", "--rows", "60", "--no-wheels"]) == 0
    setting = Setting("cpu", True, str(tmp_path / ".gpu"), str(tmp_path))
    assert Manifest.load(setting.data).stage("pretrain") == {"mix_a": 60, "mix_b": 60}
    assert len(setting.batch(32)[1]) == 64
    texts = pack.pack_tasks(tmp_path / "shared" / "eval")
    assert len(texts) > 5 and (tmp_path / ".gpu" / "check.sh").exists()
    real, packed = (Encoder.from_pretrained(folder).encode(texts) for folder in (minilm, setting.minilm()))
    assert np.abs((real * packed).sum(1) - 1).max() < 1e-5
    assert (tmp_path / ".gpu" / "minilm" / "weights.npz").stat().st_size < 30 * 2**20


def test_too_few_pairs_for_a_pack_are_one_line(tmp_path, monkeypatch, capsys):
    write_shared(tmp_path / "shared", 10)
    monkeypatch.chdir(tmp_path)
    assert pack.main(["--data", "shared", "--no-wheels"]) == 2
    assert capsys.readouterr().err == "error: 10 pairs are less than twice 17500; take fewer: --rows 5\n"


def test_without_shared_data_the_pack_is_made_of_the_demo_corpus(tmp_path, monkeypatch, prepared):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(prepared)
    monkeypatch.chdir(tmp_path)
    taken = []
    monkeypatch.setattr(pack, "run", lambda given, **_: taken.append(read_raw(given)))
    pack.prepare_pairs(tmp_path / "absent", 200)
    assert [len(rows) for rows in taken[0]] == [200, 200]
    assert any(row["query"].startswith("colours") for row in taken[0][0])


def read_raw(given: list[str]) -> list[list[dict]]:
    """The rows of both raw files that prepare.py would read."""
    folder = Path(next(word for word in given if word.startswith("data.path=")).split("=")[1])
    read = partial(gzip.open, mode="rt")
    return [[json.loads(line) for line in read(file)] for file in sorted(folder.glob("*.jsonl.gz"))]
