"""Scripts in processes of their own, to their end: what another test has imported is not there."""

import os
import subprocess
import sys

from conftest import ROOT
from task_folders import write_rows, write_sts


def test_mine_eval_and_export_end_well_and_say_nothing_on_stderr_that_is_no_note(run, tmp_path):
    folder, _ = run
    write_sts(tmp_path / "tasks" / "STS12")
    rows = [{"query": f"ask about {i}", "pos": f"what is known about {i}"} for i in range(20)]
    write_rows(tmp_path / "faq.jsonl", rows)
    commands = {
        "mine": ["in=faq.jsonl", "out=hard", "negatives=2"],
        "eval": [f"checkpoint={folder}", "suite=sts", "data_dir=tasks", "out=scores"],
        "export": [f"checkpoint={folder}", "out=model"],
    }
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    begun = {
        name: subprocess.Popen(
            [sys.executable, str(ROOT / "src" / f"{name}.py"), *words],
            **{"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        )
        for name, words in commands.items()
    }
    for name, process in begun.items():
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, (name, err)
        assert all(line.startswith("note: ") for line in err.splitlines()), (name, err)
    assert (tmp_path / "hard" / "faq.jsonl.gz").is_file()
    assert (tmp_path / "scores" / "results.json").is_file()
    assert (tmp_path / "model" / "model.safetensors").is_file()
