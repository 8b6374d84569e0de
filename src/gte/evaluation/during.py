"""Scores on a small suite while a model trains."""

import sys
import time
from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng

from gte.errors import UserError
from gte.evaluation.model import EncoderModel, choose_precision
from gte.evaluation.suite import Plan, Suite, plan, quiet


def plan_evaluation(data_dir: str | list[str] | None, tasks: list[str] | None) -> Plan:
    """Tasks of those folders, by default all, or of mteb by name from the hub. UserError where nothing is to run."""
    if data_dir is None and not tasks:
        raise UserError("evaluate_every is set: name evaluate.data_dir=, a folder of task folders, or evaluate.tasks=")
    return plan(Suite("evaluate", folder=data_dir, hub=data_dir is None), only=tasks)


class Evaluate(Callback):
    """Scores the plan's tasks every `every` steps and logs each main score to the run's loggers as eval/<task>.

    In the evaluation's own precision, on rank 0; the other ranks wait. The training goes on as if nothing had been
    scored: the random generators are put back, and the model is in training mode again. `pause` is told the seconds
    that scoring took, so that they do not count as a step's. Data are read and checked here, before the training.
    """

    def __init__(self, plan: Plan, every: int, pause: Callable[[float], None]):
        if every < 1:
            raise UserError(f"evaluate_every={every} must be at least 1 step, or null for no evaluation")
        quiet()
        self.every, self.pause = every, pause
        with isolate_rng():  # mteb seeds every generator when it is imported, and when a task is made
            from gte.evaluation.tasks import make_task

            self.tasks = [make_task(name, folder, plan.split) for name, folder in plan.run.items()]
            for task in self.tasks:
                task.load()

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs, batch, index) -> None:
        steps = batch.step + 1
        if steps % self.every and steps != task.total_steps:
            return
        started = time.perf_counter()
        if trainer.is_global_zero:
            with isolate_rng():
                scores = self.scores(task.encoder)
            for logger in trainer.loggers:
                logger.log_metrics(scores, step=batch.step)
        trainer.strategy.barrier("evaluation")
        self.pause(time.perf_counter() - started)

    def scores(self, encoder) -> dict[str, float]:
        """eval/<task> -> main score in points of 100; a task that gives none is named on stderr and left out."""
        model = EncoderModel(encoder, choose_precision("auto", encoder.device.type))
        found = {}
        for task in self.tasks:
            try:
                found[f"eval/{task.name}"] = task.run(model)[task.main_score]
            except UserError as error:
                print(f"note: {task.name} during training: {error}", file=sys.stderr, flush=True)
        return found
