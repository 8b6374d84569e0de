"""A run that is resumed from its checkpoint: what may differ from its first part, and the record of each part.

RULES is the one table of it; docs/training.md shows it.
"""

from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from gte.errors import UserError, tell
from gte.provenance import segments_of

CHANGES, DATA, ANEW, NEVER = "may change", "`resume_data=changed`", "`stage.init_from`", "refused"


class Rule(NamedTuple):
    """A row of the table: settings as they are typed (`group.*`: the rest of a group), the verdict, the reason."""

    settings: tuple[str, ...]
    verdict: str
    why: str


LENGTH = ("stage.steps", "stage.epochs", "early_stop", "keep_best")  # a finished run may have other ones too
RULES = (
    Rule(LENGTH, CHANGES, "a run may be lengthened or shortened"),
    Rule(("optim.*", "stage.lr_scale"), CHANGES, "the configured values act from the first resumed step on"),
    Rule(
        ("stage.global_batch", "stage.group_size", "stage.max_length", "data.alpha", "data.weights", "seed"),
        CHANGES,
        "other batches from there on; each part's epochs are counted by its own",
    ),
    Rule(
        ("loss.temperature", "loss.*", "mask_repeated_texts", "data.prompts"),
        CHANGES,
        "the loss has another scale: compare no losses over the seam",
    ),
    Rule(
        ("stage.batch_tokens", "stage.recompute_fraction", "stage.recompute_layers", "trainer.precision",
         "loss.tf32"),
        CHANGES,
        "memory, speed and rounding",
    ),
    Rule(("ema_decay",), CHANGES, "an average that was not kept begins at the first resumed step"),
    Rule(
        ("model.*",),
        CHANGES,
        "the weights are the checkpoint's, and must fit",
    ),
    Rule(
        ("sources", "contents of a source"),
        DATA,
        "sources added, dropped, in another order, or prepared from other texts: rows would come twice or never",
    ),
    Rule(
        ("stage.name", "stage.init_from", "loss", "loss.temperature=learnt or a number", "trainer=deepspeed or another",
         "ranks of trainer=deepspeed"),
        ANEW,
        "another training, which may start from these weights",
    ),
    Rule(
        ("model.hidden_size", "model.num_hidden_layers", "model.num_attention_heads", "model.intermediate_size",
         "model.pooling", "tokenizer"),
        NEVER,
        "another model, which these weights are not of",
    ),
)  # fmt: skip


class Change(NamedTuple):
    """A setting of RULES that differs, and both values in words."""

    setting: str
    said: str


def rule_of(setting: str) -> Rule:
    """The row that holds a setting by its own name, or else with its group."""
    named = [rule for rule in RULES if setting in rule.settings]
    grouped = [rule for rule in RULES for pattern in rule.settings if fnmatchcase(setting, pattern)]
    return (named or grouped)[0]


def table() -> str:
    """RULES in Markdown."""
    rows = [f"| {', '.join(f'`{one}`' for one in rule.settings)} | {rule.verdict} | {rule.why} |" for rule in RULES]
    return "\n".join(["| setting | on resume | |", "|---|---|---|", *rows])


def settings_of(record: dict) -> dict:
    """The settings in a stage's record, {as it is typed: value}; pooling aside, which counts as the model has it."""
    groups = {group: record.get(group) or {} for group in ("stage", "optim", "model")}
    groups |= {"loss": record.get("loss_options") or {}}
    found = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
    typed = {"temperature": "loss.temperature", "precision": "trainer.precision"}
    typed |= {key: f"data.{key}" for key in ("alpha", "weights", "prompts")}
    typed |= {key: key for key in ("loss", "mask_repeated_texts", "seed", "keep_best", "early_stop", "ema_decay")}
    found |= {name: record[key] for key, name in typed.items() if key in record}
    return {name: value for name, value in found.items() if name not in ("model.pooling", "stage._target_")}


def changes(begun: dict, facts: dict) -> list[Change]:
    """List where a run's settings and data differ from its record; what only one of them has counts as no change.

    begun: the record of the stage in the checkpoint. facts: that of the run which resumes.
    """
    old, new = settings_of(begun), settings_of(facts)
    found = [
        Change(name, f"{name}={new[name]!r} (was {old[name]!r})")
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name] and not (name == "stage.init_from" and old[name] and new[name])  # where it lies now
    ]
    if "sources" in begun and "sources" in facts:
        found += changed_sources(begun, facts)
    return found


def changed_sources(begun: dict, facts: dict) -> list[Change]:
    """Sources added, dropped, in another order, or of other contents; of an old record their rows tell."""
    old, new = begun["sources"], facts["sources"]
    added, left_out = (", ".join(name for name in one if name not in other) for one, other in ((new, old), (old, new)))
    found = [Change("sources", f"sources {verb}: {names}") for verb, names in (("added", added), ("left out", left_out))
             if names]  # fmt: skip
    both = [name for name in new if name in old]
    if both != [name for name in old if name in new]:
        found.append(Change("sources", f"sources in another order: {', '.join(new)}"))
    known = (begun.get("data") or {}).get("sources", {})
    contents = [known.get(name) for name in both], [facts["data"]["sources"][name] for name in both]
    other = [
        name
        for name, was, now in zip(both, *contents, strict=True)
        if (was is not None and was != now) or old[name]["rows"] != new[name]["rows"]
    ]
    if other:
        found.append(Change("contents of a source", f"other contents: {', '.join(other)}"))
    return found


def check_settings(checkpoint: Path, found: list[Change]) -> None:
    """Raises UserError for the changes that no word allows."""
    for verdict, way in (
        (NEVER, "set it back, or train anew in another out="),
        (ANEW, f"set it back, or start another run from its weights: stage.init_from={checkpoint}"),
    ):
        refused = [change.said for change in found if rule_of(change.setting).verdict == verdict]
        if refused:
            raise UserError(f"{checkpoint} was trained with another setting: {', '.join(refused)}; {way}")


def check_data(checkpoint: Path, found: list[Change], word: str) -> None:
    """Raises UserError where the data are others than the checkpoint's, unless the `word` of resume_data allows it."""
    refused = [change.said for change in found if rule_of(change.setting).verdict == DATA]
    if refused and word != "changed":
        raise UserError(
            f"{checkpoint} was trained on other data ({'; '.join(refused)}); set that back, name another out=, or go "
            "on with these by resume_data=changed, which its record and model card will say"
        )


def tell_changes(begun: dict, found: list[Change]) -> None:
    """Notes on stderr: what the run resumes with, and whether its data could not be compared."""
    if found:
        said = ", ".join(change.said for change in found)
        tell(f"note: the run goes on with other settings: {said}")
    if not begun.get("data"):
        tell(
            "note: the checkpoint does not say which data it was trained on (it is of an earlier version): only the "
            "tokenizer, the sources and their rows were compared",
        )


def continued(begun: dict | None, facts: dict, found: list[Change]) -> list[dict]:
    """The segments of a stage that begins (`begun` None) or is resumed: one more where something has changed.

    A segment: first_step and last_step, in steps done; global_batch; sources and data as in the record; epochs by
    source; and what it changed.
    """
    parts = [] if begun is None else segments_of(begun)
    if parts and not found and parts[-1]["data"]:
        return parts
    first = parts[-1]["last_step"] if parts else 0
    said = [change.said for change in found]
    return [*parts, {"first_step": first, "last_step": first, "global_batch": facts["stage"]["global_batch"],
                     "sources": facts["sources"], "data": facts["data"], "epochs": {}, "changed": said}]  # fmt: skip


def earlier_epochs(segments: list[dict]) -> dict[str, float]:
    """Count how often the rows of each source were used in all segments but the last."""
    total: Counter[str] = Counter()
    for segment in segments[:-1]:
        total.update(segment["epochs"])
    return dict(total)
