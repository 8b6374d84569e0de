"""A model's scores by the width and the precision of its vectors: what shorter and coarser ones lose and save."""

from collections.abc import Callable

from gte.errors import UserError, did_you_mean
from gte.evaluation.model import BM25_WORDS
from gte.inference.compact import Scheme
from gte.results.table import SHORT

PRECISIONS = {"fp32": "float32", "int8": "int8", "uint8": "uint8", "binary": "binary", "ubinary": "ubinary"}
COSTS = {"index_mb": "MB", "search_ms": "ms a query"}  # of a search, measured beside the scores


class Grid:
    """Each checkpoint once a width and precision, as models of a suite: `checkpoints` and `load` stand in for its own.

    A checkpoint is loaded once, and its vectors are computed once: what differs is made of them. BM25 has no vectors
    and stays as it is. `widths` None is the model's own, `precisions` None is fp32; with neither all stays as it is.
    Raises UserError for widths and precisions that cannot be meant.
    """

    def __init__(
        self,
        load: Callable,
        checkpoints: dict[str, str],
        widths: list[int] | None,
        precisions: list[str] | None,
    ):
        for width in widths or ():
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise UserError(f"widths: {width} must be a whole number of dimensions, at least 1")
        for precision in precisions or ():
            if precision not in PRECISIONS:
                close = did_you_mean(precision, PRECISIONS)
                raise UserError(f"precisions: {precision} is not one of {', '.join(PRECISIONS)}{close}")
        self.varied = widths is not None or precisions is not None
        self.load_model, self.widths = load, widths
        self.loaded: tuple[str, object] | None = None  # checkpoint and model
        self.cells: dict[str, tuple[str, int | None, str]] = {}
        self.names: dict[str, str] = {}  # of the models, by the label of a cell
        self.checkpoints: dict[str, str] = {}
        for label, checkpoint in checkpoints.items():
            if not self.varied or checkpoint in BM25_WORDS:
                self.checkpoints[label] = checkpoint
                continue
            for width in widths or [None]:
                for precision in precisions or ["fp32"]:
                    cell = precision if width is None else f"{width} {precision}"
                    self.cells[f"{checkpoint} {cell}"] = checkpoint, width, PRECISIONS[precision]
                    self.checkpoints[f"{label} {cell}"] = f"{checkpoint} {cell}"
                    self.names[f"{label} {cell}"] = label

    def load(self, cell: str):
        """The model of a cell, one of the values of `checkpoints`."""
        if cell not in self.cells:
            return self.load_model(cell)
        checkpoint, width, dtype = self.cells[cell]
        if self.loaded is None or self.loaded[0] != checkpoint:
            self.close()
            self.loaded = checkpoint, self.load_model(checkpoint)
        model = self.loaded[1]
        for other in self.widths or ():
            model.check_width(other)  # all of them before the first is scored
        return model.kept_as(width or model.encoder.dimensions, dtype)

    def close(self) -> None:
        """Ends what the last model holds."""
        if self.loaded is not None:
            self.loaded[1].close()
        self.loaded = None

    def rows(self, results: dict) -> list[list[str]]:
        """Header and a row a cell: width, precision, bytes of a vector, main scores, then what a search costs.

        The costs are those of the largest corpus, one query at a time.
        """
        models = results["models"]
        columns = {(name, task["metric"]): None for model in models.values() for name, task in model["tasks"].items()}
        found = [task["scores"] for model in models.values() for task in model["tasks"].values()]
        costs = {key: name for key, name in COSTS.items() if any(key in scores for scores in found)}
        precisions = {dtype: precision for precision, dtype in PRECISIONS.items()}
        scored = [f"{name} {SHORT.get(score, score)}" for name, score in columns]
        table = [["model", "width", "precision", "bytes", *scored, *costs.values()]]
        for label, model in models.items():
            tasks, kept = model["tasks"], ["", "", ""]
            if "vectors" in model:
                scheme = Scheme(model["vectors"], model["width"])
                kept = [str(scheme.width), precisions[scheme.dtype], str(scheme.bytes)]
            values = [tasks[name]["scores"].get(score) if name in tasks else None for name, score in columns]
            largest = max((task["scores"] for task in tasks.values()), key=corpus_size, default={})
            values += [largest.get(key) for key in costs]
            cells = ["" if value is None else f"{value:.2f}" for value in values]
            table.append([self.names.get(label, label), *kept, *cells])
        return table


def corpus_size(scores: dict[str, float]) -> float:
    """Of a task, where it has one."""
    return scores.get("index_mb", 0)
