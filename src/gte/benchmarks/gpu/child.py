"""One check in a process of its own: `python -m gte.benchmarks.gpu.child NAME MODULE SETTING FILE` writes FILE."""

import importlib
import json
import sys
from pathlib import Path

from gte.benchmarks.gpu.findings import LOWER, Findings, Skipped
from gte.benchmarks.gpu.setting import Setting


def main(name: str, module: str, setting: str, file: str) -> None:
    chosen = Setting(**json.loads(setting))
    findings = Findings(Path(file), judge=not chosen.small)
    try:
        getattr(importlib.import_module(module), name)(findings, chosen)
    except Skipped as reason:
        findings.write(skipped=str(reason), done=True)
    except Exception as error:
        if "out of memory" not in str(error):
            raise
        findings.fault(LOWER)
        findings.write(done=True)
    else:
        findings.write(done=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
