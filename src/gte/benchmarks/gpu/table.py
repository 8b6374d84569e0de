"""The results of the checks as Markdown, and into experiments/gpu/README.md."""

from pathlib import Path

from gte.benchmarks.gpu.catalogue import CHECKS
from gte.benchmarks.gpu.runner import numbers_of

README = Path(__file__).resolve().parents[4] / "experiments" / "gpu" / "README.md"
BEGIN, END = "<!-- results: written by make gpu -->", "<!-- end of results -->"


def markdown(results: dict) -> str:
    """Three tables: the targets, the checks, and every number.

    Args:
        results: what `results.json` holds: where the checks ran and, under `checks`, what each found.
    """
    checks = results["checks"]
    where = ", ".join(f"{key} {value}" for key, value in results["where"].items() if value is not None)
    lines = [f"{where}.", "", f"`{results['command']}`", "", "| target | goal | measured | met |", "|---|---|---|---|"]
    for found in checks.values():
        for name, target in found.get("targets", {}).items():
            met = "yes" if target["met"] else "**no**"
            lines.append(f"| {name} | {target['goal']} | {target['measured']:.4g} | {met} |")
    lines += ["", "| check | result | seconds | says |", "|---|---|---|---|"]
    for name, found in checks.items():
        lines.append(f"| {name} | {verdict(found)} | {found.get('seconds', '')} | {CHECKS[name].says} |")
    lines += ["", "| check | row | numbers |", "|---|---|---|"]
    for name, found in checks.items():
        lines += [f"| {name} | {label} | {numbers_of(row)} |" for label, row in found.get("rows", {}).items()]
    return "\n".join(lines)


def verdict(found: dict) -> str:
    """Whether a check passed, in a word and its reason."""
    if "left" in found:
        return f"not run: {found['left']}"
    if "skipped" in found:
        return f"skipped: {found['skipped']}"
    return "ok" if found["ok"] else "**failed**: " + "; ".join(found["faults"])


def into_readme(results: dict, file: Path = README) -> None:
    """Put the tables in the place of those that the file has between its two marks."""
    text = file.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    file.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")
