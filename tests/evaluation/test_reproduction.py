"""Published scores come out again: all-MiniLM-L6-v2 over the benchmark's own test sets, and what is not published."""

import json

import pytest
from conftest import shared_dir

PUBLISHED = {  # task -> (score, tolerance); MTEB's leaderboard
    "STSBenchmark": (82.03, 0.05),
    "STS12": (72.37, 0.05),
    "STS13": (80.60, 0.05),
    "STS15": (85.39, 0.05),
    "STS17": (87.59, 0.05),
    "SciFact": (64.51, 0.05),
    "Banking77Classification": (80.04, 0.3),
}


@pytest.mark.slow
def test_published_scores_are_reproduced_in_fp32(script, minilm, tmp_path):
    data = shared_dir("data") / "eval"
    tasks = [name for name in PUBLISHED if (data / name).is_dir()]
    assert len(tasks) >= 7
    paths = [f"checkpoint={minilm}", f"data_dir={data}", f"tasks=[{','.join(tasks)}]", "out=eval"]
    code, _, err = script("eval", "suite=mteb", "precision=fp32", *paths)
    assert code == 0, err
    (model,) = json.loads((tmp_path / "eval" / "results.json").read_text())["models"].values()
    for name in tasks:
        score, tolerance = PUBLISHED[name]
        assert model["tasks"][name]["main_score"] == pytest.approx(score, abs=tolerance), name
