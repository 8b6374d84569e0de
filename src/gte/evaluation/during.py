"""Scores on a small suite while a model trains: logged, the best kept, and training ended where they rise no more."""

import time
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from statistics import mean

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng

from gte.data.collate import Batch
from gte.encoder import Encoder
from gte.errors import UserError, did_you_mean, tell
from gte.evaluation.logs import quiet
from gte.evaluation.model import EncoderModel
from gte.evaluation.suite import Plan, Suite, plan, refuse_without_hub
from gte.hub import hub_reachable
from gte.models.device import choose_precision
from gte.models.load import steps_of
from gte.overrides import CONF

BEST = "best.ckpt"
MEAN = "eval/mean"


def plan_evaluation(
    data_dir: str | list[str] | None, tasks: list[str] | str | None, split: str | dict[str, str] | None = None
) -> Plan:
    """Tasks of those folders, by default all, or of mteb by name from the hub; `tasks` may be a suite's name.

    split: to score, or {task: split} for some of them; None is the one that MTEB scores. Raises UserError where nothing
    is to run.
    """
    if data_dir is None and not tasks:
        raise UserError("evaluate_every is set: name evaluate.data_dir=, a folder of task folders, or evaluate.tasks=")
    if isinstance(tasks, str):
        suite = named_suite(tasks)
        found = plan(replace(suite, hub=data_dir is None), data_dir, split=split)
        lacking = [name for name in suite.tasks if name not in found.run]
        if lacking:
            tell(f"note: {data_dir} lacks {len(lacking)} tasks of {tasks}: {', '.join(lacking[:3])}")
    else:
        suite = Suite("evaluate", folder=data_dir, hub=data_dir is None)
        found = plan(suite, only=tasks, split=split)
    if None in found.run.values() and not hub_reachable():
        refuse_without_hub(suite, found)
    return found


def named_suite(name: str) -> Suite:
    """The suite conf/suite/<name>.yaml, of those that list tasks. Raises UserError where there is none."""
    suites = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "suite").glob("*.yaml")}
    listed = {stem: facts for stem, facts in suites.items() if "folder" not in facts}
    if name not in listed:
        near = did_you_mean(name, listed) or f"; there are {', '.join(sorted(listed))}"
        raise UserError(f"evaluate.tasks={name} is no suite{near}; a single task is evaluate.tasks=[{name}]")
    return Suite(**{key: value for key, value in listed[name].items() if key != "_target_"})


def check_keep_best(keep_best: str | None, early_stop: int | None, every: int | str | None, plan: Plan | None) -> None:
    """Raises UserError, before anything is loaded, where what is to be kept, or to end training, is never measured.

    keep_best: eval/<task> or eval/mean. early_stop: evaluations. every: steps between evaluations, or `end`.
    """
    if early_stop is not None and keep_best is None:
        raise UserError(f"early_stop={early_stop} needs a score to watch: keep_best=eval/mean, or eval/<task>")
    if keep_best is None:
        return
    if plan is None:
        raise UserError(f"keep_best={keep_best} needs evaluations: set evaluate_every= and evaluate.data_dir=")
    if early_stop is not None and every == "end":
        raise UserError("early_stop= needs more evaluations than evaluate_every=end makes: name a number of steps")
    known = [MEAN, *(f"eval/{name}" for name in plan.run)]
    if keep_best not in known:
        near = did_you_mean(keep_best, known) or f"; there are {', '.join(known[:6])}" + ", ..." * (len(known) > 6)
        raise UserError(f"keep_best={keep_best} is not measured by these evaluations{near}")


class Evaluate(Callback):
    """Score the plan's tasks every `every` steps and log each main score as eval/<task>, their plain mean as eval/mean.

    Rank 0 scores, in the evaluation's own precision; the other ranks wait. Training continues as if nothing had been
    scored: the random generators are restored, and the model is in training mode again.

    Args:
        plan: the tasks, whose data are read and checked here, before the training.
        every: steps.
        pause: called with the seconds that scoring took, so that they do not count as a step's.
        folder: of best.ckpt.
        keep_best: the score of which the weights at its highest are best.ckpt; equal scores leave the earlier.
        early_stop: evaluations in a row without a higher one after which training ends, on all ranks at once. Both
            counts are in every checkpoint, so that a resumed run keeps and stops as if it had not been interrupted.
    """

    def __init__(
        self,
        plan: Plan,
        every: int,
        pause: Callable[[float], None],
        folder: Path | None = None,
        keep_best: str | None = None,
        early_stop: int | None = None,
    ):
        if every < 1:
            raise UserError(f"evaluate_every={every} must be at least 1 step, or null for no evaluation")
        quiet()
        self.every, self.pause, self.folder = every, pause, folder
        self.keep_best, self.early_stop = keep_best, early_stop
        self.best: dict | None = None  # of keep_best: {"metric", "score", "step"}
        self.without = 0  # evaluations since
        with isolate_rng():  # mteb seeds every generator when it is imported, and when a task is made
            self.tasks = [plan.task(name) for name in plan.run]
            for task in self.tasks:
                task.load()

    @property
    def measured(self) -> dict[str, list[str]]:
        """Split and data of each task that `keep_best` is measured on."""
        tasks = [task for task in self.tasks if self.keep_best in (MEAN, f"eval/{task.name}")]
        return {task.name: [task.split, task.data] for task in tasks}

    def state_dict(self) -> dict:
        return {"best": self.best, "without": self.without, "measured": self.measured}

    def load_state_dict(self, state: dict) -> None:
        if state["best"] and state["best"]["metric"] != self.keep_best:  # another score begins anew
            return
        if state["best"] and state.get("measured", self.measured) != self.measured:
            tell(f"note: {self.keep_best} was measured on other data before: the best is chosen anew")
            return
        self.best, self.without = state["best"], state["without"]

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Start counting again where best.ckpt is not the one that the resumed checkpoint counts from.

        After a kill it may be of a step to come, at which the same run writes it again.
        """
        if self.best is None:
            return
        kept = trainer.strategy.broadcast(self.step_kept() if trainer.is_global_zero else None)
        if kept == self.best["step"]:
            task.history[-1]["best"] = self.best
            return
        if trainer.is_global_zero:
            there = "not there" if kept is None else f"of step {kept}"
            best = f"the best up to here, of step {self.best['step']}"
            tell(f"note: {self.folder / BEST} is {there}, not {best}: it is chosen anew")
        self.best, self.without = None, 0

    def step_kept(self) -> int | None:
        """The step of the best.ckpt that is in the folder; None where none is."""
        try:
            return steps_of(self.folder / BEST)
        except UserError:
            return None

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: object, batch: Batch, index: int
    ) -> None:
        steps = batch.step + 1
        if steps % self.every and steps != task.total_steps:
            return
        started = time.perf_counter()
        scores = None
        if trainer.is_global_zero:
            with isolate_rng():
                scores = self.scores(task.encoder)
            for logger in trainer.loggers:
                logger.log_metrics(scores, step=batch.step)
        scores = trainer.strategy.broadcast(scores)
        if self.keep_best is not None:
            self.keep(trainer, task, scores.get(self.keep_best), steps)
        self.pause(time.perf_counter() - started)

    def keep(self, trainer: pl.Trainer, task: pl.LightningModule, score: float | None, steps: int) -> None:
        """Writes best.ckpt where the score is a new highest; ends training where it was not so for too long."""
        if score is not None and isfinite(score) and (self.best is None or score > self.best["score"]):
            self.best, self.without = {"metric": self.keep_best, "score": score, "step": steps}, 0
            task.history[-1]["best"] = self.best
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        else:
            self.without += 1
        if self.early_stop is not None and self.without >= self.early_stop and steps < task.total_steps:
            task.history[-1]["stopped_early"] = steps
            trainer.should_stop = True

    def scores(self, encoder: Encoder) -> dict[str, float]:
        """eval/<task> -> main score in points of 100, and their mean; a task that gives none is named on stderr.

        Where one gives none there is no mean: it would be another one than that of the other steps.
        """
        model = EncoderModel(encoder, choose_precision("auto", encoder.device.type))
        found = {}
        for task in self.tasks:
            try:
                found[f"eval/{task.name}"] = task.run(model)[task.main_score]
            except UserError as error:
                tell(f"note: {task.name} during training: {error}")
        return found | ({MEAN: mean(found.values())} if len(found) == len(self.tasks) else {})
