"""A model's own files, read: its language model, its tokenizer, and all else that they say about its vectors."""

import inspect
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from gte.data.tokenizer import open_tokenizer, read_modules, read_transformer
from gte.errors import UserError, first_line, tell
from gte.files import read_json
from gte.hub import SMALL_FILES, download, loading
from gte.positions import usable_positions
from gte.remote import check_adapter, check_revision
from gte.settings import Settings

POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}  # ours by those of sentence-transformers
# the flags of its older files by its newer names; several that are true are put side by side
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
# of a language model's settings file: what is read or changes no vector, and values that change none
READ = {"max_seq_length", "do_lower_case", "unpad_inputs", "modality_config"}
NEUTRAL = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
ARGUMENTS = {"model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"}
NEUTRAL_ARGUMENTS = {"dtype", "torch_dtype", "attn_implementation", "trust_remote_code", "padding_side", "use_cache"}
# encoder-decoders whose encoder is a class of its own, saved and loaded by other programs too
ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}
WEIGHTS = (("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin"))
NO_LENGTH = 512  # tokens, where a model states no length and has no table of positions


def load_pretrained(
    name_or_path: str | Path,
    max_length: int | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase, Settings]:
    """Read a model directory, or a name on the hub, which is copied into the hub's cache and read there.

    Args:
        name_or_path: a sentence-transformers or transformers directory, or a name on the hub.
        max_length: an upper bound in tokens; None takes what the model says.
        trust_remote_code: run the Python files that the model brings along.
        revision: branch, tag or commit on the hub; None is the newest. Of a directory it is refused.

    Returns: the language model in float32 and eval mode, its tokenizer, its settings.

    Raises UserError where nothing loads, where a weight is missing, and where the vectors would not be the model's own.
    """
    name = str(name_or_path)
    check_revision(name, revision)
    with loading("model", name, "pass a local model directory: model.name_or_path=/path/to/model") as local:
        on_hub = not Path(name).exists()
        more = ["*_Dense/model.safetensors", *(["*.py"] if trust_remote_code else [])]
        root = download(name, local, SMALL_FILES + more, revision) if on_hub else Path(name)
        if on_hub and not any(file.exists() for file in (root / "modules.json", listing(root))):
            note(f"{name}: the hub's cache does not know whether it has a modules.json; read as if it had none")
        folder, settings, length = read_settings(root)
        check_adapter(folder)
        if on_hub:
            for files in WEIGHTS:
                names = [(folder / file).relative_to(root).as_posix() for file in (*files, "config.json")]
                download(name, local, names, root.name)
                if find_weights(folder):
                    break
        tokenizer = open_tokenizer(folder, trust_remote_code)
        config = read_config(folder, trust_remote_code)
        lm = load_weights(folder, config, trust_remote_code)
        check_runs(lm, tokenizer, name)
    if settings is None:
        settings = Settings(pooling=default_pooling(config))
    length = min(length or tokenizer.model_max_length, usable_positions(lm))
    if length >= 10**6:
        length = NO_LENGTH
        if max_length is None or max_length > length:
            note(f"{name} says no length: texts are cut at {length} tokens")
    length = length if max_length is None else min(length, max_length)
    check_attention(config, length, name)
    return lm, tokenizer, replace(settings, max_length=length)


def note(line: str) -> None:
    tell(f"note: {line}")


def listing(root: Path) -> Path:
    """Where the hub's client keeps the list of all files of a snapshot, if it has asked for one."""
    return root.parent.parent / "trees" / f"{root.name}.json"


def read_settings(root: Path) -> tuple[Path, Settings | None, int | None]:
    """A model directory's language model, its settings but for the length, and the length that its modules give.

    A plain transformers directory has neither. Raises UserError where the modules are anything else than a language
    model, one of our poolings, and normalisation: the result would silently be another embedding.
    """
    file, modules = root / "modules.json", read_modules(root)
    if not file.exists():
        if not (root / "config.json").exists():
            check_adapter(root)
            raise UserError(f"{root} is no model directory: it has neither modules.json nor config.json")
        return root, None, None
    for number, (kind, path) in enumerate(modules):
        cut = {"Dense"} if number == 2 and is_cut(root / path) else set()
        if kind not in {0: {"Transformer"}, 1: {"Pooling"}}.get(number, {"Normalize"} | cut):
            raise UserError(
                f"{file}: module {number} ('{path}') is {kind}, so this is not a language model + pooling (+ "
                "normalisation), and its vectors cannot be computed here"
            )
    if len(modules) < 2:
        raise UserError(f"{file}: one of Transformer and Pooling is missing: this is not a language model + pooling")
    folder = root / modules[0][1]
    length = read_length(folder)
    pooling, include_prompt = read_pooling(root / modules[1][1] / "config.json")
    settings = Settings(pooling=pooling, include_prompt=include_prompt)
    kinds = dict(modules)
    file = root / "config_sentence_transformers.json"
    if file.exists():
        settings = read_prompts(file, settings, normalized="Normalize" in kinds)
    if "Dense" in kinds:
        width = read_json(root / kinds["Dense"] / "config.json")["out_features"]
        settings = replace(settings, truncate_dim=min(settings.truncate_dim or width, width))
    return folder, settings, length


def is_cut(folder: Path) -> bool:
    """Whether a Dense module keeps the first numbers of a vector as they are and no others, as exports write it."""
    file, weights = folder / "config.json", folder / "model.safetensors"
    if not (file.exists() and weights.exists()):
        return False
    config, weights = read_json(file), load_file(weights)
    known = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
    names = {config.get(key, "sentence_embedding") for key in ("module_input_name", "module_output_name")}
    identity = config.get("activation_function") == "torch.nn.modules.linear.Identity"
    if not identity or config.keys() - known or names != {"sentence_embedding"} or weights.keys() != {"linear.weight"}:
        return False
    weight = weights["linear.weight"]
    stated = [config.get(key) for key in ("out_features", "in_features")]
    return stated == list(weight.shape) and torch.equal(weight, torch.eye(*weight.shape, dtype=weight.dtype))


def read_length(folder: Path) -> int | None:
    """The maximum length in sentence-transformers' settings of a language model.

    Raises UserError where they ask for anything that is not done here.
    """
    file, settings = read_transformer(folder)
    for key, value in settings.items():
        given = {key: value}
        if key in ARGUMENTS and isinstance(value, dict):
            given = {f"{key}.{name}": part for name, part in value.items() if name not in NEUTRAL_ARGUMENTS}
        elif key in READ or not value or NEUTRAL.get(key) == value:
            given = {}
        for name, part in given.items():
            raise UserError(f"{file}: {name}={part!r} is not supported here, and the vectors would differ without it")
    text = (settings.get("modality_config") or {}).get("text")
    if text is not None and text != {"method": "forward", "method_output_name": "last_hidden_state"}:
        raise UserError(f"{file}: modality_config.text={text} is not the last layer of the language model")
    length = settings.get("max_seq_length")
    if length is not None and not (isinstance(length, int) and length > 2):
        raise UserError(f"{file}: max_seq_length={length!r} must be a number of tokens, or null")
    return length


def read_pooling(file: Path) -> tuple[str, bool]:
    """The pooling, and whether a prompt's tokens take part in it, of a Pooling module's config.json."""
    config = read_json(file)
    flags = {key: bool(value) for key, value in config.items() if key.startswith("pooling_mode_")}
    modes = config.get("pooling_mode", [POOLING_FLAGS.get(key, key) for key, on in flags.items() if on] or ["mean"])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(f"{file}: pooling_mode={modes}; this encoder pools by one of {', '.join(POOLINGS)}")
    include = config.get("include_prompt", True)
    if not isinstance(include, bool):
        raise UserError(f"{file}: include_prompt={include!r} must be true or false")
    return POOLINGS[modes[0]], include


def read_prompts(file: Path, settings: Settings, normalized: bool) -> Settings:
    """Prompts and the cut of the vectors from config_sentence_transformers.json.

    What is compared by another measure than the cosine is said. Raises UserError where a key holds what it cannot.
    """
    config = read_json(file)
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UserError(f"{file}: model_type={kind}: only models of one vector a text (SentenceTransformer) are read")
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(words, str | None) for words in prompts.values()):
        raise UserError(f"{file}: prompts={prompts!r} must give words by name")
    prompts = {name: words or "" for name, words in prompts.items()}
    default = config.get("default_prompt_name")
    if default in ("query", "document") and default not in prompts:  # which sentence-transformers adds, without words
        default = None
    if default is not None and default not in prompts:
        known = ", ".join(prompts) or "none"
        raise UserError(f"{file}: default_prompt_name={default!r} is not one of its prompts ({known})")
    width = config.get("truncate_dim")
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
        raise UserError(f"{file}: truncate_dim={width!r} must be a number of dimensions, or null")
    measure = config.get("similarity_fn_name") or "cosine"
    if measure == "manhattan" or (measure != "cosine" and not normalized):
        note(f"{file}: made to be compared by {measure}; here vectors have unit length and are compared by the cosine")
    return replace(settings, prompts=prompts, default_prompt=default, truncate_dim=width)


def default_pooling(config: PretrainedConfig) -> str:
    """Choose the pooling of a directory without modules as sentence-transformers does: last for next-token models."""
    predicts = str((config.architectures or [""])[0]).endswith("ForCausalLM")
    return "last" if predicts and getattr(config, "is_causal", True) else "mean"


def read_config(folder: str | Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of a language model. Raises UserError for one that has code of the hub run for its attention.

    transformers fetches and loads such a kernel, whatever `trust_remote_code` says, where it finds the package for it.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if "/" in str(config._attn_implementation) and not trust_remote_code:
        raise UserError(
            f"{folder}: its config.json wants code of the hub to run, attn_implementation={config._attn_implementation}"
            "; take that line out"
        )
    if config.is_encoder_decoder and config.model_type not in ENCODERS:
        raise UserError(
            f"{folder}: a {config.model_type} is an encoder and a decoder; of such models only the encoders of "
            f"{', '.join(ENCODERS)} are read"
        )
    if getattr(config, "use_cache", False):
        config.use_cache = False  # keys and values of a decoder, kept for the next token
    return config


def new_model(config: PretrainedConfig) -> nn.Module:
    """The language model of a configuration, of random weights in float32."""
    if config.model_type in ENCODERS:
        return getattr(transformers, ENCODERS[config.model_type])._from_config(config, dtype=torch.float32)
    return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)


def find_weights(folder: Path) -> list[Path]:
    """The files of a language model's weights: safetensors, else pickles; a single file, else its parts."""
    for patterns in WEIGHTS:
        for pattern in patterns:
            if files := sorted(folder.glob(pattern)):
                return files
    return []


def load_weights(folder: Path, config: PretrainedConfig, trust_remote_code: bool) -> nn.Module:
    """The language model of a directory, every weight of it from a file; a pooler that has none is zero.

    Pickles are read without running code. A prefix that all keys have in common with no key of the model (`module.`,
    `model.`, `0.auto_model.`) is taken off. Raises UserError that names the first missing weight, or one of another
    shape.
    """
    if any(file.suffix == ".bin" for file in find_weights(folder)):
        read_weights(folder)  # says what is wrong with a pickle, where transformers says how to run its code
    encoder = ENCODERS.get(config.model_type)
    kind = getattr(transformers, encoder) if encoder else AutoModel
    options = {"config": config, "dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the table of keys; what matters in it is said below
    try:
        lm, found = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code, **options)
        lacks = missing_weights(lm, found)
        if lacks and (weights := without_prefix(folder, lacks)):
            lm, found = type(lm).from_pretrained(None, state_dict=weights, **options)
    finally:
        transformers_logging.set_verbosity(verbosity)
    if found["mismatched_keys"]:
        key, there, here = min(found["mismatched_keys"])
        raise UserError(
            f"{folder}: the weight {key} is {tuple(there)} in the file and {tuple(here)} by config.json; they do not "
            "belong together"
        )
    if lacks := missing_weights(lm, found):
        file, *_ = find_weights(folder) or [folder]
        raise UserError(f"{file} has no {lacks[0]} ({len(lacks)} of {len(lm.state_dict())} weights are missing)")
    for name, parameter in lm.named_parameters():
        if name in found["missing_keys"]:
            nn.init.zeros_(parameter)  # not random: equal files are equal models
    return lm.eval()


def missing_weights(lm: nn.Module, found: dict) -> list[str]:
    """The weights, in the model's order, that no file gave; a pooler that is not used here may be among them."""
    return [key for key in lm.state_dict() if key in found["missing_keys"] and not key.startswith("pooler.")]


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a directory by their names in the files."""
    weights = {}
    for file in find_weights(folder):
        weights |= load_file(file) if file.suffix == ".safetensors" else load_pickle(file, "weights")
    return weights


def load_pickle(file: Path, what: str, **options) -> dict:
    """The content of a file that torch.save wrote; none of its code runs. Raises UserError where it needs any."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, **options)
    except Exception as error:  # torch raises many kinds for a truncated, foreign or pickled file
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        why = f"it would run {foreign[1]}" if foreign else first_line(error)
        if "weights_only" in why:  # advice to run it
            why = "torch.save has not written it, or not all of it"
        raise UserError(f"cannot read the {what} {file}: {why}") from error


def without_prefix(folder: Path, missing: list[str]) -> dict[str, torch.Tensor] | None:
    """The weights of a directory without the one prefix under which most missing keys are found; None where none is."""
    named = read_weights(folder).items()
    weights = {key.replace("_orig_mod.", ""): value for key, value in named}  # of torch.compile, anywhere
    wanted = set(missing)
    prefixes: Counter[str] = Counter()
    for key in weights:
        parts = key.split(".")
        prefixes.update(".".join(parts[:n]) for n in range(len(parts)) if ".".join(parts[n:]) in wanted)
    (prefix, count), *others = prefixes.most_common(2) or [("", 0)]
    if not count or (others and others[0][1] == count):  # two towers
        return None
    start = f"{prefix}." if prefix else ""
    return {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}


def check_runs(lm: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises UserError where a language model does not turn the tokenizer's ids into one vector a token."""
    encoded = tokenizer("a")
    ids = torch.tensor([encoded["input_ids"] or [0]])
    try:
        entries = lm.get_input_embeddings().num_embeddings
        if entries >= len(tokenizer):
            with torch.inference_mode():
                shape = lm(input_ids=ids).last_hidden_state.shape
    except Exception as error:  # of every kind, by what the model is
        kind = type(lm).__name__
        raise UserError(
            f"{name}: a {kind} does not turn the ids of a text into vectors: {first_line(error)}"
        ) from error
    if entries < len(tokenizer):
        raise UserError(
            f"{name}: the tokenizer has {len(tokenizer)} entries, the model only {entries}; they do not belong together"
        )
    if shape != (*ids.shape, lm.config.hidden_size):
        raise UserError(f"{name}: a {type(lm).__name__} gives {tuple(shape)} for {ids.shape[1]} tokens, no vector each")
    if any(encoded.get("token_type_ids") or []) and "token_type_ids" in inspect.signature(lm.forward).parameters:
        raise UserError(f"{name}: its tokenizer marks tokens by token_type_ids, which are not given to the model here")
    if not keeps_apart(lm, ids, tokenizer.pad_token_id or 0):
        raise UserError(
            f"{name}: a {type(lm).__name__} gives a text other vectors beside a longer one: it does not mask padding"
        )


@torch.inference_mode()
def keeps_apart(lm: nn.Module, ids: torch.Tensor, pad: int) -> bool:
    """Whether a text [1, L] has the vectors of it alone when it is padded to the length of another."""
    alone = lm(input_ids=ids).last_hidden_state
    longer = ids.repeat(1, 4)
    padded = nn.functional.pad(ids, (0, longer.shape[1] - ids.shape[1]), value=pad)
    mask = (torch.arange(longer.shape[1]) < torch.tensor([[ids.shape[1]], [longer.shape[1]]])).long()
    beside = lm(input_ids=torch.cat([padded, longer]), attention_mask=mask).last_hidden_state[:1, : ids.shape[1]]
    return not (beside - alone).abs().max() > 1e-3 * alone.abs().max()  # also of damaged weights, which have a line


def check_attention(config: PretrainedConfig, length: int, name: str) -> None:
    """Raises UserError for a BigBird that would read long texts by blocks only until a short one comes.

    From then on transformers computes all of them by full attention, so vectors would depend on the texts before.
    """
    if config.model_type != "big_bird" or config.attention_type == "original_full":
        return
    full = (5 + 2 * config.num_random_blocks) * config.block_size  # tokens up to which it is full anyway
    if length > full:
        raise UserError(
            f"{name}: config.json: attention_type={config.attention_type} gives texts of more than {full} tokens other "
            f"vectors after a shorter one; set it to original_full, or max_seq_length={full} in "
            "sentence_bert_config.json"
        )
