"""Measure ours against its peers: python src/bench.py benchmark=loss"""

import json
import platform
from pathlib import Path

from omegaconf import DictConfig

from gte.build import build, script


@script("bench")
def main(cfg: DictConfig) -> None:
    from gte.provenance import git_commit, versions

    rows = build(cfg.benchmark)
    for row in rows:
        if row["measure"] == "time":
            spread = f"{row['ratio']:.2f} x ours ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
            print(f"{row['variant']:<24} n={row['n']:<6} d={row['width']:<5} {row['seconds']:8.3f} s   {spread}")
        else:
            print(
                f"{row['variant']:<24} n={row['n']:<6} d={row['width']:<5} {row['peak_mb']:8.0f} MiB above the inputs"
            )
    machine = {"processor": platform.processor() or platform.machine(), "system": platform.platform()}
    results = {"commit": git_commit(), "machine": machine, "versions": versions(), "rows": rows}
    (Path(cfg.out) / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {Path(cfg.out) / 'results.json'}")


if __name__ == "__main__":
    main()
