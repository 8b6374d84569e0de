"""A model's own files, read: its language model, its tokenizer, and all else that they say about its vectors."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from gte.errors import UserError
from gte.files import read_json
from gte.offline import loading


@dataclass(frozen=True)
class Settings:
    """What makes the vector of a text besides weights and tokenizer: kept by training and export, part of the identity.

    max_length: tokens of a text, special tokens included; longer ones are cut. pooling: mean, cls or last. prompts:
    words that are put before a text, by kind (query, document, ...). default_prompt: the kind that is taken where none
    is asked for. include_prompt: whether the prompt's tokens are pooled. truncate_dim: how many of the first numbers of
    a vector are kept, None for all.
    """

    max_length: int = 512
    pooling: str = "mean"
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    truncate_dim: int | None = None


def load_pretrained(
    name_or_path: str | Path, max_length: int = 512, trust_remote_code: bool = False
) -> tuple[nn.Module, PreTrainedTokenizerBase, Settings]:
    """The language model in float32, the tokenizer and the settings of a model directory, or of a name on the hub.

    `max_length` is an upper bound. Raises UserError where nothing loads, or where the vectors would be other ones.
    """
    name_or_path = str(name_or_path)
    folder, own_length = read_modules(Path(name_or_path)) if Path(name_or_path).is_dir() else (name_or_path, None)
    with loading("model", name_or_path, "pass a local model directory: model.name_or_path=/path/to/model") as local:
        access = {"local_files_only": local, "trust_remote_code": trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(folder, **access)
        config = read_config(folder, **access)
        lm = AutoModel.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True, **access)
    if not tokenizer.is_fast:
        raise UserError(f"{name_or_path} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    if lm.get_input_embeddings().num_embeddings < len(tokenizer):
        raise UserError(
            f"{name_or_path}: the tokenizer has {len(tokenizer)} entries, the model only "
            f"{lm.get_input_embeddings().num_embeddings}; they do not belong together"
        )
    own_length = own_length or min(tokenizer.model_max_length, usable_positions(lm.config))
    return lm, tokenizer, Settings(min(max_length, own_length))


def read_config(folder: str, *, trust_remote_code: bool = False, **access):
    """The configuration of a language model. Raises UserError for one that has code of the hub run for its attention.

    transformers fetches and loads such a kernel, whatever `trust_remote_code` says, where it finds the package for it.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **access)
    if "/" in str(config._attn_implementation) and not trust_remote_code:
        raise UserError(
            f"{folder}: its config.json wants code of the hub to run, attn_implementation={config._attn_implementation}"
            "; take that line out"
        )
    return config


def usable_positions(config) -> int:
    """How many tokens the language model has positions for; RoBERTa's start after its padding id."""
    positions = getattr(config, "max_position_embeddings", None) or 10**9
    return positions - config.pad_token_id - 1 if config.model_type in {"roberta", "xlm-roberta"} else positions


def read_modules(folder: Path) -> tuple[str, int | None]:
    """Where a sentence-transformers directory keeps its language model, and its own maximum length, if it states one.

    A plain transformers directory is returned as it is. Raises UserError where the modules are anything else than
    a language model, mean pooling and normalisation: the result would silently be another embedding.
    """
    if not (folder / "modules.json").exists():
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} is no model directory: it has neither modules.json nor config.json")
        return str(folder), None
    modules = read_json(folder / "modules.json", list)
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) and "path" in part for part in modules):
        raise UserError(f"{folder / 'modules.json'} is no list of modules, each with its type and path")
    kinds = {}
    for part in modules:
        known = re.fullmatch(r"sentence_transformers\.(\w+\.)*(?P<kind>\w+)", part["type"])
        kinds[known["kind"] if known else f"{part['type']} of another package"] = folder / part["path"]
    foreign = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if foreign or not {"Transformer", "Pooling"} <= set(kinds):
        raise UserError(f"{folder / 'modules.json'}: {sorted(foreign or kinds)} is not a language model + mean pooling")
    pooling = read_json(kinds["Pooling"] / "config.json")
    modes = {key for key, value in pooling.items() if key.startswith("pooling_mode_") and value}
    if modes != {"pooling_mode_mean_tokens"} and pooling.get("pooling_mode") != "mean":
        raise UserError(f"{kinds['Pooling'] / 'config.json'}: pools by {sorted(modes)}, this encoder only by the mean")
    settings_file = kinds["Transformer"] / "sentence_bert_config.json"
    settings = read_json(settings_file) if settings_file.exists() else {}
    if settings.get("do_lower_case"):
        raise UserError(
            f"{settings_file}: do_lower_case is not supported; put a lower-casing normalizer in the tokenizer"
        )
    length = settings.get("max_seq_length")
    if length is not None and not (isinstance(length, int) and length > 2):
        raise UserError(f"{settings_file}: max_seq_length={length!r} must be a number of tokens, or null")
    return str(kinds["Transformer"]), length
