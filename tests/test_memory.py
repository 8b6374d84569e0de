"""A step's memory is that of one chunk, whatever the number of pairs."""

import csv
import os
import random
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from gte import memory
from gte.data.prepare import prepare
from gte.data.recipe import read_recipe
from gte.precision import native_bf16


@pytest.fixture(scope="module")
def many_pairs(tmp_path_factory):
    """A prepared source of 8,400 pairs of some 20 words."""
    folder = tmp_path_factory.mktemp("many")
    words = [a + b for a in ("ba", "do", "fi", "gu", "le") for b in ("n", "r", "st", "l")]
    generator = random.Random(0)
    (folder / "raw").mkdir()
    with open(folder / "raw" / "pairs.tsv", "w") as lines:
        for row in range(8_400):
            text = [" ".join(generator.choices(words, k=generator.randint(4, 36))) for _ in range(2)]
            lines.write(f"{row} {text[0]}\t{text[1]} {row}\n")
    settings = yaml.safe_load((ROOT / "conf" / "data" / "local.yaml").read_text())
    prepare(read_recipe(settings | {"path": str(folder / "raw"), "vocab_size": 300}), folder / "data")
    return folder / "data"


@pytest.mark.slow
def test_peak_memory_of_a_step_is_flat_from_512_to_8192_pairs(many_pairs, tmp_path):
    def peak(pairs: int, fraction: float) -> float:
        out = tmp_path / f"{pairs}-{fraction}"
        command = [
            *(sys.executable, str(ROOT / "src" / "train.py"), "model=tiny", "data=local", f"data.dir={many_pairs}"),
            *("trainer=cpu", "trainer.precision=32-true", "workers=0", "stage.steps=2", f"stage.global_batch={pairs}"),
            *("model.hidden_size=256", "model.num_hidden_layers=4", "model.num_attention_heads=4"),
            *("stage.batch_tokens=8192", f"stage.recompute_fraction={fraction}", f"out={out}"),
        ]
        subprocess.run(command, check=True, capture_output=True)
        with open(out / "metrics.csv", newline="") as lines:
            return max(float(row["train/peak_memory_mb"]) for row in csv.DictReader(lines))

    small = peak(512, 1.0)
    assert peak(512, 0.0) > 1.4 * small  # guard: the chunks of even the small step take more together
    assert peak(8192, 1.0) == pytest.approx(small, rel=0.2)


def test_products_of_ever_new_shapes_leave_no_memory_behind():
    """600 shapes in bf16, each with a buffer of 2 MB."""
    if not native_bf16("cpu"):
        pytest.skip("no native bf16: oneDNN prepares these products in another way")
    code = """if True:
        import sys
        from gte.memory import bound_primitives, resident_memory
        if sys.argv[1] == "bound":
            bound_primitives()
        import torch
        rows, weight = torch.ones(2_600, 64).bfloat16(), torch.ones(512, 64).bfloat16()
        torch.nn.functional.linear(rows, weight)
        before = resident_memory()
        for number in range(600):
            torch.nn.functional.linear(rows[: 2_000 + number], weight)
        print((resident_memory() - before) / 2**20)
    """
    environment = {key: value for key, value in os.environ.items() if key not in memory.PRIMITIVES}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    left, bound = (
        float(subprocess.check_output([sys.executable, "-c", code, way], env=environment, text=True))
        for way in ("leave", "bound")
    )
    assert left > 600
    assert bound < 0.7 * left


def test_every_script_bounds_the_products_that_are_kept(script, monkeypatch):
    for name in memory.PRIMITIVES:
        monkeypatch.delenv(name, raising=False)
    code, _, _ = script("export", "checkpoint=nothing", "out=x")
    assert code
    assert {os.environ[name] for name in memory.PRIMITIVES} == {str(memory.KEPT_PRIMITIVES)}
    monkeypatch.setenv(memory.PRIMITIVES[0], "7")
    memory.bound_primitives()
    assert os.environ[memory.PRIMITIVES[0]] == "7"
