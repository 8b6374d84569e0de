"""The scores in results.json files that are a run's own: of one of its checkpoints, with the weights it has now."""

import json
from dataclasses import replace
from functools import cache
from math import isfinite
from pathlib import Path

from gte.errors import UserError, tell
from gte.files import read_json, stamp
from gte.models.load import load_encoder, weights_checksum
from gte.remote import find_checkpoint
from gte.results.record import checkpoints_of


def evaluated(folder: Path, facts: dict) -> dict[tuple[int, str], tuple[float, Path]]:
    """(steps trained, task) -> main score of the run's own checkpoints, and the results.json that has it.

    What else such a file scores does not count: BM25, other checkpoints, vectors that were cut or kept as codes,
    weights that a checkpoint had before the run was resumed, scores that are no number. A line tells of a file in which
    nothing counts, of other weights and of what is no number. Raises UserError where a task has several values at one
    step.
    """
    found: dict[tuple[int, str], dict[float, Path]] = {}
    for file in sorted(folder.glob("**/results.json")):
        models = read_json(file).get("models", {})
        steps = {label: step_scored(model, folder, facts) for label, model in models.items()}
        if all(step is None for step in steps.values()):
            tell(f"left out: {file}, no model in it is a checkpoint of {folder} with its plain vectors")
        for label, step in steps.items():
            model = models[label]
            if step is None:
                continue
            if not has_weights_of_now(model):
                tell(left_out(file, label, model))
                continue
            for task, result in model["tasks"].items():
                if isfinite(result["main_score"]):
                    found.setdefault((step, task), {}).setdefault(result["main_score"], file)
                else:
                    tell(f"left out: {file}, {task} of {label} is {result['main_score']}")
    for (step, task), values in found.items():
        if len(values) > 1:
            told = ", ".join(f"{value:.3f} in {file}" for value, file in values.items())
            raise UserError(f"{folder}: {task} at step {step} is {told}; move what is not to count out of {folder}")
    return {key: next(iter(values.items())) for key, values in found.items()}


def step_scored(model: dict, folder: Path, facts: dict) -> int | None:
    """The step of this run that a model of a results.json is named after; None where it is no such model.

    Args:
        model: its entry; vectors that `widths` names are not plain: a file does not say the model's own width.
        folder: the run's directory, which may be a symlink, as may be the folder of its checkpoints.
    """
    checkpoint, cell = named(model)
    if cell not in ("", "fp32"):
        return None
    path, homes = Path(checkpoint), {folder.resolve(), *checkpoints_of(folder)}
    if path.resolve() in homes:
        return facts["steps"]
    if path.suffix != ".ckpt" or path.parent.resolve() not in homes:
        return None
    if (step := path.stem.removeprefix("step-")).isdigit():
        return int(step)
    return {"last": facts["steps"], "best": facts.get("best", {}).get("step")}.get(path.stem)  # not ema: other weights


def named(model: dict) -> tuple[str, str]:
    """The checkpoint of an entry as eval.py was given it, and the width and precision of its vectors, if asked for.

    >>> named({"checkpoint": "run 64 int8", "vectors": "int8", "width": 64}), named({"checkpoint": "run"})
    (('run', '64 int8'), ('run', ''))
    """
    checkpoint = model["checkpoint"]
    if "vectors" not in model:
        return checkpoint, ""
    precision = "fp32" if model["vectors"] == "float32" else model["vectors"]
    for cell in (f"{model['width']} {precision}", precision):
        if checkpoint.endswith(f" {cell}"):
            return checkpoint.removesuffix(f" {cell}"), cell
    return checkpoint, precision


def has_weights_of_now(model: dict) -> bool:
    """Whether an entry was made with the weights that its checkpoint has now, with whatever prompts.

    A run that is resumed writes other weights under the same name. True where there is nothing to compare: in an entry
    of an older version, and where the checkpoint is gone or cannot be read.
    """
    if "weights" not in model:
        return True
    prompts = {"prompts": model.get("prompts", {}), "default_prompt": model.get("default_prompt")}
    try:
        file = find_checkpoint(named(model)[0])
        return model["weights"] in checksums(Path(file), stamp(Path(file)), json.dumps(prompts, sort_keys=True))
    except UserError:
        return True


@cache
def checksums(file: Path, version: tuple[int, int, int] | None, prompts: str) -> set[str]:
    """Checksums of a checkpoint with its own prompts and with those of an entry; read once while its stamp is equal."""
    encoder = load_encoder(file)
    own = weights_checksum(encoder)
    settings = replace(encoder.settings, **json.loads(prompts))
    if settings == encoder.settings:
        return {own}
    encoder.settings = settings
    return {own, weights_checksum(encoder)}


def left_out(file: Path, label: str, model: dict) -> str:
    """The line on an entry of other weights."""
    return (
        f"left out: {file}, {label} has other weights than {named(model)[0]} has now, which was trained on since or is "
        "read by another version; evaluate it again"
    )
