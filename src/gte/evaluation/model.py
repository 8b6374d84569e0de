"""What is evaluated, as mteb sees it: an encoder with a cache of its embeddings, or BM25 for retrieval.

Shapes: N texts, D width.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from gte.encoder import AUTOCAST, Encoder, native_bf16
from gte.errors import UserError
from gte.hub import find_checkpoint, load_encoder

BM25_NAME = "bm25"


def choose_device(device: str) -> str:
    """`auto` is the GPU where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision(precision: str, device: str) -> str:
    """`auto` is fp16 on a GPU as in the paper; on a CPU bf16 where the processor computes it natively, else fp32."""
    if precision not in {"auto", *AUTOCAST}:
        raise UserError(f"precision={precision} is unknown; choose auto, {', '.join(AUTOCAST)}")
    if precision == "fp16" and device == "cpu":
        raise UserError("precision=fp16 needs a GPU; on a CPU choose bf16 or fp32")
    if precision != "auto":
        return precision
    if device != "cpu":
        return "fp16"
    return "bf16" if native_bf16("cpu") else "fp32"


class EncoderModel:
    """mteb's encoder protocol over `Encoder.encode`: unit vectors, cosine similarity, equal texts embedded once."""

    mteb_model_meta = None  # asked for by mteb's protocol, used only where it writes its own result files

    def __init__(
        self,
        encoder: Encoder,
        precision: str = "fp32",
        batch_tokens: int | None = None,
        progress: bool = False,
        cache_bytes: int = 2**30,
    ):
        self.encoder = encoder
        self.precision = precision
        self.batch_tokens = batch_tokens
        self.progress = progress
        self.cache_bytes = cache_bytes  # 1 GiB: 700,000 vectors of 384 dimensions; what comes later is not kept
        self.cache: dict[bytes, np.ndarray] = {}
        self.texts = 0  # asked for so far
        self.encoded = 0  # of these, run through the encoder

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [N, D] in the caller's order. UserError where one is not finite."""
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.cache}
        self.texts += len(keys)
        self.encoded += len(new)
        fresh_ND = self.encoder.encode(
            list(new.values()),
            batch_tokens=self.batch_tokens,
            normalize=True,
            precision=self.precision,
            progress=self.progress,
        )
        finite_N = np.isfinite(fresh_ND).all(axis=1) if len(new) else np.ones(0, bool)
        if not finite_N.all():
            text = list(new.values())[int(np.argmin(finite_N))]
            raise UserError(
                f"{len(new) - finite_N.sum()} of {len(new)} embeddings are not finite in {self.precision}, "
                f"first of the text {text[:40]!r}; the weights are damaged or need precision=fp32"
            )
        rows = dict(zip(new, fresh_ND, strict=True))
        result_ND = np.stack([rows[key] if key in rows else self.cache[key] for key in keys])
        if (len(self.cache) + len(rows)) * fresh_ND.itemsize * fresh_ND.shape[1] <= self.cache_bytes:
            self.cache.update(rows)
        return result_ND

    def encode(self, inputs, **_) -> np.ndarray:
        """mteb hands over a loader of small batches; all its texts are taken at once, to be sorted by length."""
        return self.embed(list(inputs.dataset["text"]))

    def similarity(self, a_ND, b_ND) -> torch.Tensor:
        from mteb.similarity_functions import cos_sim  # computes on the GPU where there is one

        return cos_sim(a_ND, b_ND)

    def similarity_pairwise(self, a_ND, b_ND) -> torch.Tensor:
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(a_ND, b_ND)

    def describe(self) -> dict:
        """What identifies the model in a result: equal values give equal scores."""
        return {
            "weights": weights_checksum(self.encoder),
            "parameters": sum(p.numel() for p in self.encoder.parameters()),
            "width": self.encoder.width,
            "max_length": self.encoder.max_length,
            "precision": self.precision,
            "device": str(self.encoder.device),
        }


class BM25:
    """mteb's search protocol over bm25s: method lucene, k1 1.5, b 0.75, English stop words, no stemming."""

    mteb_model_meta = None
    precision = "fp32"

    def __init__(self):
        self.texts = self.encoded = 0

    def index(self, corpus, **_) -> None:
        import bm25s

        self.ids = list(corpus["id"])
        titles = list(corpus["title"]) if "title" in corpus.column_names else [""] * len(self.ids)
        texts = [f"{title} {text}".strip() for title, text in zip(titles, corpus["text"], strict=True)]
        self.retriever = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self.retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        self.texts += len(texts)

    def search(self, queries, *, top_k: int, top_ranked=None, **_) -> dict[str, dict[str, float]]:
        """Scores of the best `top_k` documents by query, without those that share no word with the query."""
        import bm25s

        tokens = bm25s.tokenize(list(queries["text"]), stopwords="en", show_progress=False)
        k = len(self.ids) if top_ranked else min(top_k, len(self.ids))
        rows_NK, scores_NK = self.retriever.retrieve(tokens, k=k, show_progress=False)
        self.texts += len(rows_NK)
        results = {}
        for query, rows, scores in zip(queries["id"], rows_NK, scores_NK, strict=True):
            allowed = set(top_ranked[query]) if top_ranked else None
            found = {self.ids[row]: float(score) for row, score in zip(rows, scores, strict=True) if score > 0}
            results[query] = {key: score for key, score in found.items() if allowed is None or key in allowed}
        return results

    def describe(self) -> dict:
        import bm25s

        return {"weights": f"bm25s {bm25s.__version__} lucene k1=1.5 b=0.75 stopwords=en", "precision": self.precision}


def check_checkpoint(checkpoint: str) -> None:
    """UserError where `checkpoint` names neither BM25 nor a model; reads no weights."""
    if checkpoint != BM25_NAME:
        find_checkpoint(checkpoint)


def load_model(checkpoint: str, precision: str, batch_tokens: int | None, device: str, progress: bool):
    """The model that `checkpoint` names. It is tried on one text, so that damaged weights show at once."""
    if checkpoint == BM25_NAME:
        return BM25()
    encoder = load_encoder(checkpoint).to(device)
    model = EncoderModel(encoder, precision, batch_tokens)
    try:
        model.embed(["The quick brown fox jumps over the lazy dog."])
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    model.texts = model.encoded = 0
    model.progress = progress
    return model


def weights_checksum(encoder: Encoder) -> str:
    """SHA-256 over weights, tokenizer and maximum length."""
    sha = hashlib.sha256(f"{encoder.max_length}".encode())
    for name, value in sorted(encoder.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().numpy().tobytes())
    sha.update(encoder.tokenizer.backend_tokenizer.to_str().encode())
    return f"sha256:{sha.hexdigest()}"
