"""The command line: paths are taken as they stand, and what cannot be understood is answered with what to type."""

import os
import shlex

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Sweep
from hypothesis import given
from hypothesis import strategies as st

from gte.errors import UserError
from gte.overrides import near_key, parsed, quote, read_arguments, retyped

PATHS = [
    "multirun/mixing_ratio/alpha=0.5,seed=42", "donn\u00e9es", "a b", "what?", "x#y(1){2}[3]", "2020", "1e3",
    "7e55510", 'a"b', "it's", "a\\\\", "C:\\data", "a=b", "plain/path", "-", "s3://bucket/run", "~name",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "key", ["checkpoint", "out", "data.path", "stage.init_from", "hydra.run.dir", "model.revision"]
)
def test_a_path_arrives_as_it_was_typed_however_often_it_is_read(path, key):
    once = read_arguments("eval", [f"{key}={path}"])
    assert read_arguments("eval", once) == once
    value = parsed(once[0]).value()
    assert str(value) == path and not isinstance(value, int | float)


def test_a_home_is_the_users_and_null_and_lists_stay_what_they_are():
    (home,) = read_arguments("eval", ["checkpoint=~/a b"])
    assert parsed(home).value() == os.path.expanduser("~/a b")
    typed = ["resume=null", "in=[a,b]", "-m", "model=small,base", "+experiment=mixing_ratio"]
    assert read_arguments("train", typed) == typed


def test_a_comma_is_a_sweep_only_where_sweeps_are_asked_for_and_no_such_path_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed(read_arguments("eval", ["checkpoint=a,b"])[0]).value() == "a,b"
    assert parsed(read_arguments("eval", ["-m", "checkpoint=a,b"])[1]).is_sweep_override()
    (tmp_path / "a,b").mkdir()
    assert parsed(read_arguments("eval", ["-m", "checkpoint=a,b"])[1]).value() == "a,b"


PIECES = [*"ab7.:/=~ -$#\t\\", "\u00e9", "s3://", "${seed}", "${hydra:sweep.subdir}", "1e3", "null", "C:\\d"]
BRACKETED = [*"[](){},'\"", "${oc.env:A,'b'}", "${a:${b},c}"]


def of_one_run(value: str) -> object:
    return parsed(read_arguments("train", [f"checkpoint_dir={value}"])[0]).value()


def of_points(value: str) -> list[object]:
    """What the process of each point reads from what the sweep's own one was given."""
    _, argument = read_arguments("train", ["-m", f"checkpoint_dir={value}"])
    (points,) = BasicSweeper.split_arguments([parsed(argument)], None)
    return [of_one_run(retyped(override).partition("=")[2]) for (override,) in points]


@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join), min_size=1, max_size=3))
def test_a_point_of_a_sweep_gets_the_path_that_a_run_alone_gets(values):
    values = [value.strip() or "a" for value in values]
    assert of_points(",".join(values)) == [of_one_run(value) for value in values]


@given(st.lists(st.sampled_from([*PIECES, *BRACKETED]), max_size=6).map("".join))
def test_a_point_gets_the_value_of_one_run_in_quotes_and_brackets_too_or_both_are_refused(value):
    try:
        expected = of_one_run(value)
    except UserError:
        with pytest.raises(UserError):
            of_points(value)
        return
    found = of_points(value)
    assert found == [expected] or len(found) > 1 or isinstance(expected, Sweep)


@pytest.mark.parametrize(
    "typed",
    [
        "query=what#is",
        "stage.name=a(b",
        "x={a: b=c, d: [e=f, g]}",
        "x=[\u00e9t\u00e9, b]",
        "data.columns={query: Fra#ge, pos: \u00e4}",
    ],
)
def test_what_hydra_cannot_parse_is_quoted_back_as_a_line_that_it_can(typed):
    with pytest.raises(UserError) as error:
        read_arguments("train", [typed])
    line = str(error.value)
    assert "\n" not in line and line.startswith(typed)
    (again,) = shlex.split(line.split("quote it: ")[1])
    assert parsed(again) is not None
    value = parsed(again).value()
    assert str(value).replace("'", "") == typed.partition("=")[2]  # a list or mapping as Python spells it


def test_quotes_give_any_text_back():
    for text in ["a", 'a"b', "a\\\\", '\\\\"', 'a\\\\\\\\"', "\u00e9#(){}[],=~", "a\\\n"]:
        assert parsed(f"x={quote(text)}").value() == text


@pytest.mark.parametrize(
    ("script", "key", "line"),
    [
        ("train", "stage.stepz", "did you mean stage.steps?"),
        ("train", "stag.steps", "did you mean stage.steps?"),
        ("train", "steps", "did you mean stage.steps?"),
        ("train", "sed", "did you mean seed"),
        ("prepare", "data.colums", "did you mean data.columns?"),
        ("prepare", "data.decontaminate.foldr", "did you mean data.decontaminate.folder?"),
        ("mine", "negative", "did you mean negatives?"),
        ("embed", "feild", "did you mean field?"),
        ("eval", "precison", "did you mean precision or precisions?"),
        ("export", "licence", "did you mean license?"),
        ("search", "fodler", "did you mean folder?"),
        ("train", "stage.qqqqq", "stage has: "),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(script, key, line):
    told = near_key(script, key, ["data=local"] if script == "prepare" else [])
    assert told.startswith(f"unknown key '{key}'") and line in told, told


def test_a_models_name_is_the_same_for_prepare_and_train(tmp_path):
    assert read_arguments("train", ["model=me/my-model"]) == ["model=base", "model.name_or_path=me/my-model"]
    assert read_arguments("prepare", ["model=me/my-model"]) == ["data.tokenizer=me/my-model"]
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert parsed(read_arguments("train", [f"model={odd}"])[1]).value() == str(odd)
    assert parsed(read_arguments("prepare", [f"model={odd}"])[0]).value() == str(odd)
    assert read_arguments("train", ["model=tiny"]) == ["model=tiny"]
    assert read_arguments("prepare", ["model=tiny"]) == ["data.tokenizer=null"]
    assert read_arguments("prepare", ["model=base"]) == ["data.tokenizer=bert-base-uncased"]
    assert read_arguments("prepare", ["model=base", "model.name_or_path=x/y"]) == ["data.tokenizer=x/y"]
    with pytest.raises(UserError, match="did you mean tiny"):
        read_arguments("prepare", ["model=tinny"])
    with pytest.raises(UserError, match="both say whose tokenizer"):
        read_arguments("prepare", ["model=x/y", "data.tokenizer=z"])


def test_a_mapping_of_the_users_own_is_taken_whole_and_by_its_keys(script, prepared):
    train = ["stage=pretrain", "model=tiny", "data=local", f"data.dir={prepared}", "trainer=cpu", "stage.steps=1"]
    for typed in (["source_sets={x:[gone]}"], ["source_sets.x=[gone]"], ["+source_sets={x: [gone]}"]):
        assert "has no source 'gone' for stage pretrain" in script.refused("train", *train, *typed, "sources=x")
    line = script.refused("train", *train, "source_sets={x:colours}", "sources=x")
    assert "source_sets.x=colours must be a list: source_sets={x: [colours]}" in line


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("evaluate={dat_dir: x}", "unknown key 'evaluate.dat_dir', did you mean evaluate.data_dir?"),
        ("stage={stepz: 3}", "unknown key 'stage.stepz', did you mean stage.steps?"),
        ("paths={dat: x}", "unknown key 'paths.dat', did you mean paths.data?"),
        ("data={dirr: x}", "unknown key 'data.dirr', did you mean data.dir?"),
    ],
)
def test_an_unknown_key_within_a_mapping_is_named_by_itself(script, typed, line):
    assert line in script.refused("train", "model=tiny", "data=local", "trainer=cpu", typed)


@pytest.mark.parametrize("group", ["stage", "model", "optim", "trainer", "logger", "loss", "data", "scale"])
def test_a_group_that_is_given_no_name_is_answered_with_the_names(group):
    numbers = [] if group == "model" else ["-1", "1.5"]  # a folder may be called so
    for value in ("null", "true", "[1,2]", "[]", *numbers):
        with pytest.raises(UserError, match=rf"^{group}=.+ names no file of conf/{group}; choose one of: \w+") as told:
            read_arguments("train", [f"{group}={value}"])
        assert "\n" not in str(told.value)
    assert read_arguments("train", ["logger=[csv,wandb]", "~logger", "optim=tiny"])[0] == "logger=[csv,wandb]"


@pytest.mark.parametrize("key", ["max_steps=3", "max_epochs=0", "fast_dev_run=true", "accumulate_grad_batches=0"])
def test_a_setting_of_the_trainer_that_another_one_decides_is_refused_by_name(script, prepared, key):
    train = ["model=tiny", "data=local", f"data.dir={prepared}", "trainer=cpu", "stage.global_batch=32", "out=run"]
    line = script.refused("train", *train, "stage.steps=1", f"+trainer.{key}")
    assert f"trainer.{key.split('=')[0]} would not act: set stage." in line
