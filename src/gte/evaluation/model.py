"""The model under evaluation as mteb sees it: an encoder with a cache of its embeddings.

Shapes: N texts, D width.
"""

import copy
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from gte.encoder import Encoder
from gte.errors import UserError, tell
from gte.evaluation.bm25 import BM25, BM25_WORDS, document_texts, stemmer
from gte.evaluation.cache import VectorCache, text_keys
from gte.inference.compact import RESCORED, Vectors, scheme_for
from gte.models.broken import first_of_no_use
from gte.models.encoding import cut_line
from gte.models.load import load_encoder, weights_checksum
from gte.models.pool import EncoderPool
from gte.nearest import best_documents
from gte.prompts import KINDS, find_prompt, prompt_of, with_prompts
from gte.remote import find_checkpoint

if TYPE_CHECKING:
    from datasets import Dataset
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import PromptType
    from torch.utils.data import DataLoader


KEPT_AFTER = 8_192  # texts a device: what an interruption loses, at most
KEPT_ON_CPU = 512  # the same on a CPU, which takes as long for them
TIMED_QUERIES, TIMED_SECONDS = 30, 10  # searched one at a time to say how long a search takes, at most


def prompt_names(tasks: Iterable[str]) -> list[str]:
    """The names of prompts that mteb reads for these tasks: a task's, its kind's, each also for one kind of text."""
    from mteb.abstasks.task_metadata import TaskType

    names = [*tasks, *get_args(TaskType)]
    return [*names, *(f"{name}-{kind}" for name in names for kind in KINDS)]


class EncoderModel:
    """mteb's encoder and search protocols over `Encoder.encode`, on several devices where there is a pool.

    Unit vectors, cosine similarity, exact search; equal texts are embedded once. A text's prompt is the one that mteb
    gives a SentenceTransformer: that of the task's name or kind, or of queries or documents, else the default one.
    `prompts_used`: the words by kind of text, of all that was asked for since it was last emptied. `measured`: beside
    the scores of a task, the cost of a search in compact vectors; see `kept_as`.

    Args:
        encoder: the model.
        precision, batch_tokens, progress: of `Encoder.encode`.
        cache: of vectors by text; None is a temporary one.
        pool: of processes on several devices; None encodes here.

    >>> from gte.data.tokenizer import train_tokenizer
    >>> from gte.encoder import Encoder
    >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
    >>> encoder = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> model = EncoderModel(encoder)
    >>> model.embed(["a text", "a text", "another"]).shape, model.encoded
    ((3, 16), 2)
    """

    mteb_model_meta = None  # asked for by mteb's protocols, used only where it writes its own result files

    def __init__(
        self,
        encoder: Encoder,
        precision: str = "fp32",
        batch_tokens: int | None = None,
        progress: bool = False,
        cache: VectorCache | None = None,
        pool: EncoderPool | None = None,
    ):
        self.encoder = encoder
        self.precision = precision
        self.batch_tokens = batch_tokens
        self.progress = progress
        self.cache = VectorCache(encoder.dimensions) if cache is None else cache
        self.pool = pool
        self.devices = [str(encoder.device)] if pool is None else pool.devices
        # sentence-transformers names these two for every model: it is what keeps the default prompt from retrieval
        self.prompts = dict.fromkeys(KINDS, "") | encoder.settings.prompts
        self.prompts_used: dict[str, str] = {}
        self.measured: dict[str, float] = {}
        self.kept: tuple[int, str] | None = None  # width and dtype of `kept_as`
        self.texts = 0  # asked for so far
        self.encoded = 0  # of these, run through the encoder

    def prompt(self, task_metadata: "TaskMetadata", prompt_type: "PromptType | None" = None) -> str:
        """The words before a text of this task, by mteb's own order of precedence; noted in `prompts_used`."""
        from mteb.models.abs_encoder import get_prompt_name

        name = get_prompt_name(self.prompts, task_metadata, prompt_type)
        words = find_prompt(self.encoder.settings) if name is None else self.prompts[name]
        if words:
            self.prompts_used["text" if prompt_type is None else prompt_type.value] = words
        return words

    @property
    def note(self) -> str | None:
        """Names the model's prompt for documents where mteb, which reads only what is called `document`, passes it."""
        words = prompt_of(self.encoder.settings, "document")
        if not words or self.prompts["document"]:
            return None
        name = next(name for name, own in self.prompts.items() if own == words and name not in KINDS)
        return (
            f"mteb has no use for the prompt '{name}'; prompts={{query: ..., document: '{words}'}} gives documents it"
        )

    def kept_as(self, width: int, dtype: str) -> "EncoderModel":
        """The same model and cache, its vectors cut to `width` and kept as `dtype` of `gte.inference.compact`.

        Documents are kept so and searched with the queries' own vectors, cut alike; in tasks without a search all texts
        are. Raises UserError where the model has not as many dimensions.
        """
        self.check_width(width)
        view = copy.copy(self)
        view.kept, view.measured, view.prompts_used = (width, dtype), {}, {}
        return view

    def check_width(self, width: int) -> None:
        """UserError where the model has not as many dimensions."""
        if not 1 <= width <= self.encoder.dimensions:
            raise UserError(f"widths: {width} is not from 1 to {self.encoder.dimensions}, the model's dimensions")

    def narrow(self, x_ND: np.ndarray) -> np.ndarray:
        """Unit vectors of the width that is kept."""
        if self.kept is None or self.kept[0] == x_ND.shape[1]:
            return x_ND
        x_ND = x_ND[:, : self.kept[0]]
        return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)

    def embed_queries(self, texts: Sequence[str], prompt: str = "") -> np.ndarray:
        """Unit vectors float32 [N, D] of what is searched for."""
        return self.narrow(self.vectors(texts, prompt))

    def embed(self, texts: Sequence[str], prompt: str = "") -> np.ndarray:
        """Vectors float32 [N, D] in the caller's order, of the texts behind the prompt's words.

        Of unit length, or what their codes stand for where they are kept compactly. UserError where one is not finite.
        """
        x_ND = self.embed_queries(texts, prompt)
        if self.kept is None or self.kept[1] == "float32" or not len(x_ND):
            return x_ND
        scheme = scheme_for(self.kept[1], x_ND.min(0), x_ND.max(0))
        return scheme.decode(scheme.encode(x_ND))

    def vectors(self, texts: Sequence[str], prompt: str = "") -> np.ndarray:
        """The model's own unit vectors float32 [N, D], from the cache or newly encoded."""
        keys_U, first_U, unique_N = np.unique(text_keys(texts, prompt), return_index=True, return_inverse=True)
        rows_U = self.cache.find(keys_U)
        result_UD = np.empty((len(keys_U), self.encoder.dimensions), np.float32)
        result_UD[rows_U >= 0] = self.cache.read(rows_U[rows_U >= 0])
        new = np.flatnonzero(rows_U < 0)
        new = new[np.argsort(first_U[new])]  # as the caller has them
        self.texts += len(texts)
        self.encoded += len(new)
        on_cpu = all(device.startswith("cpu") for device in self.devices)
        block = (min(KEPT_AFTER, KEPT_ON_CPU) if on_cpu else KEPT_AFTER) * len(self.devices)
        for start in range(0, len(new), block):
            rows = new[start : start + block]
            result_UD[rows] = self.finite([texts[i] for i in first_U[rows]], prompt)
            was_full = self.cache.full
            self.cache.add(keys_U[rows], result_UD[rows])
            if self.cache.full and not was_full:
                tell(f"note: {self.cache.full_line}")
        return result_UD[unique_N]

    def finite(self, texts: list[str], prompt: str = "") -> np.ndarray:
        """The encoder's vectors [N, D] of texts that no cache holds; UserError where one is not finite, or 0."""
        x_ND = (self.pool or self.encoder).encode(
            texts,
            batch_tokens=self.batch_tokens,
            normalize=True,
            precision=self.precision,
            progress=self.progress,
            prompt=prompt,
        )
        if found := first_of_no_use(x_ND, texts):
            first, what, count = found
            raise UserError(
                f"{count} of {len(x_ND)} embeddings are {what} in {self.precision}, first of "
                f"the text {texts[first][:40]!r}; the weights are damaged or need precision=fp32"
            )
        return x_ND

    def encode(
        self, inputs: "DataLoader", *, task_metadata: "TaskMetadata", prompt_type: "PromptType | None" = None, **_
    ) -> np.ndarray:
        """mteb hands over a loader of small batches; all its texts are taken at once, to be sorted by length."""
        return self.embed(inputs.dataset["text"][:], self.prompt(task_metadata, prompt_type))

    def similarity(self, a_ND: np.ndarray | torch.Tensor, b_MD: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Cosines [N, M] in float32; of a single vector [D] those of one row."""
        return (self.unit_rows(a_ND) @ self.unit_rows(b_MD).T).cpu()

    def similarity_pairwise(self, a_ND: np.ndarray | torch.Tensor, b_ND: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Cosines [N] of vectors row by row, in float32."""
        return (self.unit_rows(a_ND) * self.unit_rows(b_ND)).sum(-1).cpu()

    def unit_rows(self, x_ND: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Vectors of length 1, in float32 on the first device."""
        return normalize(torch.as_tensor(x_ND, dtype=torch.float32, device=self.devices[0]), dim=-1)

    def index(self, corpus: "Dataset", **_) -> None:
        """Keep a corpus to search in, as mteb's search protocol has it."""
        self.corpus = corpus

    def search(
        self,
        queries: "Dataset",
        *,
        top_k: int,
        task_metadata: "TaskMetadata",
        top_ranked: dict[str, list[str]] | None = None,
        **_,
    ) -> dict[str, dict[str, float]]:
        """Cosines of the best `top_k` documents by query, of all or of the query's own candidates; exact.

        Of equal float32 cosines the documents of the lowest rows are found. Which of those found counts first in a
        score is the benchmark's rule, trec_eval's: the higher id.
        """
        from mteb._create_dataloaders import create_dataloader  # adds a query's instruction, where it has one
        from mteb.types import PromptType

        loader = create_dataloader(queries, task_metadata=task_metadata, prompt_type=PromptType.query)
        words = self.prompt(task_metadata, PromptType.query)
        q_ND = self.embed_queries(loader.dataset["text"][:], words)
        ids, prompt = queries["id"], self.prompt(task_metadata, PromptType.document)
        if top_ranked is not None:
            return self.rank_candidates(ids, q_ND, top_ranked, top_k, prompt)
        if self.kept is None:
            values_NK, numbers_NK = best_documents(q_ND, self.corpus_blocks(prompt), top_k, self.devices[0])
        else:
            values_NK, numbers_NK = self.search_compact(q_ND, prompt, top_k)
        found = np.unique(numbers_NK).tolist()
        names = dict(zip(found, self.corpus.select_columns(["id"])[found]["id"], strict=True))
        return {
            query: dict(zip([names[number] for number in numbers], values, strict=True))
            for query, numbers, values in zip(ids, numbers_NK.tolist(), values_NK.tolist(), strict=True)
        }

    def corpus_blocks(self, prompt: str) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first document and vectors [M, D] of one block after the other."""
        size = KEPT_AFTER * len(self.devices)
        with tqdm(total=len(self.corpus), unit=" documents", disable=not self.progress, leave=False) as bar:
            for first in range(0, len(self.corpus), size):
                d_MD = self.embed_queries(document_texts(self.corpus[first : first + size]), prompt)
                yield first, d_MD
                bar.update(len(d_MD))

    def search_compact(self, q_ND: np.ndarray, prompt: str, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """`best_documents` in the codes of the corpus, which lie in a temporary file; what that costs is measured.

        The ranges of the codes are those of the first block. Of binary codes the best 40 are ranked again, as for ten
        hits.
        """
        dtype = self.kept[1]
        scheme, codes_MB = None, None
        with tempfile.TemporaryFile() as file:
            for first, d_MD in self.corpus_blocks(prompt):
                scheme = scheme or scheme_for(dtype, d_MD.min(0), d_MD.max(0))
                codes = scheme.encode(d_MD)
                if codes_MB is None:
                    codes_MB = np.memmap(file, codes.dtype, "w+", shape=(len(self.corpus), codes.shape[1]))
                codes_MB[first : first + len(codes)] = codes
            index = Vectors(codes_MB, scheme)
            seconds = []
            for query in range(min(TIMED_QUERIES, len(q_ND))):
                started = time.perf_counter()
                index.search(q_ND[query : query + 1], 10)
                seconds.append(time.perf_counter() - started)
                if sum(seconds) > TIMED_SECONDS:
                    break
            self.measured = {"index_mb": index.nbytes / 1e6, "search_ms": 1000 * float(np.median(seconds))}
            return index.search(q_ND, top_k, rescored=RESCORED * 10)

    def rank_candidates(
        self, ids: Sequence[str], q_ND: np.ndarray, candidates: dict[str, list[str]], top_k: int, prompt: str
    ) -> dict[str, dict[str, float]]:
        """Cosines by query among its own candidates, for as many queries at a time as fit into a block; ties by row."""
        row_of = {document: row for row, document in enumerate(self.corpus["id"])}
        results = {}
        sizes = np.cumsum([len(candidates.get(query, ())) for query in ids]) // (KEPT_AFTER * len(self.devices))
        for group in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(sizes)) + 1):
            rows_of = {query: [row_of[name] for name in candidates.get(ids[query], ())] for query in group}
            rows = np.unique(list(itertools.chain.from_iterable(rows_of.values()))).astype(int)
            d_MD = self.embed(document_texts(self.corpus[rows.tolist()]), prompt)
            for query, own in rows_of.items():
                scores = (d_MD[np.searchsorted(rows, own)].astype(float) @ q_ND[query].astype(float)).astype(np.float32)
                best = np.lexsort((own, -scores))[:top_k]
                results[ids[query]] = {candidates[ids[query]][i]: float(scores[i]) for i in best}
        return results

    def describe(self) -> dict:
        """The facts that identify the model in a result: equal values give equal scores."""
        settings = self.encoder.settings
        prompts = {name: words for name, words in settings.prompts.items() if words}
        prompted = {"prompts": prompts, "default_prompt": settings.default_prompt} if prompts else {}
        return {
            "weights": weights_checksum(self.encoder),
            "parameters": sum(p.numel() for p in self.encoder.parameters()),
            "width": self.encoder.dimensions if self.kept is None else self.kept[0],
            "max_length": self.encoder.max_length,
            "precision": self.precision,
            "device": " ".join(self.devices),
            **({} if self.kept is None else {"vectors": self.kept[1]}),
            **prompted,
        }

    def cut(self) -> str:
        """A line that says how many texts were cut so far; empty where none was."""
        return cut_line((self.pool or self.encoder).counts, self.encoder.max_length)

    def close(self) -> None:
        """Ends the pool's processes; those of `kept_as` are the model's own."""
        if self.pool is not None and self.kept is None:
            self.pool.close()


def check_checkpoint(checkpoint: str) -> None:
    """UserError where `checkpoint` names neither BM25 nor a model; reads no weights."""
    if checkpoint not in BM25_WORDS:
        find_checkpoint(checkpoint)
    elif BM25_WORDS[checkpoint].stemmed:
        stemmer()


def load_model(
    checkpoint: str,
    precision: str,
    batch_tokens: int | None,
    device: str | list[str],
    progress: bool,
    cache: str | None = None,
    cache_gb: float = 1,
    prompts: dict[str, str] | None = None,
):
    """Load the model that `checkpoint` names for an evaluation, on one device or spread over several.

    It is tried on one text, so that damaged weights show at once.

    Args:
        checkpoint: bm25, bm25-stemmed, bm25-mteb, or anything that `load_encoder` takes.
        precision: of `Encoder.encode`.
        batch_tokens: of `Encoder.encode`.
        device: one, or a list of them.
        progress: whether progress bars are shown.
        cache: a folder where its embeddings are kept; None is a temporary one.
        cache_gb: GB that the folder may take for a model.
        prompts: other ones than the model's own, see `with_prompts`.
    Raises: UserError where nothing loads, and where its vectors are not finite.

    >>> load_model("bm25", "fp32", None, "cpu", progress=False).variant
    'no stemmer'
    """
    if checkpoint in BM25_WORDS:
        return BM25(BM25_WORDS[checkpoint])
    devices = [device] if isinstance(device, str) else device
    encoder = load_encoder(checkpoint)
    pool = EncoderPool(checkpoint, devices, weights_checksum(encoder)) if len(devices) > 1 else None
    encoder.settings = with_prompts(encoder.settings, prompts)
    if pool is None:
        encoder.to(devices[0])
    folder = None
    if cache is not None:
        folder = Path(cache) / f"{weights_checksum(encoder).removeprefix('sha256:')[:16]}-{precision}"
    model = EncoderModel(
        encoder,
        precision,
        batch_tokens,
        cache=VectorCache(encoder.dimensions, folder, int(cache_gb * 1e9)),
        pool=pool,
    )
    try:
        model.finite(["The quick brown fox jumps over the lazy dog."])
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    (pool or encoder).counts.clear()
    model.progress = progress
    return model
