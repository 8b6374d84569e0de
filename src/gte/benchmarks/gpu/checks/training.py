"""src/train.py as a user runs it, from a model directory with dropout: stopped, resumed, on each trainer."""

import csv
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from gte.benchmarks.gpu.findings import LOWER, Findings
from gte.benchmarks.gpu.setting import Setting

TRAIN = Path(__file__).resolve().parents[4] / "train.py"
STOPPED = 75  # exit code of a run that was told to stop
LOOPBACK = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}  # one machine; it may have no other network


def command(setting: Setting, out: Path, model: str, steps: int, *settings: str) -> list[str]:
    """src/train.py on the real pairs, in a folder that does not exist yet."""
    shutil.rmtree(out, ignore_errors=True)
    pairs = setting.pairs(16384)
    return [
        *(sys.executable, str(TRAIN), "stage=pretrain", "model=base", f"model.name_or_path={setting.model(model)}"),
        *("data=local", f"data.dir={setting.data}", f"stage.global_batch={pairs}", f"stage.steps={steps}"),
        *(f"stage.batch_tokens={2048 if setting.small else 32768}", "logger=csv", f"out={out}", *settings),
    ]


def trainer(setting: Setting, precision: str) -> list[str]:
    """One device; the precisions of a dry run are those of the CPU."""
    if setting.device == "cpu":
        return ["trainer=cpu", f"trainer.precision={'32-true' if precision == '16-mixed' else precision}"]
    return ["trainer=gpu", f"trainer.precision={precision}"]


def read_metrics(out: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv that are whole by now."""
    try:
        with open(out / "metrics.csv", newline="") as lines:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]
    except (FileNotFoundError, TypeError, ValueError):  # not there yet, or in the middle of a row
        return []


def finish(given: list[str], environment: dict | None = None) -> float:
    """Seconds of a run to its end. Raises RuntimeError with the end of what it wrote where it fails."""
    start = time.perf_counter()
    done = subprocess.run(given, capture_output=True, text=True, env=os.environ | (environment or {}))
    if done.returncode:
        raise RuntimeError(failure(done.returncode, done.stderr or done.stdout))
    return time.perf_counter() - start


def failure(code: int, text: str) -> str:
    """A line for a run that ended badly; for the device's memory, with the setting to lower."""
    if "out of memory" in text:
        return LOWER
    last = [line for line in text.splitlines() if line.strip()][-1:]
    return f"train.py ended with {code}: {''.join(last)[:400]}"


def stop_after(given: list[str], out: Path, rows: int, environment: dict | None = None) -> dict[str, float]:
    """SIGTERM as soon as metrics.csv has so many rows: seconds to the first of them, and how many there were."""
    start, first = time.perf_counter(), None
    process = subprocess.Popen(
        given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    )
    while process.poll() is None:
        time.sleep(0.1)
        seen = len(read_metrics(out))
        first = first or (seen and time.perf_counter() - start)
        if seen >= rows:
            process.send_signal(signal.SIGTERM)
            break
    _, stderr = process.communicate()
    if process.returncode != STOPPED:
        raise RuntimeError(f"stopped by SIGTERM it ends with {STOPPED} and a checkpoint; "
                           + failure(process.returncode, stderr))  # fmt: skip
    return {"seconds_to_first_step": first, "rows_when_stopped": len(read_metrics(out))}


def rates(rows: list[dict[str, float]], skip: int = 2) -> dict[str, float]:
    """Means over the steps after the first ones; memory at the end; the loss at both ends."""
    late = rows[skip:] or rows
    return {
        "steps": len(rows),
        "tokens_per_s": sum(row["train/tokens_per_s"] for row in late) / len(late),
        "peak_gb": rows[-1]["train/peak_memory_mb"] * 2**20 / 1e9,
        "first_loss": rows[0]["train/loss"],
        "last_loss": rows[-1]["train/loss"],
        "skipped": rows[-1].get("train/skipped", 0),
    }


def check_rows(findings: Findings, label: str, rows: list[dict[str, float]], steps: int) -> None:
    """A fault where a step is missing, twice there, or not finite."""
    numbers = [row["step"] for row in rows]
    if len(rows) != steps or len(set(numbers)) != steps:
        findings.fault(f"{label}: {steps} steps were to be done, metrics.csv has {numbers}")
    if not all(math.isfinite(row["train/loss"]) for row in rows):
        findings.fault(f"{label}: a loss is not finite: {[row['train/loss'] for row in rows]}")


def stop_and_resume(findings, setting, label: str, out: Path, given: list[str], steps: int, environment=None) -> None:
    """Stop a run in its middle, resume it, and check that every step is there once."""
    stopped = stop_after(given, out, steps // 2 - 1, environment)
    findings.row(f"{label}, stopped", **stopped)
    seconds = finish([*given, "resume=auto"], environment)
    rows = read_metrics(out)
    findings.row(f"{label}, resumed", resume_seconds=seconds, **rates(rows))
    check_rows(findings, label, rows, steps)


def train(findings: Findings, setting: Setting) -> None:
    out, steps = Path(setting.work) / "train", 40 if setting.small else 10
    given = command(setting, out, "base", steps, *trainer(setting, "16-mixed"), "checkpoint_every=1000")
    stop_and_resume(findings, setting, "base fp16, all recomputed", out, given, steps)


def train_bf16(findings: Findings, setting: Setting) -> None:
    speed(findings, setting, "base", 5, 0.47)


def train_minilm(findings: Findings, setting: Setting) -> None:
    speed(findings, setting, "minilm", 8, 1.0)


def speed(findings: Findings, setting: Setting, model: str, steps: int, goal: float) -> None:
    """Tokens a second end to end, data workers and all; `goal` in millions."""
    out = Path(setting.work) / f"bf16_{model}"
    finish(command(setting, out, model, steps, *trainer(setting, "bf16-mixed")))
    rows = read_metrics(out)
    made = rates(rows)
    findings.row(f"{model} bf16, {setting.pairs(16384)} pairs", **made)
    check_rows(findings, model, rows, steps)
    findings.at_least(f"train.py {model} bf16, 16,384 pairs", goal, made["tokens_per_s"] / 1e6, "M tokens/s")


def ddp(findings: Findings, setting: Setting) -> None:
    out = Path(setting.work) / "ddp"
    cpu = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true"]
    chosen = ["trainer=ddp", *(cpu if setting.device == "cpu" else ["trainer.devices=1"])]
    finish(command(setting, out, "minilm", 4, *chosen), LOOPBACK)
    rows = read_metrics(out)
    findings.row("ddp, one rank", **rates(rows))
    check_rows(findings, "ddp", rows, 4)


def deepspeed(findings: Findings, setting: Setting) -> None:
    import deepspeed as package

    findings.row("deepspeed", version=package.__version__)
    if setting.device == "cpu":
        return  # it refuses a CPU; that it loads is all that a dry run can show
    import torch

    out, steps = Path(setting.work) / "zero", 24
    environment = LOOPBACK | {
        "DS_SKIP_CUDA_CHECK": "1",  # nothing is compiled: the wheel has no kernels
        "DS_ACCELERATOR": "cuda",
        "TORCH_CUDA_ARCH_LIST": ".".join(map(str, torch.cuda.get_device_capability())),
    }
    given = command(setting, out, "minilm", steps, "trainer=deepspeed", "trainer.devices=1", "checkpoint_every=1000")
    given.append("stage.global_batch=4096")
    stop_and_resume(findings, setting, "ZeRO-1 fp16", out, given, steps, environment)
    from gte.models.load import load_encoder

    x_ND = load_encoder(out).to(setting.device).encode(["a text", "another one"])
    if not (x_ND.shape[0] == 2 and abs((x_ND**2).sum(1) - 1).max() < 1e-3):
        findings.fault("the checkpoint of DeepSpeed is read back, but embeds to no unit vectors")
