"""A run's directory: the record of its stages, and where it has kept its checkpoints."""

import re
from contextlib import suppress
from pathlib import Path

import yaml

from gte.errors import UserError
from gte.files import read_json
from gte.models.load import HISTORY_FILE, history
from gte.models.saved import newest_first


def history_of(run: Path) -> list[dict]:
    """The stages of a run by its newest checkpoint; none where nothing says.

    Where that cannot be read, or is kept elsewhere: by the newest one that can, or training.json if it has more steps.
    """
    found: list[dict] = []
    for number, checkpoint in enumerate(newest_first(run / "checkpoints")):
        with suppress(UserError):
            found = history(checkpoint)
            if number == 0:
                return found
            break
    record = run / HISTORY_FILE
    return max(found, read_json(record, list) if record.exists() else [], key=steps_in)


def steps_in(stages: list[dict]) -> int:
    """The steps of the last stage of a record."""
    return stages[-1].get("steps", 0) if stages else -1


def checkpoints_of(run: Path) -> set[Path]:
    """The folders of a run's checkpoints, links resolved: its own, and the configured checkpoint_dir."""
    found = {(run / "checkpoints").resolve()}
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError):
        config, hydra = (yaml.safe_load((run / ".hydra" / name).read_text()) for name in ("config.yaml", "hydra.yaml"))
        given = config["checkpoint_dir"]
        config["out"] = hydra["hydra"]["runtime"]["output_dir"]  # as training has it
        found.add(Path(filled(given, {**config, **hydra})).resolve())
    return found


def filled(text: str, settings: dict) -> str:
    """A text with the settings that its ${...} name, as OmegaConf keeps them unresolved in a run's directory.

    >>> filled("s3://b/${hydra:sweep.subdir}", {"seed": 1, "hydra": {"sweep": {"subdir": "seed=${seed}"}}})
    's3://b/seed=1'
    """

    def value(found: re.Match) -> str:
        setting = settings
        for key in found[1].replace(":", ".").split("."):
            setting = setting[key]
        return filled(str(setting), settings)

    return re.sub(r"\$\{((?:hydra:)?[\w.]+)\}", value, text)
