"""`--help GROUP` of a script: each choice with all settings that act, those of the files that it is based on too."""

import re

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gte.errors import UserError
from gte.help import choices_of, groups_of, help_of

CONF = ROOT / "conf"
GROUPS = ["stage", "model", "optim", "loss", "trainer", "data"]
CHOICES = [(group, choice) for group in GROUPS for choice in choices_of(CONF, group)]


def help_text(*asked: str, script: str = "train") -> str:
    return help_of(CONF, script, ["--help", *asked], "About.")


def settings_shown(group: str, choice: str) -> dict[str, str]:
    """The line of each setting in the help of a choice."""
    lines = re.findall(r"^  (\w+:.*)$", help_text(f"{group}={choice}"), re.MULTILINE)
    return {line.partition(":")[0]: line for line in lines}


def composed(*overrides: str) -> dict:
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return OmegaConf.to_container(compose("train", overrides=[*overrides, "out=somewhere"]))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_the_help_of_a_choice_has_the_settings_that_compose_with_their_values(group, choice):
    lines, settings = settings_shown(group, choice), composed(f"{group}={choice}")[group]
    assert set(lines) == {key for key in settings if not key.startswith("_")}
    for key, line in lines.items():
        value = OmegaConf.to_container(OmegaConf.create(line))[key]
        of_several_lines, of_the_scale = value is None, value == "???"
        assert of_several_lines or of_the_scale or value == settings[key], line


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_each_setting_of_a_group_has_a_comment(group, choice):
    text = help_text(f"{group}={choice}").splitlines()
    for key, line in settings_shown(group, choice).items():
        above = text[text.index(f"  {line}") - 1]
        below = text[text.index(f"  {line}") + 1]  # a comment within a setting of several lines
        assert " # " in line or above.startswith("  # ") or " # " in below, f"{group}={choice}: {key} says nothing"


def test_the_help_of_a_scale_has_the_numbers_of_both_stages():
    for scale in choices_of(CONF, "scale"):
        text = help_text(f"scale={scale}")
        assert "change one by stage.KEY=VALUE" in text
        for stage in choices_of(CONF, "stage"):
            part = text.partition(f"  stage={stage}\n")[2].partition("  stage=")[0]
            numbers = dict(re.findall(r"^    (\w+): (\S+)", part, re.MULTILINE))
            settings = composed(f"scale={scale}", f"stage={stage}")["stage"]
            assert len(numbers) >= 6
            assert {key: yaml.safe_load(value) for key, value in numbers.items()} == {k: settings[k] for k in numbers}


@pytest.mark.parametrize("script", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_help_names_only_groups_of_the_script_each_with_a_sentence(script):
    groups = groups_of(CONF, script)
    entries = yaml.safe_load((CONF / f"{script}.yaml").read_text())["defaults"]
    named = {key for entry in entries if isinstance(entry, dict) for key in entry if not key.startswith("override ")}
    assert set(groups) - {"+experiment"} == named and all(comment for _, comment in groups.values())
    examples = help_text(script=script).partition("examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples and all(f"python src/{script}.py" in line for line in examples)


def test_an_unknown_choice_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean tiny"):
        help_text("model=tinny")
