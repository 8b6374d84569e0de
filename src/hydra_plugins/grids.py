"""Hydra's sweeper over all combinations, for experiments that have a grid for each scale."""

import os
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from gte.errors import UserError

SRC = str(Path(__file__).parents[1])


class Grids(BasicSweeper):
    """Sweeps over `grids[scale]`, {override: "value,value"}, as if it stood in hydra.sweeper.params.

    Args:
        max_batch_size, params: as of BasicSweeper.
        shared: by scale, what all grids of it set alike; what a grid sets itself wins.

    What the command line says of the same keys comes after it and wins. Hydra resolves the defaults list of an appended
    `+experiment=` before it knows the scale, so that the choice cannot be made there. Raises UserError where an
    experiment has no grid for the scale.
    """

    def __init__(self, max_batch_size: int | None, params: dict | None, shared: dict[str, dict[str, str]]):
        super().__init__(max_batch_size, params)
        self.shared = shared

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        grids, scale = OmegaConf.to_container(config.grids), config.hydra.runtime.choices.scale
        if grids and scale not in grids:
            raise UserError(f"the experiment has no grid for scale={scale}; it has: {', '.join(grids)}")
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([SRC, *filter(None, paths)]))  # for jobs of submitit
        if grids:
            own = grids[scale] | dict(self.params)
            self.params = own | {key: value for key, value in self.shared.get(scale, {}).items() if key not in own}
