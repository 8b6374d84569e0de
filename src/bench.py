"""Measure this project against its peers: python src/bench.py benchmark=loss"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from gte.benchmarks.values import BENCHMARKS
from gte.build import build, plain, script
from gte.early import cuda_possible
from gte.errors import UserError
from gte.values import check_values


def check(cfg: DictConfig) -> None:
    settings = plain(cfg.benchmark)
    kinds = BENCHMARKS.get(settings["_target_"].split(".")[-2], {})
    check_values({"benchmark": settings}, {f"benchmark.{key}": kind for key, kind in kinds.items()})
    if str(settings.get("device")).startswith("cuda") and not cuda_possible():
        raise UserError(f"benchmark.device={settings['device']}: this machine has no CUDA device; use cpu")


@script("bench", check, alone=("out",))
def main(cfg: DictConfig) -> None:
    import pandas as pd

    from gte.files import write_json
    from gte.provenance import git_commit, machine, versions

    rows = build(cfg.benchmark)
    print(pd.DataFrame(rows).to_string(index=False, na_rep="", float_format="{:.4g}".format))
    results = {
        "benchmark": plain(cfg.benchmark),
        "command": " ".join(sys.argv),
        "commit": git_commit(),
        "machine": machine(),
        "versions": versions(),
        "rows": rows,
    }
    write_json(Path(cfg.out) / "results.json", results)
    print(f"written to {Path(cfg.out) / 'results.json'}")


if __name__ == "__main__":
    main()
