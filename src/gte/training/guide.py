"""Vectors of another model, computed once and kept beside the shards, by which false negatives are told in training."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gte.data.collate import frame
from gte.data.module import PairData
from gte.data.page_sums import row_sums
from gte.data.shards import TokenTable, spans
from gte.encoder import Encoder
from gte.errors import UserError
from gte.files import put
from gte.models.broken import broken
from gte.models.load import load_encoder, weights_checksum
from gte.modes import evaluating
from gte.ticker import still_at

BLOCK = 4_096  # texts encoded at a time
BATCH_TOKENS = 8_192


class Guide:
    """The cosines of another model for the texts of a step (GISTEmbed, Solatorio 2024).

    Its vectors lie in <data folder>/guides/<its weights>/, a file of float16 rows for each source and kind of text, one
    of the rows' checksums and one of their sorted 64-bit text hashes: a text that stands a thousand times is encoded
    once.

    Args:
        checkpoint: whatever `checkpoint=` takes.
        data: what is trained on; its shards must have been made with the guide's tokenizer.

    Raises UserError for a guide that reads other tokens, or that puts prompts before its texts.
    """

    def __init__(self, checkpoint: str | Path, data: PairData):
        self.checkpoint, self.data = checkpoint, data
        encoder = load_encoder(checkpoint)
        if not data.made_with(encoder.tokenizer):
            raise UserError(
                f"loss.guide={checkpoint} reads texts by another tokenizer than that of the shards in {data.folder} "
                f"('{data.manifest.tokenizer['name']}'); choose a guide of that family, or prepare with its tokenizer"
            )
        if any(encoder.settings.prompts.values()):
            raise UserError(
                f"loss.guide={checkpoint} states prompts ({', '.join(encoder.settings.prompts)}), which the shards do "
                "not hold; choose a guide without"
            )
        if wrong := broken(encoder):
            raise UserError(f"loss.guide={checkpoint}: {wrong}; name an earlier checkpoint of its run, RUN/step-*.ckpt")
        self.encoder: Encoder | None = encoder
        self.folder = data.folder / "guides" / weights_checksum(encoder)[:16]
        self.opened: dict[tuple[str, str], tuple[np.ndarray, ...]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "opened": {}, "encoder": None, "data": None}

    def prepare(self, device: torch.device) -> None:
        """Encode what is not encoded yet, source by source; a killed run's finished files stay."""
        for table in self.data.tables:
            for kind in ("query", "document"):
                if not all(self.file(table.name, kind, what).is_file() for what in ("sums", "hashes")):
                    with still_at(f"loss.guide: encodes the {kind} texts of {table.name}"):
                        self.encode(table, kind, device)
        self.encoder = None

    def file(self, source: str, kind: str, what: str) -> Path:
        return self.folder / f"{source}.{kind}.{what}.npy"

    @torch.inference_mode()
    def encode(self, table: TokenTable, kind: str, device: torch.device) -> None:
        """Write the vectors, their checksums, then the hashes, which say that the vectors are complete."""
        encoder = self.encoder.to(device)
        facts = self.data.manifest.tokenizer
        rows = np.arange(len(table))
        hashes, owners = [table.hashes(kind, rows)], [rows]
        negatives = kind == "document" and table.has_negatives
        if negatives:
            _, _, counts = table.gather_negatives(rows)
            hashes.append(table.negative_hashes(rows))
            owners.append(np.repeat(rows, counts))
        distinct, first = np.unique(np.concatenate(hashes), return_index=True)
        owner = np.concatenate(owners)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.file(table.name, kind, f"partial-{uuid4().hex}")  # another node may encode the same
        vectors = np.lib.format.open_memmap(partial, "w+", np.float16, (len(distinct), encoder.dimensions))
        for start in range(0, len(distinct), BLOCK):
            chosen = first[start : start + BLOCK]
            flat, lengths = texts_at(table, kind, chosen, owner)
            ids, lengths = frame(flat, lengths, encoder.max_length, facts["prefix"], facts["suffix"])
            with evaluating(encoder):
                plan = encoder.plan(lengths, BATCH_TOKENS)
                x_RD = encoder(torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(lengths), plan)
            x_RD = x_RD[:, : encoder.dimensions]
            vectors[start : start + len(chosen)] = F.normalize(x_RD.float(), dim=1).half().cpu().numpy()
        vectors.flush()
        sums = row_sums(vectors)
        put(partial, self.file(table.name, kind, "vectors"))
        for what, array in (("sums", sums), ("hashes", distinct)):
            np.save(partial, array)
            put(partial, self.file(table.name, kind, what))

    def vectors(self, source: str, hashes_R: np.ndarray, pairs: int) -> Tensor:
        """float16 [R, G] of a step's texts by their hashes uint64 [R]: queries, documents, negatives."""
        parts = []
        for kind, wanted in (("query", hashes_R[:pairs]), ("document", hashes_R[pairs:])):
            if (source, kind) not in self.opened:
                files = [self.file(source, kind, what) for what in ("hashes", "vectors", "sums")]
                self.opened[source, kind] = tuple(np.load(file, mmap_mode="r") for file in files)
            known, vectors, sums = self.opened[source, kind]
            places = np.searchsorted(known, wanted)
            if len(wanted) and not (places.max() < len(known) and (known[places] == wanted).all()):
                raise UserError(
                    f"{self.file(source, kind, 'vectors')} is of other data; remove {self.folder} and start again"
                )
            parts.append(np.asarray(vectors[places]))
            if (row_sums(parts[-1]) != sums[places]).any():
                raise UserError(
                    f"{self.file(source, kind, 'vectors')} is damaged: a vector is not as it was written; remove "
                    f"{self.folder} and start again"
                )
        return torch.from_numpy(np.concatenate(parts))


def texts_at(table: TokenTable, kind: str, chosen: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat ids and lengths of the chosen texts: a row's own, or from len(table) on a hard negative of its owner."""
    own, others = chosen[chosen < len(table)], chosen[chosen >= len(table)]
    flat, lengths = table.gather(kind, own)
    order = np.argsort(np.argsort(chosen >= len(table), kind="stable"), kind="stable")
    if not len(others):
        return flat, lengths
    rows = np.unique(owner[others])
    all_flat, all_lengths, counts = table.gather_negatives(rows)
    begins = np.searchsorted(owner[len(table) :], rows)  # of each row's negatives among all
    number = others - len(table) - begins[np.searchsorted(rows, owner[others])]
    places = (counts.cumsum() - counts)[np.searchsorted(rows, owner[others])] + number
    starts = all_lengths.cumsum() - all_lengths
    more, more_lengths = all_flat[spans(starts[places], all_lengths[places])], all_lengths[places]
    flat, lengths = np.concatenate([flat, more]), np.concatenate([lengths, more_lengths])
    starts = lengths.cumsum() - lengths
    return flat[spans(starts[order], lengths[order])], lengths[order]
