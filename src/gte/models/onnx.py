"""The encoder as an ONNX graph, in float32 and int8, and how near each is to the PyTorch model.

Shapes: N texts, L tokens of the longest text, D width.
"""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from gte.data.task_folder import FIELDS, Folder
from gte.encoder import Encoder
from gte.errors import UserError
from gte.models.pretrained import Settings

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("last_hidden_state", "sentence_embedding")
TOLERANCE = 1e-4
SAMPLE = [  # texts of many lengths and kinds, compared where no others are given
    "",
    "search",
    "How do I sort a list of pairs by the second element?",
    "Der Zug hält nicht in jedem Ort; 3 von 10 Fahrten enden früher.",
    "def mean(values: list[float]) -> float:\n    return sum(values) / len(values)",
    "The committee met on Tuesday to discuss the budget, and put the vote off until the figures are known. " * 4,
    "A paragraph that no model of 512 tokens reads to its end. " * 100,
]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """One form of the model against float32 PyTorch, the first row: cosines over the same texts, Spearman on an STS."""

    form: str
    megabytes: float
    mean_cosine: float
    lowest_cosine: float
    texts: int
    spearman: float | None = None  # in points of 100
    task: str | None = None

    def __str__(self) -> str:
        line = f"{self.form:<22} {self.megabytes:8.1f} MB   cosine to PyTorch: mean {self.mean_cosine:.5f}, "
        score = "" if self.task is None else f"   {self.task} {self.spearman:.2f}"
        return f"{line}lowest {self.lowest_cosine:.5f}{score}"


class Graph(nn.Module):
    """What is traced: the last layer [N, L, D], which sentence-transformers pools, and finished unit vectors [N, D]."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.lm, self.pooling, self.dimensions = encoder.lm, encoder.settings.pooling, encoder.dimensions

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden_NLD = self.lm(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        length_N1 = attention_mask.sum(1, keepdim=True)
        place_L = attention_mask.cumsum(1) - 1
        of = {"mean": attention_mask, "cls": (place_L == 0) * attention_mask, "last": place_L == length_N1 - 1}
        weights_NL = of[self.pooling] * attention_mask
        weights_NL = weights_NL / weights_NL.sum(1, keepdim=True)
        pooled_ND = (hidden_NLD * weights_NL[..., None]).sum(1)[:, : self.dimensions]
        return hidden_NLD, nn.functional.normalize(pooled_ND, dim=-1)


def require_onnx() -> None:
    """UserError where the optional packages are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"onnx=true needs a package more ({error}): pip install -r requirements-onnx.txt") from error


def check_graph(settings: Settings) -> None:
    """UserError where the vector of a text depends on more than its ids: on which of them are a prompt's."""
    if not settings.include_prompt and settings.pooling != "last" and any(settings.prompts.values()):
        raise UserError(
            "onnx=true: the model pools a text without its prompt (include_prompt=false in 1_Pooling/config.json), and "
            "a graph cannot tell the tokens of one from the other's; export with onnx=false"
        )


def write_onnx(encoder: Encoder, folder: Path, int8: bool = False, sts: str | None = None) -> list[Comparison]:
    """Writes model.onnx, and model_int8.onnx where `int8`; returns PyTorch's own row and one for each of them.

    The names are those that sentence-transformers' backend="onnx" looks for. Compared are the sentences of the STS task
    folder `sts`, by default SAMPLE. Raises UserError where model.onnx differs by more than 1e-4 anywhere.
    """
    folder.mkdir()
    encoder = encoder.cpu().eval()
    rows = sts_rows(sts) if sts else []
    texts = [row[side] for side in ("sentence1", "sentence2") for row in rows] or SAMPLE
    expected_ND = encoder.encode(texts, prompt="")  # a graph begins at the ids: what is before a text is its user's

    def compare(form: str, size: int, x_ND: np.ndarray) -> Comparison:
        cosines = (x_ND * expected_ND).sum(1)
        facts = {"mean_cosine": float(cosines.mean()), "lowest_cosine": float(cosines.min()), "texts": len(texts)}
        if rows:
            similarity = (x_ND[: len(rows)] * x_ND[len(rows) :]).sum(1)
            spearman = 100 * spearmanr(similarity, [row["score"] for row in rows]).statistic
            facts |= {"spearman": float(spearman), "task": Path(sts).name}
        return Comparison(form, size / 1e6, **facts)

    file = folder / "model.onnx"
    trace(encoder, file)
    found_ND = onnx_embeddings(file, encoder, texts)
    if (gap := np.abs(found_ND - expected_ND).max()) > TOLERANCE:
        raise UserError(
            f"the ONNX graph of this language model differs by {gap:.1g} from PyTorch; export with onnx=false"
        )
    weights = sum(p.numel() * p.element_size() for p in encoder.parameters())
    comparisons = [compare("PyTorch, float32", weights, expected_ND)]
    comparisons.append(compare("onnx/model.onnx", file.stat().st_size, found_ND))
    if int8:
        small = folder / "model_int8.onnx"
        quantize(file, small)
        comparisons.append(
            compare("onnx/model_int8.onnx", small.stat().st_size, onnx_embeddings(small, encoder, texts))
        )
    return comparisons


def sts_rows(folder: str) -> list[dict]:
    """The pairs of an STS task's folder. Raises UserError where it is none."""
    if not Path(folder).is_dir():
        raise UserError(f"sts={folder} is no folder; name one with test.jsonl {{sentence1, sentence2, score}}")
    task = Folder(folder)
    return task.rows(task.require("test"), FIELDS["STS"])


def trace(encoder: Encoder, file: Path) -> None:
    """One self-contained graph for any number of texts of any length.

    By TorchScript: 4 s and no further package, where torch.export's path took 32 s for the same 22M parameters.
    """
    ids_NL = torch.ones(2, 7, dtype=torch.int64)
    mask_NL = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])  # with padding: the masked path must be the one that is traced
    axes = {name: {0: "texts", 1: "tokens"} for name in (*INPUTS, OUTPUTS[0])} | {OUTPUTS[1]: {0: "texts"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of constants in the trace; `write_onnx` compares other shapes
        torch.onnx.export(
            Graph(encoder),
            (ids_NL, mask_NL),
            str(file),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            dynamo=False,
        )


def quantize(source: Path, file: Path) -> None:
    """Weights as int8 by channel, activations quantised on the fly.

    Seven bits, since eight overflow on processors without VNNI: all-MiniLM-L6-v2 has 81.96 on STSBenchmark with them,
    81.70 with eight bits for a whole tensor, 82.03 in float32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # advice on pre-processing, through the root logger
    try:
        quantize_dynamic(source, file, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)


def onnx_embeddings(file: Path, encoder: Encoder, texts: list[str], rows: int = 16) -> np.ndarray:
    """Unit vectors [N, D] by onnxruntime alone, `rows` texts of like length at a time."""
    session, ids = session_of(file), encoder.tokenize(texts)
    x_ND = np.empty((len(texts), encoder.dimensions), np.float32)
    order = np.argsort([len(row) for row in ids])
    for chunk in np.split(order, range(rows, len(order), rows)):
        inputs = padded_inputs([ids[i] for i in chunk], encoder.pad_id)
        x_ND[chunk] = session.run([OUTPUTS[1]], dict(zip(INPUTS, inputs, strict=True)))[0]
    return x_ND


def session_of(file: Path):
    """An onnxruntime session of a graph on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def padded_inputs(ids: list[list[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """What a graph takes of some texts' token ids: ids and mask, int64 [N, L]."""
    lengths = np.array([len(row) for row in ids])
    mask_NL = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids_NL = np.full(mask_NL.shape, pad_id, np.int64)
    ids_NL[mask_NL == 1] = np.concatenate(ids)
    return ids_NL, mask_NL
