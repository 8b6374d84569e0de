"""The settings of a prepared folder, as conf/data/*.yaml and the command line state them."""

import shutil
import time
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path

from gte.data.columns import OF_FILES, Wanted
from gte.data.contamination import Decontamination
from gte.data.groups import load_sources
from gte.data.locate import configuration, locate
from gte.data.own_files import held_out, infer_sources, pair_files
from gte.data.sources import Raw, Source
from gte.errors import UserError, check_numbers, did_you_mean, say
from gte.files import put
from gte.locks import locked
from gte.ticker import still_at


@dataclass(frozen=True)
class Triples:
    """A fine-tuning source made of the pairs of another: `rows` of them at most, with negatives mined by BM25.

    source: the name of the source whose pairs they are; all of its documents are candidates. negatives, skip, depth,
    seed: as in `mine`.
    """

    source: str
    rows: int
    negatives: int = 15
    skip: int = 0
    depth: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """The settings of a prepared folder: all that its content depends on.

    Args:
        name: of the data set.
        sources: in order.
        raw: the folder of their raw files.
        tokenizer: directory or hub id, None to train a WordPiece of vocab_size entries on the pairs.
        tokenizer_revision: branch, tag or commit of a hub id, None for the newest.
        vocab_size: entries of a tokenizer that is trained.
        max_tokens: at most this many ids of a text, special tokens not counted.
        triples: fine-tuning sources to mine, by name.
        evaluation: a folder to copy to eval/.
        max_rejected: share of a source's rows that may be rejected, those that it filters out not counted.
        dedup_across: whether a pair that an earlier source has is a duplicate as well.
        decontaminate: pairs with texts of evaluation sets, which are skipped; None keeps them.
        notes: lines that are printed first.
    """

    name: str
    sources: list[Source]
    raw: Path
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    vocab_size: int | None = 16_384
    max_tokens: int = 510
    triples: dict[str, Triples] = field(default_factory=dict)
    evaluation: Path | None = None
    max_rejected: float = 0.1
    dedup_across: bool = False
    decontaminate: Decontamination | None = None
    notes: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises UserError for names that clash or are unknown and for numbers of no sense, before any work."""
        if self.tokenizer is None and not self.vocab_size:
            raise UserError("data.tokenizer=null trains one, which needs a size: data.vocab_size=16384")
        if self.tokenizer_revision is not None and (self.tokenizer is None or Path(self.tokenizer).exists()):
            raise UserError(
                f"data.tokenizer_revision={self.tokenizer_revision} is of a name on the hub, data.tokenizer is "
                f"{self.tokenizer or 'null'}; leave it out"
            )
        if self.max_tokens < 1 or not 0 <= self.max_rejected <= 1:
            raise UserError(
                f"data.max_tokens={self.max_tokens} must be at least 1, data.max_rejected={self.max_rejected} a share"
            )
        names = [source.name for source in self.sources]
        if not names:
            raise UserError(f"data set {self.name} has no sources; name some: data.sources=[...]")
        for name in [*names, *self.triples]:
            if (names + list(self.triples)).count(name) > 1:
                raise UserError(f"data set {self.name} names the source '{name}' twice")
        for name, triples in self.triples.items():
            if triples.source not in names:
                raise UserError(
                    f"triples {name}: '{triples.source}' is none of the sources {', '.join(names)}; name it too, or "
                    "leave the triples out: data.triples=null"
                )
        if self.evaluation and not self.evaluation.is_dir():
            raise UserError(f"there is no folder {self.evaluation} with the held-out tasks of {self.name}")
        if self.decontaminate:
            self.decontaminate.check()

    def locate(self) -> dict[str, list[Raw]]:
        """The raw files of every source. Raises UserError for the first source without, and counts the others."""
        found, missing = {}, []
        for source in self.sources:
            try:
                found[source.name] = locate(source, self.raw)
            except UserError as error:
                missing.append((source.name, error))
        if missing:
            others = f"; nor is there anything for: {', '.join(name for name, _ in missing[1:])}" if missing[1:] else ""
            raise UserError(f"{missing[0][1]}{others}")
        return found

    def configuration(self, raws: dict[str, list[Raw]]) -> dict:
        """Describe what the folder depends on, as the manifest keeps it: equal configurations give equal folders."""
        return {
            "sources": {source.name: configuration(source, raws[source.name]) for source in self.sources},
            "triples": {name: asdict(triples) for name, triples in self.triples.items()},
            "tokenizer": self.tokenizer,
            "vocab_size": self.vocab_size if self.tokenizer is None else None,
            "max_tokens": self.max_tokens,
            **({} if self.tokenizer_revision is None else {"tokenizer_revision": self.tokenizer_revision}),
            "dedup_across": self.dedup_across,
            "decontaminate": self.decontaminate and self.decontaminate.stamp(),
        }


def read_recipe(data: dict, *, fetch_again: bool = False) -> Recipe:
    """Read the recipe of a conf/data/*.yaml; make its raw folder where `fetch` says how and it is not there.

    Args:
        data: the settings, as plain values.
        fetch_again: whether the raw folder is made in any case.
    Raises: UserError for unknown sources and keys.
    """
    data = dict(data)
    for key in ("dir", "alpha", "weights", "prompts"):  # where to, and how to train on it: no part of what is made
        data.pop(key, None)
    path, mined, names = data.pop("path", None), data.pop("mined", None), data.pop("sources")
    overrides = data.pop("overrides", None) or {}
    stated = {key: data.pop(key, None) for key in OF_FILES}
    if path is not None or "raw" not in data:
        if path is None:
            raise UserError(f"data={data['name']} needs a folder of raw files: data.path=FOLDER")
        local = {
            source.name: source
            for source in infer_sources(path, Wanted(**stated | {"columns": stated["columns"] or {}}))
        }
        tests = [] if names else held_out(list(local))
        names = [str(name) for name in names or local]
        if unknown := [name for name in names if name not in local]:
            raise UserError(f"{path} has no file for '{unknown[0]}'; it has: {', '.join(local)}")
        raw = Path(path).parent if Path(path).is_file() else Path(path)
        others = pair_files(Path(path))[1]
        notes = [f"{path}: not read: {', '.join(others)}"] if others else []
        if tests:
            rest = ",".join(name for name in names if name not in tests)
            notes.append(
                f"{path}: also trained on, though named as if for evaluation: {', '.join(tests)}; to leave them out: "
                f"'data.sources=[{rest}]'"
            )
        sources = []
        for name in names:
            file, note = find_mined(local[name], raw, mined)
            sources.append(replace(local[name], mined=file and str(file)))
            notes += [note] if note else []
        data |= {"raw": raw, "sources": sources, "notes": tuple(notes)}
    else:
        chosen, notes = load_sources(names or [], overrides, Path(data["raw"]))
        data |= {"sources": [source.in_folder(Path(data["raw"])) for source in chosen], "notes": tuple(notes)}
    data["raw"] = Path(data["raw"])
    if function := data.pop("fetch", None):
        fetch(function, data["raw"], again=fetch_again)
    data["evaluation"] = Path(data["evaluation"]) if data.get("evaluation") else None
    known = [part.name for part in fields(Recipe) if part.name != "notes"]
    try:
        data["triples"] = {name: Triples(**facts) for name, facts in (data.get("triples") or {}).items()}
    except TypeError as error:
        raise UserError(f"data.triples: {error}") from error
    for name, triples in data["triples"].items():
        check_numbers(f"data.triples.{name}", triples)
    data["decontaminate"] = read_decontamination(data.get("decontaminate"))
    if unknown := [key for key in data if key not in [*known, "notes"]]:
        close = did_you_mean(unknown[0], known)
        raise UserError(f"unknown key 'data.{unknown[0]}'{close}; known: {', '.join(known)}")
    return Recipe(**data)


def find_mined(source: Source, raw: Path, folder: str | None) -> tuple[Path | None, str]:
    """`mined_for`, where there is such a folder."""
    if folder is None or not Path(folder).is_dir():
        return None, ""
    from gte.data.mining import mined_for  # late: it loads PyTorch

    return mined_for(source, raw, Path(folder))


def read_decontamination(facts: dict | None) -> Decontamination | None:
    """Read `data.decontaminate`; None where it names no folder. Raises UserError for an unknown key."""
    if not facts or facts.get("folder") is None:
        return None
    try:
        return Decontamination(**{**facts, "folder": Path(facts["folder"]), "texts": tuple(facts["texts"])})
    except TypeError as error:
        raise UserError(f"data.decontaminate: {error}") from error


def fetch(function: str, folder: Path, *, again: bool) -> None:
    """Calls the function of that full name with a folder to fill, which becomes `folder` when it is done."""
    with locked(folder, "making", "data.raw"):
        if folder.is_dir() and not again:
            return
        start = time.perf_counter()
        module, _, name = function.rpartition(".")
        part = folder.parent / f".{folder.name}.fetching"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        say(f"{function}: writes {folder}")
        with still_at(f"{function}: at work"):
            getattr(import_module(module), name)(part)
        put(part, folder)
    say(f"{function}: wrote {folder}, {time.perf_counter() - start:.1f} s")
