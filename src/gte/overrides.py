"""The command line: paths as they are typed, what is refused in it, and help where Hydra would only refuse it."""

import argparse
import re
import shlex
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gte.errors import UserError, did_you_mean
from gte.shipped import shipped

CONF = shipped("conf")
SECRET = re.compile(  # api_key=X, settings={api_key: X}, s3://X:Y@...
    r"[\w.+@/-]*((api_?key|token|password|secret)=(?!null$).|=\{.*(api_?key|password) *:|=\w+://[^/@ ]+:[^/@ ]+@)",
    re.IGNORECASE,
)
# settings whose values are taken as they stand, whatever Hydra's grammar makes of =, ~, a comma or a letter like é
LITERAL = {
    "cache", "checkpoint", "checkpoint_dir", "corpus", "data.decontaminate.folder", "data.delimiter", "data.dir",
    "data.mined", "data.path", "data.raw", "data.tokenizer", "data.tokenizer_revision", "data_dir", "delimiter",
    "evaluate.data_dir", "folder", "hydra.run.dir", "hydra.sweep.dir", "in", "loss.guide", "mix_with", "model",
    "model.name_or_path",
    "model.revision", "name", "out", "paths.data", "paths.raw", "ranges", "report", "results", "resume",
    "stage.init_from", "sts",
}  # fmt: skip
if hasattr(argparse.ArgumentParser, "_check_help"):  # Python 3.14 looks at each help text when it is added
    # Hydra 1.3.8 gives --shell-completion an object in place of a text, so that it need not be made before it is shown
    of_action = argparse.HelpFormatter._get_help_string
    argparse.HelpFormatter._get_help_string = lambda formatter, action: str(of_action(formatter, action))
# a value of several texts in a sweep; lists, functions and quoted texts are left to Hydra's grammar
CHOICE = r"(?:\$\{[^{}]*\}|[^,(){}\[\]'\"])+"
CHOICES = re.compile(f"{CHOICE}(?:,{CHOICE})+")
# mappings whose keys are the user's
OPEN = ("data.columns", "columns", "data.weights", "grids", "groups", "source_sets")


def read_arguments(script: str, arguments: list[str]) -> list[str]:
    """The arguments of a script as Hydra takes them.

    script: name of the primary configuration. Paths are quoted where they need it, a leading ~/ is the user's home; a
    key of a mapping of the user's own is added; model=NAME of no file in conf/model is model.name_or_path in train, and
    model= is data.tokenizer in prepare, model.revision= its revision.
    Raises UserError for an argument that Hydra cannot parse, with the way to quote it.
    """
    sweeps = {"-m", "--multirun"} & set(arguments)
    result: list[str] = []
    model = None  # whose tokenizer prepare takes
    for argument in arguments:
        key, is_override, value = argument.partition("=")
        bare = key.lstrip("+")
        if argument.startswith("-") or not is_override:
            result.append(argument)
            continue
        if bare in LITERAL:
            value = literal(value, bool(sweeps))
        refuse_no_choice(key, value)
        if script == "train" and key == "model" and names_model(value.strip('"')):
            result += ["model=base", f"model.name_or_path={value}"]
            continue
        if script == "collect" and key == "report" and value != "null":
            # it is written there, and belongs to no experiment
            own = {"name": "null", "runs": "null", "out": value}
            result += [f"{name}={given}" for name, given in own.items() if not typed_already(name, arguments)]
        if script == "prepare" and key in ("model", "model.name_or_path"):
            model = value.strip('"')  # name_or_path comes after the choice of conf/model that it belongs to
            continue
        if script == "prepare" and key == "model.revision":
            key = "data.tokenizer_revision"
            value = literal(value, bool(sweeps))
        if key in OPEN or key.startswith(tuple(f"{mapping}." for mapping in OPEN)):
            key = f"++{key}"
        result.append(f"{key}={value}")
        check(result[-1], argument)
    if model is not None:
        if typed_already("data.tokenizer", arguments):
            raise UserError(f"model={model} and data.tokenizer= both say whose tokenizer; give one")
        result.append(f"data.tokenizer={literal(tokenizer_of(model), bool(sweeps))}")
    return result


def typed_already(key: str, arguments: list[str]) -> bool:
    """Whether one of the arguments sets this key."""
    return any(argument.startswith(f"{key}=") for argument in arguments)


def refuse_no_choice(key: str, value: str) -> None:
    """Raises UserError for a group of conf/ that is given what cannot be the name of one of its files."""
    group = CONF / key.lstrip("+~")
    override = parsed(f"{key}={value}") if key and group.is_dir() else None
    if override is None or override.is_sweep_override() or override.is_delete():
        return
    chosen = override.value()
    names = chosen if isinstance(chosen, list) else [chosen]
    if not isinstance(chosen, dict) and not (names and all(isinstance(name, str | QuotedString) for name in names)):
        known = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        raise UserError(f"{key}={value} names no file of conf/{group.name}; choose one of: {known}")


def literal(value: str, sweeps: bool) -> str:
    """A path as Hydra takes it: quoted where its grammar stumbles over it, or would see a number or several values."""
    if value[:1] in ("'", '"', "[", "{"):
        return value
    if sweeps and CHOICES.fullmatch(value) and not Path(value).exists():
        return ",".join(literal(choice.strip(), False) for choice in re.findall(CHOICE, value))
    value = str(Path(value).expanduser()) if value.startswith("~/") else value
    override = parsed(f"key={value}")
    if override is None:
        return quote(value)
    if override.is_sweep_override():
        return value if sweeps and not Path(value).exists() else quote(value)
    found = override.value()
    as_typed = found is None or isinstance(found, bool | QuotedString) or found == value
    # a sweep would write it anew: a quote in ${...} without the backslash that it takes, the last one before a comma
    return value if as_typed and not re.search(r"""['"]|\\$""", value) else quote(value)


def retyped(override: str) -> str:
    r"""A sweep's override in a form from which `read_arguments` and Hydra read the same value.

    A sweep gives a point its texts without quotes, each sign of Hydra's grammar behind a backslash, which would become
    one of the path.

    >>> retyped(r"resume=s3\://bucket/$\{seed\}"), retyped("resume=runs/a")
    ('resume="s3://bucket/${seed}"', 'resume=runs/a')
    """
    key, _, value = override.partition("=")
    if key.lstrip("+") not in LITERAL or value[:1] in ("'", '"'):
        return override
    text = parsed(override).value()
    return f"{key}={quote(text)}" if isinstance(text, str) and text != value else override


def tokenizer_of(model: str) -> str:
    """Whose tokenizer a model reads: a name of conf/model, of the hub, or a directory; null for random weights.

    Raises UserError for what is none of these.
    """
    file = CONF / "model" / f"{model}.yaml"
    if file.is_file():
        return yaml.safe_load(file.read_text()).get("name_or_path", "null")
    if not names_model(model):
        known = [path.stem for path in file.parent.glob("*.yaml")]
        raise UserError(f"model={model} is neither a directory nor in conf/model{did_you_mean(model, known)}")
    return model


def names_model(value: str) -> bool:
    """Whether a value of model= is a directory or a hub's name, not a choice of conf/model, nor a slip of one."""
    known = [path.stem for path in (CONF / "model").glob("*.yaml")]
    if value in known or "," in value or value == "null":
        return False
    return "/" in value or Path(value).exists() or not did_you_mean(value, known)


def check(override: str, typed: str) -> None:
    """Raises UserError for an override that Hydra cannot parse, with the way to type it."""
    if parsed(override) is not None:
        return
    key, _, value = typed.partition("=")
    for try_ in (quote(value), quote_inside(value)):
        if value[:1] in "[{" and try_ == quote(value):
            continue
        if parsed(f"{key}={try_}") is not None:
            raise UserError(f"{typed} cannot be parsed; quote it: {shlex.quote(f'{key}={try_}')}")
    raise UserError(f"{typed} cannot be parsed; a value with other signs than letters, digits and ./:-_ needs quotes: "
                    f"""'{key}="..."'""")  # fmt: skip


def parsed(override: str) -> Override | None:
    """An override as Hydra parses it; None where it does not."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def quote(value: str) -> str:
    """A text in Hydra's double quotes."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    tail = re.search(r"\\*\Z", escaped)[0]
    return f'"{escaped}{tail}"'


def quote_inside(value: str) -> str:
    """A list or mapping with quotes around each of its texts, but for the names of a mapping, which take none."""
    text = r"""([{\[,:]\s*)([^\s{}\[\],:"'][^{}\[\],:"']*)(?=\s*[,\]}])"""
    return re.sub(text, lambda part: part[1] + quote(part[2].rstrip()), value)


def known_settings(script: str, arguments: list[str]) -> dict:
    """The composed settings of a script, with the choices of groups among its arguments and nothing else."""
    GlobalHydra.instance().clear()
    choices = [one for one in arguments if (CONF / one.partition("=")[0].lstrip("+")).is_dir() and "," not in one]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for overrides in (choices, []):
            try:
                return OmegaConf.to_container(compose(script, overrides=overrides), resolve=False)
            except HydraException:
                continue
    return {}


def near_key(script: str, key: str, arguments: list[str]) -> str:
    """One line for a setting that a script does not have: the nearest ones that it has."""
    settings = known_settings(script, arguments)
    paths = dotted(settings)
    parent, _, last = key.rpartition(".")
    siblings = [path.removeprefix(f"{parent}.") for path in paths if parent and path.startswith(f"{parent}.")]
    siblings = siblings if parent else [str(name) for name in settings]
    siblings = [name for name in siblings if "." not in name]
    elsewhere = [path for path in paths if path.rpartition(".")[2] == last][:3]
    if elsewhere:
        close = f", did you mean {' or '.join(elsewhere)}?"
    elif siblings and parent:
        close = did_you_mean(last, siblings).replace("mean ", f"mean {parent}.").replace(" or ", f" or {parent}.")
    else:
        close = did_you_mean(key, paths)
    has = f"; {parent or f'conf/{script}.yaml'} has: {', '.join(siblings)}" if siblings and not close else ""
    return f"unknown key '{key}'{close}{has}"


def dotted(settings: dict, prefix: str = "") -> list[str]:
    """The full names of all settings, those of groups included."""
    found = []
    for key, value in settings.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += dotted(value, f"{prefix}{key}.")
    return found


def typed() -> dict[str, str]:
    """The settings on the command line: {key: value as it was typed}, without Hydra's marks."""
    pairs = (override.partition("=") for override in HydraConfig.get().overrides.task)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def refuse_secrets(overrides: list[str]) -> None:
    """Raises UserError for a key or password on the command line, before Hydra writes it into the run directory."""
    for override in overrides:
        if SECRET.match(override):
            raise UserError(
                f"{override.partition('=')[0]}=... looks like a secret, which the run directory would keep; give it in "
                "the environment (WANDB_API_KEY, HF_TOKEN, ...)"
            )


def refuse_removals(overrides: list[str]) -> None:
    """Raises UserError for `~key`: what stands in its place would be a library's own value, or a bug's traceback."""
    for override in overrides:
        key = override.partition("=")[0].removeprefix("~")
        if override.startswith("~") and not key.startswith(("logger", "hydra", *OPEN)):
            raise UserError(f"{override}: a setting cannot be removed; give another value, {key}=...")


def refuse_unknown_keys(cfg: DictConfig, name: str) -> None:
    """A key that `+key=` added beside the primary config's own would be ignored without a word: refuse it."""
    primary = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    groups = {key for entry in primary.get("defaults", []) if isinstance(entry, dict) for key in entry}
    groups = {group for group in groups if not group.startswith("override ")}
    known = (set(primary) | {group.split("@")[0].split("/")[0] for group in groups}) - {"defaults", "hydra"}
    unknown = sorted(set(map(str, cfg)) - known)
    if unknown:
        close = did_you_mean(unknown[0], known)
        raise UserError(f"unknown key '{unknown[0]}'{close}; conf/{name}.yaml knows: {', '.join(sorted(known))}")


def refuse_added_keys(cfg: DictConfig, name: str) -> None:
    """Raises UserError for a key that `+group.key=` added where nothing reads it; constructors refuse theirs."""
    for override in HydraConfig.get().overrides.task:
        key = override.partition("=")[0]
        parent = key.lstrip("+").rpartition(".")[0]
        if not key.startswith("+") or parent in ("", "logger") or parent.split("@")[0].startswith(OPEN):
            continue  # one more logger is a constructor of its own
        node = OmegaConf.select(cfg, parent)
        if isinstance(node, DictConfig) and "_target_" not in node:
            arguments = HydraConfig.get().overrides.task
            if key.lstrip("+") not in dotted(known_settings(name, list(arguments))):
                raise UserError(near_key(name, key.lstrip("+"), list(arguments)))


def refuse_unread(group: str, read: tuple[str, ...], script: str, advice: dict[str, str]) -> None:
    """Raises UserError for a setting of a group on the command line that this script does not read.

    read: the keys that it reads. script: the one that reads the others. advice: what to do instead, by key.
    """
    for key in typed():
        name = key.removeprefix(f"{group}.").split(".")[0]
        if not key.startswith(f"{group}.") or name in read:
            continue
        instead = advice.get(name, f"give it to {script}")
        close = did_you_mean(name, read)
        acts = close.replace("did you mean ", f"did you mean {group}.") or f"; {instead}"
        raise UserError(
            f"{key} is not read here{acts}; of {group} are read: {', '.join(f'{group}.{one}' for one in read)}"
        )
