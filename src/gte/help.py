"""`--help` of a script, written from the comments of its configuration; needs neither Hydra nor what a script loads."""

import re
from pathlib import Path

import yaml

from gte.errors import UserError, did_you_mean

FLAGS = {"-h", "--help"}
HIDDEN = {"optim": {"adamw"}, "trainer": {"base"}}  # shared parts of a group's files that are no choice
CHANGED_BY = {"scale": "stage.KEY=VALUE", "experiment": "KEY=VALUE"}  # groups whose files set keys of others
GRID = "an experiment: all but the speedruns have a grid, whose runs -m makes and src/collect.py gathers"


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
    known = {group.lstrip("+"): default for group, (default, _) in groups.items()}
    asked = [argument.lstrip("+").partition("=") for argument in arguments if not argument.startswith("-")]
    if shown := [(group, choice) for group, _, choice in asked if group in known]:
        return "\n\n".join(settings_of(conf, group, choice, known[group]) for group, choice in shown)
    comments, settings = split(conf / f"{name}.yaml")
    examples = [line for line in comments if "python src/" in line]
    lines = [about, *(line for line in comments if line not in examples)]
    lines += ["", "examples:", *(f"  {line}" for line in examples)]
    if groups:
        lines += ["", f"groups, a file of conf/ each choice (--help {next(iter(groups))} shows its settings):"]
        lines += wrapped(conf, groups)
    lines += ["", "settings, KEY=VALUE (??? must be given):", *(f"  {line}" if line else "" for line in settings)]
    return "\n".join([*lines, "", "Hydra's own flags (--cfg, --multirun, --resolve, ...): --hydra-help"])


def groups_of(conf: Path, name: str) -> dict[str, tuple[str, str]]:
    """The groups of a script as they are typed, each with its default choice and its comment; not those of Hydra."""
    text = (conf / f"{name}.yaml").read_text()
    entries = re.findall(r"^  - ([\w/]+): (\S+)(?: +# (.*))?$", text, re.MULTILINE)
    found = {group: (re.sub(r"\$\{(\w+)\}", r"that of \1", one), comment) for group, one, comment in entries}
    if name == "train":
        found["+experiment"] = ("none", GRID)
    return found


def choices_of(conf: Path, group: str) -> list[str]:
    """The names of a group's files, as one types them."""
    folder = conf / group
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem not in HIDDEN.get(group, ()))


def wrapped(conf: Path, groups: dict[str, tuple[str, str]]) -> list[str]:
    """A line a group with its choices and its default, and one with its comment."""
    width = max(map(len, groups)) + 1
    rows = []
    for group, (default, comment) in groups.items():
        choices = ", ".join(choices_of(conf, group.lstrip("+")))
        rows += [f"  {group + '=':<{width}} {choices}  (default: {default})", f"  {'':<{width}} {comment}"]
    return rows


def settings_of(conf: Path, group: str, choice: str, default: str) -> str:
    """The settings of a group as its files have them, of one choice or of all.

    Raises UserError for an unknown choice.
    """
    known = choices_of(conf, group)
    if choice and choice not in known:
        raise UserError(f"{group}={choice} is unknown{did_you_mean(choice, known)}; choose one of: {', '.join(known)}")
    parts = []
    for name in [choice] if choice else known:
        file = conf / group / f"{name}.yaml"
        lines = [*(f"# {comment}" for comment in split(file)[0]), *sum(inherited(file).values(), [])]
        parts += [f"{group}={name}", *(f"  {line}" for line in lines if line)]
        for below in sorted((conf / group / name).glob("*.yaml")):  # the sizes of each stage
            comments, settings = split(below)
            lines = [*(f"# {comment}" for comment in comments), *settings]
            parts += [f"  stage={below.stem}", *(f"    {line}" for line in lines if line)]
    return "\n".join([*parts, "", f"change one by {CHANGED_BY.get(group, f'{group}.KEY=VALUE')}; default: {default}"])


def inherited(file: Path) -> dict[str, list[str]]:
    """The lines of each setting of a group's file, those of the files that it is based on first.

    A line without a comment gets that of the file it is based on.
    """
    found: dict[str, list[str]] = {}
    entries = (yaml.safe_load(file.read_text()) or {}).get("defaults", [])
    for entry in entries:
        if isinstance(entry, str) and entry != "_self_":
            found |= inherited(file.with_name(f"{entry}.yaml"))
    for key, lines in blocks(split(file)[1]).items():
        before = found.get(key, [""])[-1].partition("# ")[2]
        if len(lines) == 1 and "#" not in lines[0] and before:
            lines = [f"{lines[0]:<27} # {before}"]
        found[key] = lines
    return found


def blocks(lines: list[str]) -> dict[str, list[str]]:
    """The lines of each setting by its name: comments above it, its own, and the indented ones below it."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    key = ""
    for line in lines:
        if line.startswith("#"):
            above.append(line)
            continue
        if named := re.match(r"(\w+):", line):
            key, found[named[1]], above = named[1], above, []
        if key:
            found[key].append(line)
    return found


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
        if within not in ("defaults", "hydra") and not re.match(r" *_\w+_:", line):
            settings.append(line)
    comments = [line.lstrip("# ") for line in lines[:head] if not line.startswith("# @package")]
    return comments, trimmed(settings)


def trimmed(lines: list[str]) -> list[str]:
    """Without blank lines at both ends."""
    return "\n".join(lines).strip("\n").split("\n")
