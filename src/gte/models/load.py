"""Models in: whatever `checkpoint=` may name becomes an Encoder; what is known of it besides its weights."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from transformers import AutoTokenizer

from gte.data.tokenizer import fingerprint
from gte.encoder import Encoder
from gte.errors import UserError, did_you_mean
from gte.files import read_json
from gte.models.pretrained import Settings, load_pickle, new_model, read_config
from gte.offline import loading
from gte.remote import is_address, local_copy, place

SCHEMA = 2  # of what `describe` writes into a checkpoint; 1 knew only the mean and no prompts, and is read too
HISTORY_FILE = "training.json"  # in an exported directory, and in that of a run that came to its end
ZERO_FILE = Path("checkpoint/mp_rank_00_model_states.pt")  # in the directory that DeepSpeed writes as a checkpoint


def describe(encoder: Encoder) -> dict:
    """All that is needed besides the weights to build the encoder again; plain text, loadable with weights_only."""
    with tempfile.TemporaryDirectory() as folder:
        encoder.tokenizer.save_pretrained(folder)
        files = {path.name: path.read_text() for path in sorted(Path(folder).iterdir()) if path.is_file()}
    return {
        "schema": SCHEMA,
        "config": encoder.lm.config.to_json_string(),
        "tokenizer": files,
        "settings": asdict(encoder.settings),
    }


def history(checkpoint: str | Path) -> list[dict]:
    """The training stages that made a checkpoint, oldest first; empty for a model that was not trained here."""
    found = find_checkpoint(checkpoint)
    if isinstance(found, Path) and found.is_file():
        return read_checkpoint(found).get("history", [])
    record = Path(found) / HISTORY_FILE
    return read_json(record, list) if record.exists() else []


def steps_of(checkpoint: str | Path) -> int:
    """The steps that the last stage of a checkpoint has made."""
    *_, last = history(checkpoint) or [{}]
    return last.get("steps", 0)


def read_checkpoint(path: Path) -> dict:
    """The content of a .ckpt file, without running any code from it. Raises UserError where it is not one of ours."""
    content = load_pickle(path, "checkpoint", mmap=True)
    if isinstance(content, dict) and path.name == ZERO_FILE.name:
        content["state_dict"] = content.get("fp32_weights", content.get("module", {}))
    parts = [content.get(key) if isinstance(content, dict) else None for key in ("encoder", "state_dict")]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path} is not a checkpoint of this project: it describes no encoder; name a run's .ckpt")
    if content["encoder"].get("schema") not in (1, SCHEMA):
        *_, last = content.get("history") or [{}]
        raise UserError(
            f"{path} has checkpoint schema {content['encoder'].get('schema')}, this version reads {SCHEMA}; use the "
            f"version of this project that wrote it: commit {last.get('commit', 'not known')}"
        )
    return content


def encoder_from_checkpoint(path: Path) -> Encoder:
    """The encoder that a .ckpt of a training run holds."""
    content = read_checkpoint(path)
    description = content["encoder"]
    with tempfile.TemporaryDirectory() as folder, loading("model", str(path), "name another checkpoint"):
        for name, text in description["tokenizer"].items():
            (Path(folder) / Path(name).name).write_text(text)
        (Path(folder) / "config.json").write_text(description["config"])
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        settings = description.get("settings") or {"max_length": description["max_length"]}
        encoder = Encoder(new_model(read_config(folder)), tokenizer, settings=Settings(**settings))
    load_weights(encoder, content["state_dict"], path)
    return encoder


def load_weights(encoder: Encoder, state_dict: dict, path: Path) -> None:
    """Copies `encoder.*` of a training run's state into the encoder; every weight must be there, with its shape."""
    weights = {key.removeprefix("encoder."): value for key, value in state_dict.items() if key.startswith("encoder.")}
    own = encoder.state_dict()
    differs = [key for key in own if key not in weights or weights[key].shape != own[key].shape]
    if differs or len(weights) != len(own):
        key = differs[0] if differs else next(key for key in weights if key not in own)
        shapes = [tuple(side[key].shape) if key in side else "absent" for side in (weights, own)]
        raise UserError(
            f"{path} holds another model: {key} is {shapes[0]} there and {shapes[1]} here; "
            "choose the model= that it was trained with"
        )
    encoder.load_state_dict(weights)


def find_checkpoint(path: str | Path) -> Path | str:
    """What `checkpoint=` names: a checkpoint's file, a model directory, or a hub name; of a run, its last.ckpt.

    Another one of a run is RUN/best.ckpt, RUN/step-0001000.ckpt, wherever in the run's directory it lies.
    Of an address (s3://...) it is a copy on this machine.
    """
    if is_address(path):
        there = place(path)
        found = next((file for file in newest_of_run(there) if file.exists()), None)
        if found is None:
            raise UserError(f"checkpoint {path} does not exist; name the address of a .ckpt file, or of its folder")
        return find_checkpoint(local_copy(found))
    folder = Path(path)
    if folder.suffix == ".ckpt" and not folder.exists():
        folder = next((file for file in newest_of_run(folder) if file.exists()), folder)
    if folder.is_file():
        return folder
    if folder.is_dir():
        for last in newest_of_run(folder):
            for file in (last, last / ZERO_FILE):
                if file.is_file():
                    return file
        if (folder / "modules.json").exists() or (folder / "config.json").exists():
            return folder
        raise UserError(
            f"{folder} is neither a run directory (checkpoints/last.ckpt) nor a model directory (config.json)"
        )
    beside = folder.parent != Path() and folder.parent.is_dir()  # runs/pretrian beside runs/pretrain is no hub's name
    if folder.is_absolute() or str(path).startswith(".") or folder.suffix == ".ckpt" or len(folder.parts) > 2 or beside:
        close = did_you_mean(folder.name, [one.name for one in folder.parent.iterdir()]) if beside else ""
        raise UserError(
            f"checkpoint {path} does not exist{close}; name a run directory, a .ckpt file or a model directory"
        )
    return str(path)


def newest_of_run(folder) -> tuple:
    """Where a run's newest checkpoint is, if `folder` is a run's, or of checkpoints, or the checkpoint itself."""
    within = folder.parent / "checkpoints" / folder.name  # RUN/best.ckpt
    return folder / "checkpoints" / "last.ckpt", folder / "last.ckpt", folder, within


def take_prompts(encoder: Encoder, checkpoint: str | Path) -> None:
    """Gives the encoder of a run that is resumed the prompts, and the cut of its vectors, of its checkpoint."""
    stated = read_checkpoint(find_checkpoint(checkpoint))["encoder"].get("settings", {})
    kept = {
        key: stated[key] for key in ("prompts", "default_prompt", "include_prompt", "truncate_dim") if key in stated
    }
    encoder.settings = replace(encoder.settings, **kept)


def load_encoder(checkpoint: str | Path, trust_remote_code: bool = False) -> Encoder:
    """The encoder of a run directory, a .ckpt, an exported, sentence-transformers or transformers directory.

    `trust_remote_code`: run the Python files that a model directory brings along; without it such a model is refused.
    """
    found = find_checkpoint(checkpoint)
    if isinstance(found, Path) and found.is_file():
        return encoder_from_checkpoint(found)
    return Encoder.from_pretrained(found, trust_remote_code=trust_remote_code)


def initialize(encoder: Encoder, init_from: str | Path) -> None:
    """Copies the weights of any checkpoint that `load_encoder` takes into the encoder.

    Its prompts and the cut of its vectors are taken over; of a model that was trained here, also that it has none.
    Raises UserError where it is another model, pools in another way or reads texts by another tokenizer.
    """
    other = load_encoder(init_from)
    if fingerprint(other.tokenizer) != fingerprint(encoder.tokenizer):
        raise UserError(
            f"stage.init_from={init_from} was trained with another tokenizer ({len(other.tokenizer)} entries, "
            f"here {len(encoder.tokenizer)}); choose the data and model that it was trained with"
        )
    theirs, ours = other.settings, encoder.settings
    if theirs.pooling != ours.pooling:
        raise UserError(
            f"stage.init_from={init_from} pools by {theirs.pooling}, the model of this stage by {ours.pooling}; set "
            f"model.pooling={theirs.pooling}"
        )
    if theirs.prompts or history(init_from):
        words = {key: getattr(theirs, key) for key in ("prompts", "default_prompt", "include_prompt")}
        encoder.settings = ours = replace(ours, **words)
    encoder.settings = replace(ours, truncate_dim=theirs.truncate_dim or ours.truncate_dim)
    load_weights(encoder, {f"encoder.{key}": value for key, value in other.state_dict().items()}, Path(init_from))
