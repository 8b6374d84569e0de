"""A run that goes on: other data, settings and models are said, refused, or recorded by the part that they made."""

import csv
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, Script
from trainings import TINY

from gte.data.shards import Manifest
from gte.encoder import Encoder
from gte.errors import UserError
from gte.models.load import check_same_model, describe, history, initialize
from gte.provenance import segments_of, sources_of_stage
from gte.training.changes import (
    ANEW,
    CHANGES,
    DATA,
    NEVER,
    RULES,
    changes,
    continued,
    earlier_epochs,
    rule_of,
    settings_of,
    table,
)


@pytest.fixture(scope="module")
def begun(prepared, tmp_path_factory):
    """A run of four steps of 32 pairs."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        script = Script(Silent(), patch)
        assert (
            script("train", *TINY, f"data.dir={prepared}", "stage.steps=4", "sources=[colours,shapes]", "out=run")[0]
            == 0
        )
    return folder / "run"


class Silent:
    """In place of pytest's capture, which belongs to one test."""

    def readouterr(self) -> tuple[str, str]:
        return "", ""


@pytest.fixture
def run(begun, tmp_path) -> Path:
    """A copy of it in the test's own directory, and so `out=run`."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


@pytest.fixture
def again(run, script, prepared):
    """The run started again for eight steps: the settings that differ -> what the script gives."""
    return [*TINY, f"data.dir={prepared}", "sources=[colours,shapes]", "stage.steps=8", "resume=auto", "out=run"]


def other_data(prepared: Path, folder: Path) -> Path:
    """The prepared folder as it would be from other texts of one source, of equal sizes, under another licence."""
    shutil.copytree(prepared, folder)
    manifest = Manifest.load(folder)
    facts = manifest.sources["colours"]
    facts["licence"] = "CC BY 4.0"
    shard = folder / facts["shards"][0]["file"]
    content = bytearray(shard.read_bytes())
    facts["shards"][0]["sha256"] = "0" * 64
    shard.write_bytes(content)
    manifest.save(folder)
    return folder


def edit_record(run: Path, change) -> None:
    """Changes the record in a run's last checkpoint."""
    for file in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(file)
        change(content["history"][-1])
        file.unlink()
        torch.save(content, file)


def test_every_setting_of_a_record_has_one_verdict(begun):
    (record,) = history(begun)
    settings = settings_of(record)
    assert {"optim.lr", "loss.temperature", "trainer.precision", "stage.init_from", "model.hidden_size"} <= set(
        settings
    )
    for setting in settings:
        named = [rule for rule in RULES if setting in rule.settings]
        assert len(named) <= 1 and rule_of(setting), setting
    listed = [setting for rule in RULES for setting in rule.settings]
    assert len(listed) == len(set(listed))
    assert {rule.verdict for rule in RULES} == {CHANGES, DATA, ANEW, NEVER}


def test_the_documentation_shows_the_table_of_the_code():
    text = (ROOT / "docs" / "training.md").read_text()
    assert table() in text


@pytest.mark.parametrize(
    ("path", "value", "setting", "verdict"),
    [
        ("optim.lr", 1.0, "optim.lr", CHANGES),
        ("temperature", 0.05, "loss.temperature", CHANGES),
        ("loss_options.mask_margin", 0.1, "loss.mask_margin", CHANGES),
        ("loss_options.tf32", True, "loss.tf32", CHANGES),
        ("mask_repeated_texts", True, "mask_repeated_texts", CHANGES),
        ("precision", "bf16-mixed", "trainer.precision", CHANGES),
        ("stage.global_batch", 64, "stage.global_batch", CHANGES),
        ("alpha", 0.1, "data.alpha", CHANGES),
        ("ema_decay", 0.9, "ema_decay", CHANGES),
        ("model.hidden_size", 64, "model.hidden_size", NEVER),
        ("model.num_attention_heads", 4, "model.num_attention_heads", NEVER),
        ("loss", "contrastive_loss", "loss", ANEW),
        ("stage.name", "finetune", "stage.name", ANEW),
        ("stage.init_from", "elsewhere", "stage.init_from", ANEW),
        ("data.sources.colours", "other", "contents of a source", DATA),
        ("sources.colours.rows", 399, "contents of a source", DATA),
    ],
)
def test_a_change_is_found_by_the_name_that_is_typed(begun, path, value, setting, verdict):
    (record,) = history(begun)
    assert changes(record, record) == []
    now = json.loads(json.dumps(record))
    node = now
    *parents, name = path.split(".")
    for parent in parents:
        node = node[parent]
    assert node[name] != value
    node[name] = value
    assert [change.setting for change in changes(record, now)] == [setting]
    assert rule_of(setting).verdict == verdict


def test_a_first_run_that_lies_elsewhere_now_is_no_change_and_one_that_came_or_went_is_one():
    def found(before: str | None, now: str | None) -> list[str]:
        records = ({"stage": {"init_from": path}} for path in (before, now))
        return [change.setting for change in changes(*records)]

    assert found("here", "there") == found(None, None) == []
    assert found("here", None) == found(None, "here") == ["stage.init_from"]


def test_sources_of_a_record_without_their_contents_are_compared_by_their_rows():
    facts = {"sources": {"a": {"rows": 9}}, "data": {"sources": {"a": "x"}}}
    assert changes({"sources": {"a": {"rows": 9}}}, facts) == []
    assert [change.said for change in changes({"sources": {"a": {"rows": 8}}}, facts)] == ["other contents: a"]


@pytest.mark.parametrize(
    ("key", "value"), [("num_attention_heads", 4), ("hidden_act", "relu"), ("layer_norm_eps", 1e-3)]
)
def test_weights_do_not_go_into_a_model_that_computes_in_another_way(pretrained, tmp_path, key, value):
    """Of equal shapes, so that they would fit; other dropout is no other model."""
    encoder = Encoder.from_pretrained(pretrained)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    weights = {f"encoder.{name}": weight for name, weight in encoder.state_dict().items()}
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": weights, "encoder": describe(encoder), "history": [{"steps": 1}]}, last)
    other = Path(shutil.copytree(pretrained, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    for settings, refused in (({"hidden_dropout_prob": 0.0}, False), ({key: value}, True)):
        (other / "config.json").write_text(json.dumps(config | settings))
        for check in (check_same_model, initialize):
            given = Encoder.from_pretrained(other)
            with pytest.raises(UserError, match=f"{key}=.*, here {value}") if refused else nullcontext():
                check(given, last)


def test_sources_added_left_out_and_in_another_order_are_changes(begun):
    (record,) = history(begun)

    def said(*names: str) -> list[str]:
        facts = {name: record["sources"].get(name, {"rows": 1}) for name in names}
        data = {"sources": record["data"]["sources"] | {"times": "new"}}
        return [change.said for change in changes(record, record | {"sources": facts, "data": data})]

    assert said("colours", "shapes") == []
    assert said("shapes", "colours") == ["sources in another order: shapes, colours"]
    assert said("colours", "shapes", "times") == ["sources added: times"]
    assert said("colours") == ["sources left out: shapes"]


def test_the_record_knows_the_manifest(begun, prepared):
    (record,) = history(begun)
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert record["data"]["manifest"] == manifest["checksum"]
    assert record["data"]["tokenizer"] == manifest["tokenizer"]["fingerprint"]
    assert set(record["data"]["sources"]) == {"colours", "shapes"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.hidden_size=64"], "model.hidden_size=64 (was 32); set it back, or train anew"),
        (["model.num_attention_heads=1"], "model.num_attention_heads=1 (was 2)"),
        (["loss=vanilla"], "stage.init_from="),
        (["sources=[shapes,colours]"], "sources in another order"),
        (["model.pooling=cls"], "model.pooling=mean, here it is cls"),
    ],
)
def test_what_cannot_go_on_is_one_line(script, again, settings, said):
    assert said in script.refused("train", *again, *settings)


def test_data_that_were_prepared_anew_are_refused_and_go_on_by_a_word(script, prepared, run, again, tmp_path):
    folder = other_data(prepared, tmp_path / "other")
    changed = [*again, f"data.dir={folder}"]
    line = script.refused("train", *changed)
    assert "other contents: colours" in line and "resume_data=changed" in line
    assert history(run)[-1]["steps"] == 4
    code, _, err = script("train", *changed, "resume_data=changed", "stage.global_batch=16", "loss.temperature=0.02")
    assert code == 0 and "loss.temperature=0.02 (was 0.01)" in err and "other contents: colours" in err, err
    (record,) = history(run)
    first, second = record["segments"]
    assert [(part["first_step"], part["last_step"], part["global_batch"]) for part in (first, second)] == [
        (0, 4, 32),
        (4, 8, 16),
    ]
    assert "stage.global_batch=16 (was 32)" in second["changed"] and not first["changed"]
    licences = [part["sources"]["colours"]["licence"] for part in (first, second)]
    assert licences[1] == "CC BY 4.0" != licences[0]

    passed = {"colours": 0, "shapes": 0}  # rows by source, as each step of the log says which it took
    with open(run / "metrics.csv", newline="") as lines:
        for row in csv.DictReader(lines):
            (source,) = [name for name in passed if row[f"train/loss/{name}"]]
            passed[source] += 32 if int(row["step"]) < 4 else 16
            assert float(row[f"train/epochs/{source}"]) == pytest.approx(
                passed[source] / record["sources"][source]["rows"]
            )
    rows = {name: facts["rows"] for name, facts in record["sources"].items()}
    assert record["epochs"] == pytest.approx({name: count / rows[name] for name, count in passed.items()})

    assert script("export", "checkpoint=run", "out=model")[0] == 0
    card = (tmp_path / "model" / "README.md").read_text()
    for licence, steps in zip(licences, ("1 to 4", "5 to 8"), strict=True):
        assert f"| {licence} | {steps} |" in card
    assert "8 of 32, then 16 pairs" in card and "changed after step 4: " in card


def test_a_tokenizer_that_was_trained_anew_is_refused_whatever_the_word(script, prepared, again, tmp_path):
    from gte.data.prepare import prepare
    from gte.data.recipe import read_recipe

    shutil.copytree(prepared.parent / "raw", tmp_path / "raw")
    for file in (tmp_path / "raw").iterdir():  # texts of equal lengths in other letters
        text = file.read_text()
        for word, other in (("red", "zut"), ("green", "vroom"), ("colours", "kolours")):
            text = text.replace(word, other)
        file.write_text(text)
    settings = yaml.safe_load((ROOT / "conf" / "data" / "local.yaml").read_text())
    stated = {"path": str(tmp_path / "raw"), "dir": str(tmp_path / "anew"), "vocab_size": 400}
    made = prepare(read_recipe(settings | stated), tmp_path / "anew")
    assert {name: facts["kept"] for name, facts in made.sources.items()} == {
        name: facts["kept"] for name, facts in Manifest.load(prepared).sources.items()
    }
    for word in ("same", "changed"):
        line = script.refused("train", *again, f"data.dir={tmp_path / 'anew'}", f"resume_data={word}")
        assert "was trained with another tokenizer" in line
    fresh = [*TINY, f"data.dir={tmp_path / 'anew'}", "stage.steps=2", "out=next", "stage.init_from=run"]
    assert "was trained with another tokenizer" in script.refused("train", *fresh)


def test_a_checkpoint_of_before_the_record_goes_on_with_a_note(script, run, again):
    def forget(record: dict) -> None:
        del record["data"], record["segments"]

    edit_record(run, forget)
    code, _, err = script("train", *again)
    assert code == 0 and "does not say which data it was trained on" in err, err
    (record,) = history(run)
    assert [part["last_step"] for part in record["segments"]] == [4, 8] and record["segments"][0]["data"] is None
    assert record["epochs"]["colours"] > record["segments"][0]["epochs"]["colours"]


def test_where_nothing_changed_the_segment_goes_on():
    facts = {"stage": {"global_batch": 8}, "sources": {"a": {"rows": 9}}, "data": {"sources": {"a": "x"}}}
    record = facts | {"steps": 5, "segments": continued(None, facts, [])}
    record["segments"][-1] |= {"last_step": 5}
    assert continued(record, facts, []) == record["segments"]
    record["segments"][-1]["data"] = None  # of a version that did not keep it
    assert [part["first_step"] for part in continued(record, facts, [])] == [0, 5]


def test_the_epochs_of_a_stage_before_its_last_part_are_summed():
    parts = [{"epochs": {"a": 1.5, "b": 1.0}}, {"epochs": {"a": 0.5}}, {"epochs": {"a": 9.0}}]
    assert earlier_epochs(parts) == {"a": 2.0, "b": 1.0} and earlier_epochs(parts[:1]) == {}


def test_all_sources_of_a_stage_are_named():
    parts = [{"sources": {"a": {}, "b": {}}}, {"sources": {"b": {}, "c": {}}}]
    assert sources_of_stage({"stage": {"global_batch": 1}, "sources": parts[-1]["sources"], "segments": parts}) == [
        *"abc"
    ]
    assert segments_of({"stage": {"global_batch": 1}, "sources": {"a": {}}, "steps": 3})[0]["last_step"] == 3
