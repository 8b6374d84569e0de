"""Models in: whatever `checkpoint=` may name becomes an Encoder; what is known of it besides its weights."""

import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from transformers import AutoTokenizer, PretrainedConfig

from gte.data.tokenizer import fingerprint, rules
from gte.encoder import Encoder
from gte.errors import UserError
from gte.files import read_json, stamp
from gte.hub import loading
from gte.models.broken import broken
from gte.models.pretrained import load_pickle, new_model, read_config
from gte.remote import ZERO_FILE, find_checkpoint
from gte.settings import Settings

# what a configuration says of a model besides how it computes
DESCRIBING = {"architectures", "dtype", "id2label", "label2id", "transformers_version", "use_cache", "_name_or_path"}
# and what it says of its making, of dropout, of heads that are not loaded, and of lengths that the shapes state
ASIDE = re.compile(
    r"_|.*drop|.*_token_id$|classifier_|decoder_bias|sparse_pred|output_|summary_|finetuning_task|problem_type|"
    r"num_labels|initializer_|deterministic_|gradient_checkpointing|tie_word_embeddings|max_position_embeddings|vocab_size"
)
SCHEMA = 2  # of what `describe` writes into a checkpoint; 1 knew only the mean and no prompts, and is read too
HISTORY_FILE = "training.json"  # in an exported directory, and in that of a run that came to its end


def describe(encoder: Encoder) -> dict:
    """Collect everything besides the weights that is needed to build the encoder again, loadable with weights_only."""
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
    """Read the training stages that made a checkpoint.

    Args:
        checkpoint: anything that `load_encoder` takes.
    Returns: a record a stage, oldest first; none for a model that was not trained here.
    """
    found = find_checkpoint(checkpoint)
    if isinstance(found, Path) and found.is_file():
        return read_checkpoint(found).get("history", [])
    record = Path(found) / HISTORY_FILE
    return read_json(record, list) if record.exists() else []


def steps_of(checkpoint: str | Path) -> int:
    """The steps that the last stage of a checkpoint has made."""
    *_, last = history(checkpoint) or [{}]
    return last.get("steps", 0)


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint's bytes; None where all are as written: torch.save keeps a CRC-32 a tensor.

    Of a directory, which DeepSpeed writes, every file of its state is read.
    """
    if not checkpoint.is_dir():
        return damage_of(checkpoint, stamp(checkpoint))
    states = sorted(checkpoint.glob("*/*.pt"))
    if not states:
        return "a folder without any state of a training"
    found = ((state.name, damage_of(state, stamp(state))) for state in states)
    return next((f"{wrong}, {name}" for name, wrong in found if wrong), None)


@cache
def damage_of(file: Path, version: tuple[int, int, int] | None) -> str | None:
    """The same of a file, which is read once in a process; `version` is its stamp."""
    try:
        with zipfile.ZipFile(file) as records:
            record = records.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        return f"truncated or altered ({error})"
    return None if record is None else f"altered in {record}"


def begins_as_saved(path: Path) -> bool:
    """Whether a file begins as those of torch.save do; what is wrong with others, torch.load says."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read(2) == b"PK"
    return False


def read_checkpoint(path: Path) -> dict:
    """Read a .ckpt file, without running any code from it.

    Args:
        path: the file.
    Returns: its content.
    Raises: UserError where it is not one of ours, and where a byte of it is not as it was written.
    """
    # torch.load compares no checksum, and says "Invalid argument" of a file that is cut
    if begins_as_saved(path) and (wrong := damage(path)):
        raise UserError(f"cannot read the checkpoint {path}: it is {wrong}; name another one of its run")
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
    return encoder_in(read_checkpoint(path), path)


def encoder_in(content: dict, path: Path) -> Encoder:
    """The encoder in the content of a .ckpt, of which `path` is told where it cannot be built."""
    description = content["encoder"]
    with tempfile.TemporaryDirectory() as folder, loading("model", str(path), "name another checkpoint"):
        tokenizer = tokenizer_of(description, Path(folder))
        settings = description.get("settings") or {"max_length": description["max_length"]}
        encoder = Encoder(new_model(read_config(folder)), tokenizer, settings=Settings(**settings))
    load_weights(encoder, content["state_dict"], path)
    return encoder


def tokenizer_of(description: dict, folder: Path):
    """The tokenizer in a checkpoint's description of its encoder; its files and the model's config go to a folder."""
    for name, text in description["tokenizer"].items():
        (folder / Path(name).name).write_text(text)
    (folder / "config.json").write_text(description["config"])
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_weights(encoder: Encoder, state_dict: dict, path: Path) -> None:
    """Copies `encoder.*` of a training run's state into the encoder; every weight must be there, with its shape."""
    encoder.load_state_dict(fitting_weights(encoder, state_dict, path))


def fitting_weights(encoder: Encoder, state_dict: dict, path: Path) -> dict:
    """`encoder.*` of a training run's state, by the encoder's own names. UserError where one is not the encoder's."""
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
    return weights


def check_same_model(encoder: Encoder, checkpoint: Path) -> None:
    """Raises UserError where the encoder is not of the model whose training resumes from a checkpoint.

    That is: reads texts by another tokenizer, pools in another way, or has other weights.
    """
    content = read_checkpoint(find_checkpoint(checkpoint))
    with tempfile.TemporaryDirectory() as folder, loading("model", str(checkpoint), "name another checkpoint"):
        theirs = tokenizer_of(content["encoder"], Path(folder))
        config = read_config(folder)
    if fingerprint(theirs) != fingerprint(encoder.tokenizer):
        raise UserError(
            f"{checkpoint} was trained with another tokenizer, whose ids mean other words: its data were prepared with "
            "another one since, or the model is another; go on with the data it was trained on, or train anew in "
            "another out="
        )
    pooling = content["encoder"].get("settings", {}).get("pooling", "mean")
    if pooling != encoder.settings.pooling:
        raise UserError(
            f"{checkpoint} was trained with model.pooling={pooling}, here it is {encoder.settings.pooling}; set it back"
        )
    fitting_weights(encoder, content["state_dict"], checkpoint)
    if differing := other_computing(config, encoder.lm.config):
        raise UserError(f"{checkpoint} is of a model that computes in another way: {differing}; name that model")


def other_computing(theirs: PretrainedConfig, ours: PretrainedConfig) -> str:
    """Say where two models whose weights have equal shapes would make other vectors of them: "heads=4, here 8"; or "".

    Equal shapes go with other heads, activations or norms, and the weights would be of no use without a word.
    """
    theirs, ours = theirs.to_dict(), ours.to_dict()
    keys = [key for key in sorted(theirs.keys() & ours.keys()) if key not in DESCRIBING and not ASIDE.match(key)]
    return ", ".join(f"{key}={theirs[key]}, here {ours[key]}" for key in keys if theirs[key] != ours[key])


def take_prompts(encoder: Encoder, checkpoint: str | Path) -> None:
    """Gives the encoder of a run that is resumed the prompts, and the cut of its vectors, of its checkpoint."""
    stated = read_checkpoint(find_checkpoint(checkpoint))["encoder"].get("settings", {})
    kept = {
        key: stated[key] for key in ("prompts", "default_prompt", "include_prompt", "truncate_dim") if key in stated
    }
    encoder.settings = replace(encoder.settings, **kept)


def load_encoder(checkpoint: str | Path, trust_remote_code: bool = False) -> Encoder:
    """Load the encoder of any checkpoint.

    Args:
        checkpoint: a run directory, a .ckpt, or an exported, sentence-transformers or transformers directory.
        trust_remote_code: run the Python files that a model directory brings along; without it such a model is refused.
    Returns: the encoder, in eval mode, on the CPU.
    Raises: UserError where nothing loads.

    >>> import tempfile
    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(folder)
    ...     loaded = load_encoder(folder)
    >>> loaded.dimensions
    16
    """
    found = find_checkpoint(checkpoint)
    if isinstance(found, Path) and found.is_file():
        return encoder_from_checkpoint(found)
    return Encoder.from_pretrained(found, trust_remote_code=trust_remote_code)


def initialize(encoder: Encoder, init_from: str | Path) -> None:
    """Copy the weights of any checkpoint into an encoder, with its prompts and the cut of its vectors.

    Of a model that was trained here, that it has no prompts is taken over too.

    Args:
        encoder: the model, which is changed.
        init_from: anything that `load_encoder` takes.
    Raises: UserError where it is another model, pools in another way or reads texts by another tokenizer.
    """
    other = load_encoder(init_from)
    weights = alike(encoder, other, f"stage.init_from={init_from}")
    theirs, ours = other.settings, encoder.settings
    if theirs.prompts or history(init_from):
        words = {key: getattr(theirs, key) for key in ("prompts", "default_prompt", "include_prompt")}
        encoder.settings = ours = replace(ours, **words)
    encoder.settings = replace(ours, truncate_dim=theirs.truncate_dim or ours.truncate_dim)
    load_weights(encoder, weights, Path(init_from))


def alike(encoder: Encoder, other: Encoder, named: str) -> dict:
    """The weights of `other`, as a checkpoint's state_dict has them, where they mean in `encoder` what they mean there.

    named: the setting that names `other`. Raises UserError where it is another model, pools in another way, reads texts
    by another tokenizer or gives no text a finite vector.
    """
    if fingerprint(other.tokenizer) != fingerprint(encoder.tokenizer):
        raise UserError(
            f"{named} was trained with another tokenizer ({len(other.tokenizer)} entries, "
            f"here {len(encoder.tokenizer)}); choose the data and model that it was trained with"
        )
    if wrong := broken(other):
        raise UserError(f"{named}: {wrong}; name an earlier checkpoint of its run, RUN/step-*.ckpt")
    weights = {f"encoder.{key}": value for key, value in other.state_dict().items()}
    fitting_weights(encoder, weights, Path(named.partition("=")[2]))
    if differing := other_computing(other.lm.config, encoder.lm.config):
        raise UserError(f"{named} computes in another way: {differing}; choose model= as it is there")
    theirs, ours = other.settings.pooling, encoder.settings.pooling
    if theirs != ours:
        raise UserError(f"{named} pools by {theirs}, the model of this stage by {ours}; set model.pooling={theirs}")
    return weights


def weights_checksum(encoder: Encoder) -> str:
    """Compute a SHA-256 over everything in a model that its vectors depend on: settings, configuration, tokenizer and
    weights.

    Args:
        encoder: the model.
    Returns: "sha256:" and 64 hexadecimal digits.

    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> one, other = (Encoder.from_scratch(tokenizer, **sizes) for _ in range(2))
    >>> weights_checksum(one) == weights_checksum(one), weights_checksum(one) == weights_checksum(other)
    (True, False)
    """
    config = encoder.lm.config.to_dict()
    for key in DESCRIBING:
        config.pop(key, None)
    parts = [asdict(encoder.settings), config, encoder.tokenizer.truncation_side, rules(encoder.tokenizer)]
    sha = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().numpy().tobytes())
    return f"sha256:{sha.hexdigest()}"


def truncate(encoder: Encoder, truncate_dim: int | None) -> None:
    """Make an encoder give the first dimensions of its vectors alone; vectors of unit length are so after the cut.

    Args:
        encoder: the model, which is changed.
        truncate_dim: dimensions to keep; None leaves the model as it is.
    Raises: UserError where the model has not as many.

    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> truncate(model, 8)
    >>> model.encode(["a text"]).shape
    (1, 8)
    """
    if truncate_dim is None:
        return
    whole = isinstance(truncate_dim, int) and not isinstance(truncate_dim, bool)
    if not whole or not 1 <= truncate_dim <= encoder.dimensions:
        raise UserError(f"truncate_dim={truncate_dim} must be from 1 to {encoder.dimensions}, the model's dimensions")
    encoder.settings = replace(encoder.settings, truncate_dim=truncate_dim)
