"""Models out: an Encoder becomes a directory that others load, and the directory goes to the model hub."""

import json
import re
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id
from safetensors.torch import save_file

from gte.early import check_result
from gte.encoder import Encoder
from gte.errors import UserError, first_line
from gte.files import whole, write_json
from gte.hub import hub_reachable
from gte.models.averaging import average_last, mix
from gte.models.base import published
from gte.models.broken import broken
from gte.models.card import chosen_by, find_scores, hub_results, model_card
from gte.models.load import HISTORY_FILE, history, load_encoder, truncate, weights_checksum
from gte.models.onnx import Comparison, check_graph, require_onnx, write_onnx
from gte.models.pretrained import POOLING_FLAGS, POOLINGS
from gte.provenance import git_commit
from gte.remote import find_checkpoint

# that every version of sentence-transformers knows; the others are written only where they are true
OLDEST_FLAGS = [
    "pooling_mode_cls_token",
    "pooling_mode_mean_tokens",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
]
# what an export writes, or a loader would take in its place: of an earlier push it would lie beside other weights
OWNED = re.compile(
    r"onnx/.*|\.eval_results/.*|\d_(Transformer|Pooling|Dense|Normalize)/.*|"
    r"model[^/]*\.safetensors(\.index\.json)?|pytorch_model[^/]*|"
    r"(modules|config_sentence_transformers|sentence_[\w-]+_config|training)\.json|"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|"
    r"(vocab|merges)\.txt|(spiece|sentencepiece|sentencepiece\.bpe|tokenizer)\.model"
)


@dataclass(frozen=True)
class Weights:
    """Choice of the weights of a checkpoint that are exported.

    Attributes:
        average_last: the mean of so many last checkpoints of the run; None takes the last one's.
        mix_with: another checkpoint of the same model, which gives `mix_share` of the weights.
        mix_share: from 0 to 1; None is 0.5.
    """

    average_last: int | None = None
    mix_with: str | None = None
    mix_share: float | None = None


def export(
    checkpoint: str | Path,
    out: Path,
    name: str,
    *,
    results: str | None = None,
    onnx: bool = False,
    int8: bool = False,
    sts: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    weights: Weights | None = None,
    truncate_dim: int | None = None,
    trust_remote_code: bool = False,
) -> list[Comparison]:
    """Export a checkpoint to a directory that sentence-transformers and transformers load, with a model card.

    Args:
        checkpoint: anything that `load_encoder` takes.
        out: the directory, its weights as safetensors only; an exported model there is replaced.
        name: of the model, for its card.
        results: an evaluation's results.json, or its folder, for the card and for .eval_results/, which the hub shows.
        onnx, int8: whether onnx/model.onnx, and onnx/model_int8.onnx, are written.
        sts: folder of an STS task on whose sentences the ONNX graphs are compared.
        license, language: for the card, None as in `model_card`; weights: None takes those of the last step.
        truncate_dim: width of the unit vectors that every loader gives; None is the model's own. All weights stay.
        trust_remote_code: run the Python files that a model directory brings along.
    Returns: the comparisons of the ONNX graphs with the PyTorch model.
    Raises: UserError where `out` holds something else than a model directory, and for weights that are of no use.

    >>> import tempfile
    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/checkpoint")
    ...     _ = export(f"{folder}/checkpoint", Path(folder) / "model", name="tiny")
    ...     (Path(folder) / "model" / "modules.json").exists()
    True
    """
    check_result(out)
    if onnx or int8:
        require_onnx()
    encoder, stages = intact_model(checkpoint, weights or Weights(), trust_remote_code)
    uncut = weights_checksum(encoder) if results and truncate_dim is not None else None
    truncate(encoder, truncate_dim)
    if onnx or int8:
        check_graph(encoder.settings)
    scores = find_scores(Path(results), encoder, uncut) if results else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as folder:
        folder.mkdir()
        write_model(encoder, folder)
        comparisons = write_onnx(encoder, folder / "onnx", int8, sts) if onnx or int8 else []
        write_json(folder / HISTORY_FILE, stages)
        said = {"scores": scores, "comparisons": comparisons, "license": license, "language": language}
        said["source"] = None if stages else find_checkpoint(checkpoint)
        (folder / "README.md").write_text(model_card(encoder, stages, name, git_commit(), **said))
        write_hub_results(scores, folder / ".eval_results")
    return comparisons


def intact_model(checkpoint: str | Path, weights: Weights, trust_remote_code: bool) -> tuple[Encoder, list[dict]]:
    """The encoder to export and the stages that made it. Raises UserError for weights that are of no use."""
    averaged = weights.average_last
    encoder = average_last(checkpoint, averaged) if averaged else load_encoder(checkpoint, trust_remote_code)
    if wrong := broken(encoder):
        raise UserError(
            f"{checkpoint} is not exported: {wrong}; name an earlier checkpoint of its run, RUN/step-*.ckpt"
        )
    said = f"the mean of {averaged} checkpoints" if averaged else None
    stages = history(checkpoint)
    if weights.mix_with is not None:
        share = 0.5 if weights.mix_share is None else weights.mix_share
        mix(encoder, weights.mix_with, share)
        own = said or weights_of(stages)
        said = f"{1 - share:g} × {own} + {share:g} × {published(weights.mix_with)}"
    if said and stages:
        stages[-1] = stages[-1] | {"averaged": said}
    return encoder, stages


def weights_of(stages: list[dict]) -> str:
    """The weights of a checkpoint in words: the mean that its history says they are, or those of a step, and why."""
    last = stages[-1] if stages else {}
    if said := last.get("averaged"):
        return f"({said})" if " × " in said else said
    chosen = chosen_by(last) if last else None
    return f"those of step {last.get('steps', 0):,}" + (f" (chosen by {chosen})" if chosen else "")


def write_hub_results(scores: dict | None, folder: Path) -> None:
    """Writes the scores as the hub shows them, a file a task; no folder where it shows none of them."""
    files = hub_results(scores) if scores else {}
    for task, text in files.items():
        folder.mkdir(exist_ok=True)
        (folder / f"{task}.yaml").write_text(text)


def write_model(encoder: Encoder, folder: Path) -> None:
    """Weights, tokenizer, and the modules by which sentence-transformers pools and normalises."""
    encoder.save(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    if config.get("tokenizer_class") == "TokenizersBackend":  # transformers 5's name, which 4 does not know
        write_json(file, config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    settings = encoder.settings
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if settings.truncate_dim is not None:
        modules.append(("2_Dense", "Dense"))
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    if settings.truncate_dim is not None:
        write_cut(folder / "2_Dense", encoder.width, encoder.dimensions)
    pooling = {"word_embedding_dimension": encoder.width} | {flag: False for flag in OLDEST_FLAGS}
    pooling[next(flag for flag, mode in POOLING_FLAGS.items() if POOLINGS.get(mode) == settings.pooling)] = True
    if not settings.include_prompt:
        pooling["include_prompt"] = False
    prompts = {"prompts": settings.prompts, "default_prompt_name": settings.default_prompt}
    files = {
        # names as every version of sentence-transformers reads them
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
        "sentence_bert_config.json": {"max_seq_length": encoder.max_length, "do_lower_case": False},
        "config_sentence_transformers.json": prompts | {"similarity_fn_name": "cosine"},
        "1_Pooling/config.json": pooling,
    }
    for file, content in files.items():
        write_json(folder / file, content)


def write_cut(folder: Path, width: int, dimensions: int) -> None:
    """The cut of vectors [width] to their first numbers as a module, a product with ones and zeros, which is exact.

    sentence-transformers' own `truncate_dim` cuts behind all modules: what it leaves has not the length 1.
    """
    config = {"in_features": width, "out_features": dimensions, "bias": False}
    write_json(folder / "config.json", config | {"activation_function": "torch.nn.modules.linear.Identity"})
    save_file({"linear.weight": torch.eye(dimensions, width)}, folder / "model.safetensors", {"format": "pt"})


def check_push(repository: str) -> None:
    """UserError where a push is bound to fail: no such name is allowed, no network, no token. Asks the hub nothing."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"push={repository} is no name on the hub: {str(error).splitlines()[0]}") from error
    if not hub_reachable():
        raise UserError(f"push={repository}: the hub ({constants.ENDPOINT}) cannot be reached; export without push=")
    if get_token() is None:
        raise UserError(f"push={repository} needs a token that may write: set HF_TOKEN, or log in by `hf auth login`")


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Uploads an exported directory to the hub and returns its address there.

    A repository that does not exist yet is made, private or public; of one that exists, this is left as it is. Files of
    an earlier export that this one lacks are deleted there, all others stay. The token is the hub client's own:
    HF_TOKEN, or that of its login.
    """
    disable_progress_bars()
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        stale = [escape(file) for file in api.list_repo_files(repository) if is_stale(file, folder)]
        message = f"Export of {git_commit()}"
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, delete_patterns=stale)
    except Exception as error:  # the client has errors of its own and lets through those of its HTTP library
        reason = first_line(error)
        raise UserError(f"{folder} is complete, but the hub did not take it as {repository}: {reason}") from error
    return str(address)


def is_stale(file: str, folder: Path) -> bool:
    """Whether a file of a repository belongs to an export, and is not of the one in `folder`."""
    return bool(OWNED.fullmatch(file)) and not (folder / file).exists()
