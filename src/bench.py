"""Measure this project against its peers: python src/bench.py benchmark=loss"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from gte.build import build, plain, script


@script("bench", alone=("out",))
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
