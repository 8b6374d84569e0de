"""DeepSpeed's ZeRO on gloo processes, for tests: Lightning's strategy without its check for CUDA."""

import deepspeed
import torch
from pytorch_lightning.strategies import DDPStrategy

from gte.training.zero import Zero

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing is compiled; gloo reduces


class ZeroOnCPU(Zero):
    def setup_environment(self):
        DDPStrategy.setup_environment(self)

    def setup_distributed(self):
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self):
        return torch.device("cpu", self.local_rank)  # DeepSpeed wants the index


deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True  # torch computes it, slowly
