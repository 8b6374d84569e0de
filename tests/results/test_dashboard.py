"""The dashboard shows what runs log, and is made without the network."""

import re

import pytest
from logs import rows
from trainings import TINY

pytest.importorskip("wandb_workspaces", reason="pip install -r requirements-dashboard.txt")


def test_every_panel_shows_metrics_that_a_run_logs_by_step(script, prepared, tmp_path):
    from gte.results.dashboard import dashboard

    code, _, err = script("train", *TINY, "stage.steps=2", f"data.dir={prepared}", "out=run")
    assert code == 0, err
    logged = {*rows(tmp_path / "run")[0], "eval/SciFact"}
    page = dashboard("me", "gte", "training")
    sections = {section.name: section.panels for section in page._to_model().spec.section.panel_bank_config.sections}
    assert list(sections)[:5] == [
        *("Loss by model size", "Loss by source", "Throughput", "Epochs by source", "Evaluation"),
    ]
    plots = {
        name: [p.config for p in panels if p.view_type == "Run History Line Plot"] for name, panels in sections.items()
    }
    assert all(plots.values())
    for plot in (plot for found in plots.values() for plot in found):
        assert plot.x_axis == "trainer/global_step"
        shown = {key for key in logged if plot.metric_regex and re.fullmatch(plot.metric_regex, key)}
        assert shown or (plot.metrics and set(plot.metrics) <= logged), plot.chart_title
    (by_size,), (by_source,) = plots["Loss by model size"], plots["Loss by source"]
    assert by_size.metrics == ["train/loss"] and by_size.group_by == "choices.value.model"
    assert re.fullmatch(by_source.metric_regex, "train/loss/reddit")
    assert not re.fullmatch(by_source.metric_regex, "train/loss")


def test_without_a_key_it_is_one_line(script, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "set WANDB_API_KEY" in script.refused("dashboard", "entity=me")
    assert "entity" in script.refused("dashboard")
