"""The benchmark script measures and writes what it measured."""

import json


def test_the_loss_benchmark_writes_its_rows_with_commit_and_machine(script, tmp_path):
    code, out, err = script(
        "bench",
        "benchmark=loss",
        "benchmark.n=64",
        "benchmark.width=16",
        "benchmark.rounds=1",
        "+benchmark.memory=[[ours,4096,64]]",
        "out=bench",
    )
    assert code == 0, err
    results = json.loads((tmp_path / "bench" / "results.json").read_text())
    assert results["commit"] and results["machine"]["system"]
    variants = {row["variant"] for row in results["rows"] if row["measure"] == "time"}
    assert {"ours", "dense"} <= variants and all(name in out for name in variants)
    assert [row["peak_mb"] > 0 for row in results["rows"] if row["measure"] == "memory"] == [True]
