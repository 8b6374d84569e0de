"""The LightningDataModule: prepared token shards, mixed by Eq. 4, as a stream of steps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from gte.data.collate import Batch, collate
from gte.data.mixture import Mixture
from gte.data.prompts import Prompt, fit_prompt, some_texts, trained_with, words_by_source
from gte.data.shards import Manifest, TokenTable, checksum
from gte.data.tokenizer import earlier_fingerprints, fingerprint, load_tokenizer, plain_reader
from gte.early import check_batch
from gte.errors import UserError, tell
from gte.prompts import prompt_length
from gte.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepared_tokenizer(folder: str | Path):
    """The tokenizer that a prepared folder's shards were made with. Raises UserError where it is no such folder."""
    Manifest.load(folder)
    return load_tokenizer(Path(folder) / "tokenizer")


def group_size_of(folder: str | Path, stage: Stage, sources: list[str] | None) -> int:
    """The stage's group size as far as the data has negatives: one positive and at most as many as a row has.

    1 where no source of the stage has any; 1 as well for a stage of plain pairs.
    """
    manifest = Manifest.load(folder)
    names = [name for name, facts in manifest.sources.items() if stage.name in facts["stages"]]
    names = [name for name in names if sources is None or name in sources]
    most = max((TokenTable(folder, manifest, name).most_negatives() for name in names), default=stage.group_size)
    return min(stage.group_size, 1 + most)


class Steps(Dataset):
    """Item s is one rank's Batch of step s; nothing else is kept, so any worker can make any step."""

    def __init__(
        self,
        tables: list[TokenTable],
        mixture: Mixture,
        rank: int,
        world_size: int,
        prompts: list[dict[str, Prompt]],
        guide: object | None = None,
        text_hashes: bool = False,
        **collation,
    ):
        self.tables, self.mixture, self.prompts = tables, mixture, prompts
        self.guide, self.text_hashes = guide, text_hashes
        self.rank, self.world_size, self.collation = rank, world_size, collation

    def __getitem__(self, step: int) -> Batch:
        source, rows = self.mixture.batch(step, self.rank, self.world_size)
        facts = {"source": source, "step": step, "checksum": self.mixture.checksum(step)}
        facts |= {"prompts": self.prompts[source], "text_hashes": self.text_hashes or self.guide is not None}
        batch = collate(self.tables[source], rows, **facts, **self.collation)
        if self.guide is None:
            return batch
        hashes = batch.hashes_R.numpy().view(np.uint64)
        vectors = self.guide.vectors(self.tables[source].name, hashes, batch.pairs)
        return batch._replace(guide_RG=vectors, hashes_R=batch.hashes_R if self.text_hashes else None)


class StepsFrom(Sampler):
    """The steps from `first()` on, of `total`; as long as all of them, since Lightning counts those before a resume."""

    def __init__(self, first: Callable[[], int], total: int):
        self.first, self.total = first, total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first(), self.total))


class PairData(pl.LightningDataModule):
    """The sources of a prepared folder that name this stage, as batches.

    Step s of the training is the same global batch whatever the number of ranks or workers, and wherever the run was
    resumed.

    Args:
        folder: a prepared folder, in which every shard has its full size.
        stage: its name, lengths and batch.
        alpha: p_i ~ n_i^alpha, Eq. 4.
        seed: of the draws of sources and rows.
        sources: names to use, None for all of the stage.
        workers: processes that read ahead.
        verify: whether all shards are read and compared with their checksums before the first step.
        weights: how often each source is drawn in proportion to the others, by name, in place of alpha.
        text_hashes: whether batches carry the hashes of their texts.
        prompts: words before queries and documents, see `words_by_source`; they act once `set_prompts` has the encoder.
    Raises: UserError where the folder holds no data of the stage, a name is unknown, a weight is missing or not
        positive, or a source is smaller than the global batch.
    """

    def __init__(
        self,
        folder: str | Path,
        stage: Stage,
        *,
        alpha: float,
        seed: int,
        sources: list[str] | None = None,
        workers: int = 0,
        verify: bool = False,
        weights: dict[str, float] | None = None,
        text_hashes: bool = False,
        prompts: dict[str, str | dict[str, str]] | None = None,
    ):
        super().__init__()
        self.folder, self.manifest = Path(folder), Manifest.load(folder)
        self.stage, self.seed, self.workers = stage, seed, workers
        self.verify, self.text_hashes = verify, text_hashes
        self.source_names = self.manifest.chosen(folder, stage.name, sources)
        self.tables = [TokenTable(folder, self.manifest, name) for name in self.source_names]
        sizes = [len(table) for table in self.tables]
        check_batch(dict(zip(self.source_names, sizes, strict=True)), stage.global_batch)
        listed = None if weights is None else self.list_weights(weights)
        self.mixture = Mixture(sizes, alpha=alpha, seed=seed, global_batch=stage.global_batch, weights=listed)
        self.total_steps = stage.total_steps(sum(sizes))
        self.given_prompts, self.said, self.lowered = prompts, "", ""
        self.guide = None  # a gte.training.guide.Guide, where the loss has one
        self.prompts: list[dict[str, Prompt]] = [{} for _ in self.tables]
        self.first_step, self.earlier_epochs = 0, {}

    def list_weights(self, weights: dict[str, float]) -> list[float]:
        """The weights in order of the sources. Raises UserError for one that is missing, unknown or not positive."""
        for name in weights:
            if name not in self.manifest.sources:
                raise UserError(
                    f"data.weights names '{name}'; the sources in {self.folder} are {', '.join(self.manifest.sources)}"
                )
        if missing := [name for name in self.source_names if name not in weights]:
            raise UserError(
                f"data.weights has no {', '.join(missing)}: it gives every source that is used a number, and "
                "sources=[...] leaves one out"
            )
        for name in self.source_names:
            weight = weights[name]
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
                raise UserError(
                    f"data.weights.{name}={weight} must be a number above 0; sources=[...] leaves a source out"
                )
        return [weights[name] for name in self.source_names]

    def go_on(self, first_step: int, earlier_epochs: dict[str, float]) -> None:
        """Counts epochs from `first_step` on, and adds what other data or batches before it went through."""
        self.first_step, self.earlier_epochs = first_step, earlier_epochs

    def epochs(self, step: int) -> dict[str, float]:
        """Count how often the rows of each source have been used after `step` steps; 1.0 is all of them once."""
        own = self.own_epochs(step)
        return own | {name: own.get(name, 0.0) + times for name, times in self.earlier_epochs.items()}

    def own_epochs(self, step: int) -> dict[str, float]:
        """The same, counted from where the run was resumed with these data and this batch."""
        times = self.mixture.epochs(step) - self.mixture.epochs(self.first_step)
        return dict(zip(self.source_names, times.tolist(), strict=True))

    def identity(self) -> dict:
        """Identify these data: the manifest's checksum, the tokenizer's fingerprint, a digest of each source's shards.

        Data that were prepared again from equal files by the same code differ in the manifest's alone, which has the
        time in it.
        """
        shards = {name: [shard["sha256"] for shard in self.manifest.sources[name]["shards"]]
                  for name in self.source_names}  # fmt: skip
        return {
            "name": self.manifest.name,
            "manifest": checksum(asdict(self.manifest)),
            "tokenizer": self.manifest.tokenizer["fingerprint"],
            "sources": {name: checksum(digests) for name, digests in shards.items()},
        }

    def made_with(self, tokenizer: "PreTrainedTokenizerBase") -> bool:
        """Whether the shards were made with this tokenizer; an older manifest says it by an older fingerprint."""
        own, stated = fingerprint(tokenizer), self.manifest.tokenizer["fingerprint"]
        if own == stated:
            return True
        prepared = prepared_tokenizer(self.folder)
        return own == fingerprint(prepared) and stated in earlier_fingerprints(prepared)

    def check_encoder(self, encoder: nn.Module) -> None:
        """Lowers the stage's length to the encoder's. Raises UserError where the shards were made with another
        tokenizer, or it cuts texts where training does not.
        """
        if not self.made_with(encoder.tokenizer):
            name = self.manifest.tokenizer["name"]
            raise UserError(
                f"the shards in {self.folder} were made with the tokenizer '{name}', the model reads another "
                "one; prepare the data again with model=<the same as here>, and data.dir= where both are needed"
            )
        if encoder.tokenizer.truncation_side != "right":
            raise UserError(
                "the model's tokenizer cuts long texts at their beginning (truncation_side in tokenizer_config.json), "
                "training cuts them at their end; set it to right"
            )
        if self.stage.max_length > encoder.max_length:
            self.lowered = (
                f"note: texts are cut at the model's {encoder.max_length} tokens, fewer than "
                f"stage.max_length={self.stage.max_length}"
            )
            self.stage = replace(self.stage, max_length=encoder.max_length)

    def set_prompts(self, encoder: nn.Module) -> None:
        """Puts the prompts before the texts of every batch, and leaves in `encoder.settings` what it is trained with.

        Raises UserError for a kind or source that is not there, for words that leave a text no tokens, and where the
        tokenizer would read them together with the texts in another way.
        """
        known = list(self.manifest.sources)
        by_source = words_by_source(self.given_prompts, self.source_names, known, encoder.settings)
        facts, reader = self.manifest.tokenizer, plain_reader(encoder.tokenizer)
        longest = self.stage.max_length - len(facts["prefix"]) - len(facts["suffix"])
        off, tried = [], {}
        for place, (table, words) in enumerate(zip(self.tables, by_source.values(), strict=True)):
            for kind, prompt in words.items():
                skip = prompt_length(encoder.tokenizer, prompt, self.stage.max_length)
                skip = 0 if encoder.settings.include_prompt else skip
                texts = some_texts(self.folder, table, kind, reader)
                key = f"data.prompts.{table.name}.{kind}"
                fitted = fit_prompt(prompt, reader, texts, skip, longest, table.max_tokens, key)
                self.prompts[place][kind], wrong = fitted
                if wrong:
                    off.append(f"{wrong} of {len(texts)} of {table.name}")
                tried.setdefault((kind, prompt), []).append(table.name)
        if self.given_prompts is not None:
            encoder.settings = trained_with(encoder.settings, by_source)
        everywhere = len(self.source_names)
        said = [
            f"'{words}' before each {kind}" + ("" if len(names) == everywhere else f" of {', '.join(names)}")
            for (kind, words), names in tried.items()
        ]
        own = " (the model's own; data.prompts={} is none)" if said and self.given_prompts is None else ""
        self.said = f", {', '.join(said)}{own}" if said else ""
        if off:
            self.said += f", with other tokens than the tokenizer's in {', '.join(off)} texts tried"

    def check_ranks(self, world_size: int) -> None:
        """Raises UserError where a step's pairs do not divide over the ranks."""
        batch = self.stage.global_batch
        if batch % world_size:
            raise UserError(
                f"stage.global_batch={batch} does not divide over {world_size} ranks; "
                f"set stage.global_batch={(batch // world_size + 1) * world_size}, or change trainer.devices"
            )

    def source_facts(self) -> dict[str, dict]:
        """Rows, licence, category and p_i of each source that is trained on, and its prompts, where it has any."""
        facts = {}
        for name, table, prompts, p in zip(
            self.source_names, self.tables, self.prompts, self.mixture.probabilities.tolist(), strict=True
        ):
            prepared = self.manifest.sources[name]
            kept = {key: prepared.get(key) for key in ("licence", "category")}
            facts[name] = {"rows": len(table), **kept, "probability": round(p, 6)}
            if prompts:
                facts[name]["prompts"] = {kind: prompt.words for kind, prompt in prompts.items()}
        return facts

    def describe(self) -> str:
        """One line of what the stage will do."""
        pairs = sum(map(len, self.tables))
        own = "" if any(table.has_negatives for table in self.tables) else " (no source has negatives)"
        most, around = min(table.max_tokens for table in self.tables), self.manifest.tokenizer
        short = most + len(around["prefix"]) + len(around["suffix"]) < self.stage.max_length
        cut = f", of texts that data.max_tokens={most} cut when they were prepared" if short else ""
        return (
            f"{pairs:,} rows of {len(self.tables)} sources, {self.total_steps} steps of {self.stage.global_batch} "
            f"in groups of {self.stage.group_size}{own}{cut}{self.said}"
        )

    def prepare_data(self) -> None:
        """Reads every shard against its checksum where `verify` asks for it, and has the loss's guide encode the texts;
        on one rank a machine.
        """
        if self.verify:
            self.manifest.verify(self.folder)
        elif self.manifest.without_pages():
            tell(
                f"note: {self.folder} was prepared before shards had checksums of their pages: verify=true finds what "
                f"is damaged; {self.manifest.remake()} adds them"
            )
        if self.guide is not None:
            self.guide.prepare(self.trainer.strategy.root_device)

    def steps(self, rank: int = 0, world_size: int = 1) -> Steps:
        """One rank's batches by step."""
        return Steps(
            self.tables,
            self.mixture,
            rank,
            world_size,
            self.prompts,
            self.guide,
            self.text_hashes,
            seed=self.seed,
            max_length=self.stage.max_length,
            group_size=self.stage.group_size,
            prefix=self.manifest.tokenizer["prefix"],
            suffix=self.manifest.tokenizer["suffix"],
        )

    def train_dataloader(self) -> DataLoader:
        """Steps from where the training stands to the last; a resumed run just starts further on."""
        steps = self.steps(self.trainer.global_rank, self.trainer.world_size)
        return load_ahead(steps, StepsFrom(lambda: steps_done(self.trainer), self.total_steps), self.workers)


def load_ahead(steps: Steps, order: Iterable[int], workers: int) -> DataLoader:
    """The batches of these steps in their order, made by so many processes ahead of time; by none: when asked for."""
    return DataLoader(
        steps, sampler=order, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    )


def steps_done(trainer: pl.Trainer) -> int:
    """Batches that the training has gone through, those before a resume included; also right within on_train_batch_end,
    where Lightning has not counted the batch as completed."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.processed
