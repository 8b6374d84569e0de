"""Results as mteb's board takes them: `results/<model>/<revision>/<task>.json` and model_meta.json, by mteb's classes.

The board is a repository of such folders; `mteb.ResultCache(out).submit_results(...)` opens a request to take one in.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import datasets
import mteb
from huggingface_hub import constants
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult
from pydantic import ValidationError

from gte.errors import UserError, did_you_mean, first_line
from gte.evaluation.local import eval_split
from gte.evaluation.model import EncoderModel
from gte.evaluation.tasks import Task, known
from gte.models.base import base_of, card_facts
from gte.models.card import catalogue_sources, own_sources
from gte.models.load import history
from gte.remote import find_checkpoint

CODE = ["CodeSearchNetRetrieval", "COIRCodeSearchNetRetrieval", "CodeSearchNetCCRetrieval"]
# of our sources the data that mteb scores too, by mteb's name; mteb itself adds the sets that are made from these
SCORED_TOO = {
    "berri": ["FEVER", "HotpotQA", "MSMARCO", "NQ", "QuoraRetrieval"],
    "dbpedia": ["DBPedia"],  # titles and abstracts of its corpus, no query of it
    "codesearchnet": CODE,
    "debate_args": ["Touche2020"],  # titles and arguments of its corpus, no query of it
    "fever": ["FEVER"],
    "hotpotqa": ["HotpotQA"],
    "lighton_beir_dbpedia": ["DBPedia"],
    "lighton_codesearchnet": CODE,
    "lighton_ft_fever": ["FEVER"],
    "lighton_ft_fiqa": ["FiQA2018"],
    "lighton_ft_hotpotqa": ["HotpotQA"],
    "lighton_ft_msmarco": ["MSMARCO"],
    "lighton_ft_nq": ["NQ"],
    "lighton_msmarco": ["MSMARCO"],
    "lighton_quora": ["QuoraRetrieval"],
    "medi": ["FEVER", "HotpotQA", "MSMARCO", "NQ", "QuoraRetrieval"],
    "mind": ["MindSmallReranking"],  # titles and abstracts of its news, no click
    "msmarco": ["MSMARCO"],
    "msmarco_documents": ["MSMARCO"],
    "nomic_codesearch": CODE,
    "nomic_quora": ["QuoraRetrieval"],
    "nq": ["NQ"],
    "quora": ["QuoraRetrieval"],
}
# of mteb's fields those that a user may state: what a checkpoint and its history do not say
STATED = (
    "citation", "contacts", "languages", "license", "open_weights", "public_training_code", "public_training_data",
    "reference", "release_date", "revision", "superseded_by", "training_datasets",
)  # fmt: skip
NOT_KNOWN = dict.fromkeys(name for name, field in ModelMeta.model_fields.items() if field.is_required())
NOT_KNOWN |= {"framework": []}


def newer(name: str) -> str | None:
    """The version by which mteb has replaced a task, the last of them; None where it is the last, or not mteb's."""
    task, found = known(name), None
    while task is not None and task.metadata.superseded_by is not None:
        found = task.metadata.superseded_by
        task = known(found)
    return found


def official_split(name: str) -> str:
    """The split that a task's score is of, where none is chosen."""
    task = known(name)
    return "test" if task is None else eval_split(task)


def in_cache(task: Task) -> bool:
    """Whether data of a task may lie in the hub client's caches from an earlier evaluation."""
    paths = [part.metadata.dataset["path"] for part in task.parts]
    return any(
        (Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}").is_dir()
        or any(datasets.config.HF_DATASETS_CACHE.glob(f"{path.partition('/')[0]}___*"))
        for path in paths
    )


def revision_of(parts: list[AbsTask]) -> str:
    """The hub's revision of a task's data; of local files their checksum, since nobody says that they are the same."""
    folders = [part.folder for part in parts if getattr(part, "folder", None) is not None]
    if not folders:
        return parts[0].metadata.revision
    checksums = [folder.checksum for folder in folders]
    if len(checksums) == 1:
        return checksums[0]
    return f"sha256:{hashlib.sha256(' '.join(checksums).encode()).hexdigest()}"


def parts_of(task: Task) -> list[dict]:
    """Main score of each part of a task that was run, in points of 100, with what the hub needs to show it.

    `dataset` is None where the hub has no such score: of a task that is not mteb's, or of another split than it scores.
    `whole`: whether all parts together are all that mteb has of the task under that name.
    """
    found = []
    for part in task.parts:
        shown = known(part.metadata.name) is not None and eval_split(part) in part.metadata.eval_splits
        own = [other for other in task.parts if other.metadata.name == part.metadata.name]
        there = (set(part.metadata.eval_splits), set(part.metadata.hf_subsets))
        here = ({eval_split(other) for other in own}, {other.hf_subsets[0] for other in own})
        found.append(
            {
                "task": part.metadata.name,
                "dataset": part.metadata.dataset["path"] if shown else None,
                "revision": revision_of([part]),
                "split": eval_split(part),
                "subset": part.hf_subsets[0],
                "score": round(100 * float(next(iter(part.mteb_scores.values()))["main_score"]), 5),
                "whole": here == there,
            }
        )
    return found


def task_results(task: Task, seconds: float) -> list[TaskResult]:
    """A task that was run as mteb writes it, of a task of several the parts and their mean; empty of one not mteb's.

    seconds: what all of it took.
    """
    official = known(task.name)
    if official is None:
        return []
    by_name: dict[str, list[AbsTask]] = {}
    for part in task.parts:
        by_name.setdefault(part.metadata.name, []).append(part)
    results = []
    for parts in by_name.values():
        scores: dict[str, dict] = {}
        for part in parts:
            scores.setdefault(eval_split(part), {}).update(part.mteb_scores)
        result = TaskResult.from_task_results(
            parts[0], scores, evaluation_time=seconds / len(by_name), date=datetime.now(UTC)
        )
        results.append(result.model_copy(update={"dataset_revision": revision_of(parts)}))
    if isinstance(official, AbsTaskAggregate):
        mean = official.combine_task_results(results)
        results.append(mean.model_copy(update={"dataset_revision": revision_of(task.parts), "kg_co2_emissions": None}))
    return results


def model_meta(label: str, checkpoint: str, model: EncoderModel, stated: dict) -> ModelMeta:
    """Describe a model to mteb, as far as its checkpoint does; a fact that nobody gave is None.

    label: owner/name on the hub; the name of a model that was loaded from there is its own, any other label becomes
    local/label. The revision is the hub's commit, else the first 40 digits of the weights' checksum. stated: fields
    that `check_stated` let through; they come before ours.
    """
    facts, lm = model.describe(), model.encoder.lm
    stages = history(checkpoint)
    base, stated_of_base = base_of(stages)
    own = card_facts(Path(checkpoint) / "README.md")
    licence = own.get("license") or stated_of_base.get("license")
    settings = model.encoder.settings
    embeddings = lm.get_input_embeddings() if hasattr(lm, "get_input_embeddings") else None
    of_hub = "/" in checkpoint and isinstance(find_checkpoint(checkpoint), str)
    name = next((name for name in (label, of_hub and checkpoint) if name and name.count("/") == 1), None)
    fields = NOT_KNOWN | {
        "name": name or f"local/{label.replace('/', '_')}",
        "revision": getattr(lm.config, "_commit_hash", None) or facts["weights"].removeprefix("sha256:")[:40],
        "languages": ["eng-Latn"] if stages and not own_sources(stages) else None,  # of all conf/source
        "n_parameters": facts["parameters"],
        "n_embedding_parameters": embeddings and embeddings.weight.numel(),
        "memory_usage_mb": round(4 * facts["parameters"] / 2**20),  # of float32, as export writes it
        "max_tokens": facts["max_length"],
        "embed_dim": facts["width"],
        "license": None if refusal("license", licence) else licence,  # a card may name one that mteb has no word for
        "open_weights": True if getattr(lm.config, "_commit_hash", None) else None,
        "framework": ["Sentence Transformers", "PyTorch", "safetensors"],
        "similarity_fn_name": "cosine",
        "use_instructions": any(settings.prompts.values()),
        "training_datasets": scored_too(stages) if stages else None,
        "adapted_from": base if isinstance(base, str) else None,
    }
    return ModelMeta(**fields | stated)


def check_stated(stated: dict) -> None:
    """UserError for a user's facts about a model, {field: value}, if it is no field of `STATED` or mteb refuses it."""
    for key, value in stated.items():
        if key not in STATED:
            near = did_you_mean(key, STATED)
            raise UserError(f"board.{key} is not read{near or '; of it are read: ' + ', '.join(STATED)}")
        if wrong := refusal(key, value):
            raise UserError(f"board.{key}={value}: mteb does not take it: {wrong}")


def refusal(key: str, value: object) -> str | None:
    """Why mteb does not take a value of a field; None where it does."""
    try:
        ModelMeta(**NOT_KNOWN | {key: value})
    except ValidationError as error:
        return first_line(ValueError(error.errors()[0]["msg"]))
    return None


def scored_too(stages: list[dict]) -> set[str]:
    """mteb's names of the data that stages were trained on."""
    found: set[str] = set()
    for source in catalogue_sources(stages):
        source = source.replace("lighton_curated_", "lighton_", 1)  # a group has the name of the same data alone
        found.update(SCORED_TOO.get(source, ()))
    return found


def write_board(out: Path, label: str, checkpoint: str, model: EncoderModel, results: list[dict], stated: dict) -> str:
    """Writes a model's finished tasks (`task_results` as JSON) under out/results; a line that says where.

    The line also names sources of the user's own, of which nobody knows whether mteb scores their data. See
    `model_meta` for the other arguments.
    """
    meta = model_meta(label, checkpoint, model, stated)
    cache = mteb.ResultCache(out)
    for result in results:
        cache.save_to_cache(TaskResult.model_validate(result), meta, encode_kwargs={"autocast": model.precision})
    own = own_sources(history(checkpoint))
    place = out / "results" / meta.model_name_as_path() / meta.revision
    if not own or "training_datasets" in stated:
        return f"for mteb's board: {place}"
    return f"for mteb's board: {place}; say by board.training_datasets what of {', '.join(sorted(own))} mteb scores"
