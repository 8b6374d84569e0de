"""`--help` of a script, written from the comments of its configuration; needs neither Hydra nor what a script loads."""

import re
from pathlib import Path

import yaml

from gte.errors import UserError, did_you_mean

FLAGS = {"-h", "--help"}
HIDDEN = {"optim": {"adamw"}, "trainer": {"base"}}  # shared parts of a group's files that are no choice


def help_of(conf: Path, name: str, arguments: list[str], about: str) -> str | None:
    """The help that a command line asks for; None where it asks for none.

    Args:
        conf: the folder of the configuration.
        name: of the primary configuration, conf/<name>.yaml.
        arguments: of the script. `--help GROUP` or `GROUP=CHOICE` shows the settings of a group instead.
        about: one sentence of what the script does.
    """
    if not FLAGS & set(arguments):
        return None
    groups = groups_of(conf, name)
    asked = [argument.lstrip("+").partition("=") for argument in arguments if not argument.startswith("-")]
    if shown := [(group, choice) for group, _, choice in asked if group in groups]:
        return "\n\n".join(settings_of(conf, group, choice, groups[group]) for group, choice in shown)
    comments, settings = split(conf / f"{name}.yaml")
    lines = [about, "", *(f"  {line}" if line.startswith("python ") else line for line in comments)]
    if groups:
        lines += ["", f"groups, a file of conf/ each choice (--help {next(iter(groups))} shows its settings):"]
        lines += wrapped(conf, groups)
    lines += ["", "settings, KEY=VALUE:", *(f"  {line}" if line else "" for line in settings)]
    return "\n".join([*lines, "", "Hydra's own flags (--cfg, --multirun, --resolve, ...): --hydra-help"])


def groups_of(conf: Path, name: str) -> dict[str, str]:
    """The groups of a script, each with its choice by default; those of Hydra left out."""
    entries = [one for one in read(conf / f"{name}.yaml").get("defaults", []) if isinstance(one, dict)]
    found = {key: str(value) for one in entries for key, value in one.items() if not key.startswith("override ")}
    if name == "train":
        found["+experiment"] = "none"
    return {group.lstrip("+"): choice for group, choice in found.items()}


def choices_of(conf: Path, group: str) -> list[str]:
    """The names of a group's files, as one types them."""
    folder = conf / group
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in HIDDEN.get(group, ()))


def wrapped(conf: Path, groups: dict[str, str]) -> list[str]:
    """One line a group: its choices and its default."""
    width = max(map(len, groups)) + 1
    rows = []
    for group, default in groups.items():
        default = re.sub(r"\$\{(\w+)\}", r"that of \1", default)
        rows.append(f"  {group + '=':<{width}} {', '.join(choices_of(conf, group))}  (default: {default})")
    return rows


def settings_of(conf: Path, group: str, choice: str, default: str) -> str:
    """The files of a group as they are written, of one choice or of all. Raises UserError for an unknown choice."""
    known = choices_of(conf, group)
    if choice and choice not in known:
        raise UserError(f"{group}={choice} is unknown{did_you_mean(choice, known)}; choose one of: {', '.join(known)}")
    parts = []
    for name in [choice] if choice else known:
        files = [conf / group / f"{name}.yaml", *sorted((conf / group / name).glob("*.yaml"))]
        parts += [f"{group}={name}"]
        for file in files:
            comments, settings = split(file)
            parts += [f"  {line}" for line in [*(f"# {comment}" for comment in comments), *settings] if line]
    return "\n".join([*parts, "", f"change one by {group}.KEY=VALUE; default: {default}"])


def split(file: Path) -> tuple[list[str], list[str]]:
    """The comment at the head of a configuration, and its settings with their comments, without what is Hydra's."""
    lines = file.read_text().splitlines()
    head = 0
    while head < len(lines) and lines[head].startswith("#"):
        head += 1
    settings, within = [], None
    for line in lines[head:]:
        if key := re.match(r"([\w@./]+):", line):
            within = key[1]
        if within not in ("defaults", "hydra") and not line.startswith("_target_"):
            settings.append(line)
    return [line.lstrip("# ") for line in lines[:head]], trimmed(settings)


def trimmed(lines: list[str]) -> list[str]:
    """Without blank lines at both ends."""
    return "\n".join(lines).strip("\n").split("\n")


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text()) or {}
