"""The model card of an exported directory, in the hub's format: use, scores, training stages, data and licences."""

import json
from itertools import groupby
from math import nan
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from gte.data.groups import family_of
from gte.data.sources import LOCAL, load_source
from gte.encoder import Encoder
from gte.errors import UserError
from gte.metrics import notes_on
from gte.models.base import LICENCE, base_of, published
from gte.models.load import weights_checksum
from gte.models.onnx import Comparison
from gte.provenance import segments_of, sources_of_stage
from gte.settings import Settings

PAPER = "Li et al. 2023, arXiv:2308.03281"


def find_scores(results: Path, encoder: Encoder, uncut: str | None = None) -> dict:
    """Find the entry of a results.json for the model of these weights, with the evaluation's commit and date.

    An entry of vectors that were cut to another width, or kept as codes, is not the model's. uncut: checksum of the
    same model before its vectors were cut, whose entry of this width is as good.

    Raises UserError where it is no result of this project's, and where no model in it has the weights.
    """
    file = results / "results.json" if results.is_dir() else results
    if not file.is_file():
        raise UserError(f"results={results}: there is no file {file}; name the results.json of an evaluation")
    try:
        content = json.loads(file.read_text())
        models = content["models"]
        run = {key: content[key] for key in ("commit", "created")} | {"mteb": content.get("versions", {}).get("mteb")}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is no results.json of an evaluation") from error
    checksums, width = {weights_checksum(encoder), uncut} - {None}, encoder.dimensions
    for label, entry in models.items():
        whole = entry.get("width", width) == width and entry.get("vectors", "float32") == "float32"
        if entry.get("weights") in checksums and whole:
            return {**entry, **run, "label": label}
    raise UserError(
        f"{file} scores no model of these weights at width {width} (it has: {', '.join(models)}); "
        "evaluate this checkpoint"
    )


def model_card(
    encoder: Encoder,
    stages: list[dict],
    name: str,
    commit: str,
    *,
    scores: dict | None = None,
    comparisons: list[Comparison] = (),
    license: str | None = None,
    language: str | list[str] | None = None,
    source: str | Path | None = None,
) -> str:
    """Write the model card of an exported model.

    Args:
        encoder: the model.
        stages: its training stages, as `gte.models.load.history` gives them.
        name: of the model, as a user loads it.
        commit: of the checkout that exports it.
        scores: of `find_scores`; they go into the hub's metadata too.
        comparisons: of the ONNX graphs with the PyTorch model.
        license: None is the base model's.
        language: None is English where all sources are of conf/source; without stages what the source's card says.
        source: directory or hub name of a model without stages, whose card says its licence, language and data.
    Returns: the text of README.md.

    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> "16 dimensions" in model_card(model, [], name="tiny", commit="unknown")
    True
    """
    parameters = sum(p.numel() for p in encoder.parameters())
    method = f" Trained by multi-stage contrastive learning ({PAPER})." if stages else ""
    lines = [
        "---",
        metadata(name, scores, license, stages, language, source).strip(),
        "---",
        f"# {name}",
        "",
        f"A text-embedding model: {parameters / 1e6:.1f}M parameters, {encoder.dimensions} dimensions, texts of up to "
        f"{encoder.max_length} tokens, pooling by {encoder.settings.pooling}, cosine similarity.{method}",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("{name}")',
        'embeddings = model.encode(["a query", "a document"])',
        "print(model.similarity(embeddings, embeddings))",
        "```",
    ]
    lines += prompt_lines(encoder.settings) if any(encoder.settings.prompts.values()) else []
    lines += score_lines(scores) if scores else []
    if comparisons:
        lines += onnx_lines(name, encoder, comparisons)
    for number, stage in enumerate(stages, 1):
        lines += stage_lines(number, stage)
    lines += [] if stages else ["", "How it was trained is not recorded in the checkpoint."]
    lines += ["", "## Configuration", "", "```json", encoder.lm.config.to_json_string().strip(), "```", ""]
    return "\n".join([*lines, f"Exported at commit {commit}."]) + "\n"


def own_sources(stages: list[dict]) -> set[str]:
    """The sources of stages that are a user's own files: those that conf/source does not describe.

    A record of an earlier version has no categories: of it whatever has no name in conf/source counts as such.
    """
    found = set()
    for stage in stages:
        for segment in segments_of(stage):
            for name, facts in segment["sources"].items():
                category = facts.get("category")
                if category == LOCAL or (category is None and family_of(name) is None):
                    found.add(name)
    return found


def catalogue_sources(stages: list[dict]) -> list[str]:
    """The other sources of stages, those that conf/source describes. A file in a later stage may have such a name."""
    found = []
    for stage in stages:
        own = own_sources([stage])
        found += [name for name in sources_of_stage(stage) if name not in own]
    return found


def datasets_of(stages: list[dict]) -> list[str]:
    """The hub's names of the data that stages were trained on, of those of our sources that are published there."""
    names = dict.fromkeys(family_of(source) for source in catalogue_sources(stages))
    return list(dict.fromkeys(hub for name in names if name and (hub := load_source(name).hub)))


def hub_results(scores: dict) -> dict[str, str]:
    """Task -> content of .eval_results/<task>.yaml, the hub's own form of a score, with mteb's names of its parts.

    Of tasks whose data came from the hub; of local files nobody says that they are the benchmark's.
    """
    how = f"mteb {scores['mteb']}, {scores['precision']}, commit {scores['commit']}"
    by_task: dict[str, list[dict]] = {}
    for task in scores["tasks"].values():
        for part in task.get("parts", ()):
            if task["source"] == "hub" and part["dataset"] is not None:
                by_task.setdefault(part["task"], []).append(part)
    files = {}
    for name, parts in by_task.items():
        values = {f"{name}_{part['subset']}_{part['split']}": part["score"] for part in parts}
        if all(part["whole"] for part in parts):
            values[name] = sum(values.values()) / len(values)
        data = {"dataset_id": parts[0]["dataset"], "dataset_revision": parts[0]["revision"]}
        data |= {"date": scores["created"], "notes": how}
        entries = [EvalResultEntry(task_id=key, value=round(value, 5), **data) for key, value in values.items()]
        files[name] = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return files


def metadata(
    name: str,
    scores: dict | None,
    license: str | None,
    stages: list[dict],
    language: str | list[str] | None = None,
    source: str | Path | None = None,
) -> str:
    """The card's YAML head; scores as the hub's model-index. The licence is the base model's where none is given.

    All sources of conf/source are English; of a user's own files nobody knows. The data sets are those of the hub.
    """
    base, facts = base_of(stages, source)
    if language is None and not stages:
        language = facts.get("language")
    elif language is None and not own_sources(stages):
        language = "en"
    licence = {"license": license} if license else {key: facts[key] for key in LICENCE if key in facts}
    results = [
        EvalResult(
            task_type=task["type"],
            dataset_type=task_name,
            dataset_name=task_name,
            dataset_revision=task["data"] if task["source"] == "hub" else None,
            metric_type=task["metric"],
            metric_value=task["main_score"],
        )
        for task_name, task in (scores["tasks"] if scores else {}).items()
    ]
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", "text-embedding"],
        base_model=base,
        datasets=(datasets_of(stages) or None) if stages else facts.get("datasets"),
        language=language,
        **licence,
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def score_lines(scores: dict) -> list[str]:
    """The evaluation as a table of tasks."""
    tasks = scores["tasks"].items()
    notes = []
    for explained in notes_on(task["metric"] for _, task in tasks):
        notes += ["", f"{explained}."]
    return [
        "",
        "## Scores",
        "",
        f"In points of 100, in {scores['precision']}, evaluated {scores['created'][:10]} at commit {scores['commit']}.",
        "",
        "| task | kind | metric | score | data |",
        "|---|---|---|---:|---|",
        *(f"| {n} | {t['type']} | {t['metric']} | {t['main_score']:.2f} | {t['data'][:19]} |" for n, t in tasks),
        *notes,
    ]


def prompt_lines(settings: Settings) -> list[str]:
    """The words that belong before a text, by kind, and the kind that sentence-transformers takes by itself."""
    default = f"; '{settings.default_prompt}' where none is asked for" if settings.default_prompt else ""
    return [
        "",
        "## Prompts",
        "",
        f"Put before a text by `encode(texts, prompt_name=...)`{default}:",
        "",
        "```json",
        json.dumps(settings.prompts, indent=2, ensure_ascii=False),
        "```",
    ]


def onnx_lines(name: str, encoder: Encoder, comparisons: list[Comparison]) -> list[str]:
    """Describe the use of the ONNX graphs, and their distance from the PyTorch model."""
    side = encoder.tokenizer.truncation_side
    cut = f"{encoder.max_length}" + (f', direction="{side}"' if side != "right" else "")
    task = comparisons[0].task
    texts = f"{comparisons[0].texts:,} {f'sentences of {task}' if task else 'sample texts'}"
    dynamic = []
    if any("int8" in c.form for c in comparisons):
        dynamic = ["", "The int8 graph takes its ranges from the batch: a text's vector depends on what else is in it."]
    rows = [
        f"| {c.form} | {c.megabytes:.1f} | {c.mean_cosine:.5f} | {c.lowest_cosine:.5f} |"
        + ("" if c.spearman is None else f" {c.spearman:.2f} |")
        for c in comparisons
    ]
    return [
        "",
        "## ONNX",
        "",
        f"Cosine to the PyTorch model's embeddings over {texts}, on a CPU:",
        "",
        "| form | MB | mean cosine | lowest cosine |" + (f" {task}, Spearman |" if task else ""),
        "|---|---:|---:|---:|" + ("---:|" if task else ""),
        *rows,
        *dynamic,
        "",
        "With onnxruntime and tokenizers alone, a prompt as part of the text; the output is pooled and of unit length:",
        "",
        "```python",
        "import numpy, onnxruntime, tokenizers",
        "",
        'tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")',
        f"tokenizer.enable_truncation({cut})",
        "tokenizer.enable_padding()",
        'session = onnxruntime.InferenceSession("onnx/model.onnx")',
        'batch = tokenizer.encode_batch(["a query", "a document"])',
        'ids, mask = (numpy.array([getattr(text, part) for text in batch]) for part in ("ids", "attention_mask"))',
        '(embeddings,) = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})',
        "```",
        "",
        f'sentence-transformers with optimum: `SentenceTransformer("{name}", backend="onnx")`.',
    ]


def stage_lines(number: int, record: dict) -> list[str]:
    """One training stage: its facts, and its sources with their share of the batches (Eq. 4) and licences."""
    stage, segments = record["stage"], segments_of(record)
    batches = ", then ".join(str(size) for size, _ in groupby(segment["global_batch"] for segment in segments))
    mixing = f"weights {record['weights']}" if record.get("weights") else f"alpha = {record['alpha']}"
    schedule = record["optim"].get("schedule", "linear")
    options = {"temperature": record["temperature"]} if record.get("temperature") else {}
    stated = (record.get("loss_options") or {}).items()
    options |= {key: value for key, value in stated if value is not None and value is not False}
    if "guide" in options:
        options["guide"] = published(str(options["guide"]))
    if len(options.get("directions", ())) == 4:
        del options["directions"]  # all of Eq. 6
    facts = {
        "steps": f"{record['steps']} of {batches} pairs, groups of {stage['group_size']}",
        "text length": f"{record.get('max_length', stage['max_length'])} tokens",
        "learning rate": f"{record['optim']['lr'] * stage['lr_scale']:g}, AdamW, {schedule} decay",
        "loss": ", ".join([record["loss"], *(f"{key} {value}" for key, value in options.items())]),
        "mixture": f"{mixing}, one source a batch, seed {record['seed']}",
        "precision": record["precision"],
        "started from": published(stage["init_from"] or record["model"].get("name_or_path", "random weights")),
        "commit": record["commit"],
    }
    if record.get("mask_repeated_texts"):
        facts["loss"] += ", repeated texts masked"
    if record.get("averaged"):
        facts["weights"] = record["averaged"]
    if chosen := chosen_by(record):
        facts["chosen by"] = chosen
    changed = [
        f"- changed after step {segment['first_step']:,}: {', '.join(segment['changed'])}"
        for segment in segments
        if segment["changed"]
    ]
    return [
        "",
        f"## Training stage {number}: {stage['name']}",
        "",
        *(f"- {label}: {value}" for label, value in facts.items()),
        *changed,
        *source_lines(segments),
    ]


def chosen_by(record: dict) -> str | None:
    """The score by which the step of a stage's weights was chosen; None of the last step, and of means of weights."""
    best = record.get("best")
    if not best or record.get("averaged") or best["step"] != record["steps"]:
        return None
    return f"{best['metric']} = {best['score']:.2f}, the highest during training"


def source_lines(segments: list[dict]) -> list[str]:
    """The sources of a stage with their licences, those of all its segments; where these differ, by steps."""
    parts = [[source_row(name, source) for name, source in segment["sources"].items()] for segment in segments]
    several = any(part != parts[0] for part in parts)
    rows = [] if several else parts[0]
    for segment, part in zip(segments, parts, strict=True) if several else ():
        rows += [f"{row} {segment['first_step'] + 1:,} to {segment['last_step']:,} |" for row in part]
    return [
        "",
        f"| source | rows | share of batches | licence |{' steps |' if several else ''}",
        f"|---|---:|---:|---|{'---|' if several else ''}",
        *rows,
    ]


def source_row(name: str, source: dict) -> str:
    """A row of the table of sources."""
    return f"| {name} | {source['rows']:,} | {source.get('probability', nan):.1%} | {source['licence']} |"
