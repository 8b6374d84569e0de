"""Whether the points of an ablation differ: paired over seeds and over tasks."""

from collections.abc import Sequence
from itertools import combinations
from statistics import mean

from scipy.stats import ttest_rel

from gte.results.ablation import Groups, by_point, in_group, tasks_of
from gte.results.paper import Table

HEADER = ["points", "seeds", "tasks", "difference", "p over seeds", "p over tasks"]


def differences(scores: list[dict], order: list[str], groups: Groups | None = None) -> Table:
    """Compare each two points that differ in one key alone, a row each, the last key first: second less first.

    The difference is the mean over the tasks that both have and the seeds that have all of them, in points of 100. Each
    p is that of a paired t-test of both points' means: over seeds, each the mean of its tasks (would other seeds show
    it?), and over tasks, each the mean of its seeds (would other tasks?). Nothing is corrected for the number of rows.
    Raises UserError where a seed of a point has two values of a task.

    Args:
        scores: rows as `gte.results.ablation.collect` gives them.
        order: the values of the grid in order.
        groups: a further column each, the difference over its tasks alone and in brackets the p over seeds.

    >>> rows = [("a=0", 1, "STS", 60), ("a=0", 2, "STS", 62), ("a=1", 1, "STS", 63), ("a=1", 2, "STS", 64)]
    >>> keys = ("run", "seed", "metric", "value")
    >>> differences([dict(zip(keys, row)) for row in rows], [])[1]
    ['a: 0 -> 1', '2', '1', '+2.50', '0.126', '']
    """
    found: dict[tuple, dict[tuple, float]] = {}
    for entry, metrics in by_point(scores, order).items():
        for metric, values in tasks_of(metrics).items():
            found.setdefault(entry, {}).update({(seed, metric): value for seed, value in values.items()})
    points = list(found)
    rows = [[*HEADER, *(groups or {})]]
    for place in range(max(map(len, points), default=0) - 1, -1, -1):
        for first, second in combinations(points, 2):
            if differing(first, second) == [place]:
                compared = compare(found[first], found[second])
                for patterns in (groups or {}).values():
                    a, b = (only(found[entry], patterns) for entry in (first, second))
                    _, _, difference, p, _ = compare(a, b)
                    compared.append(f"{difference} ({p})" if p else difference)
                rows.append([label(first, second, place), *compared])
    return rows


def differing(first: tuple, second: tuple) -> list[int]:
    """The places of the keys by which two points differ; none where they have other keys."""
    if [key for key, _ in first] != [key for key, _ in second]:
        return []
    return [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]


def label(first: tuple, second: tuple, place: int) -> str:
    """Say what both points have in common, then the key at `place` with its two values.

    >>> label((("stage", "pretrain"), ("loss", "vanilla")), (("stage", "pretrain"), ("loss", "improved")), 1)
    'pretrain, loss: vanilla -> improved'
    """
    common = [value for k, (_, value) in enumerate(first) if k != place]
    return ", ".join([*common, f"{first[place][0]}: {first[place][1]} -> {second[place][1]}"])


def only(of: dict[tuple, float], patterns: Sequence[str]) -> dict[tuple, float]:
    """The scores of the tasks that are in a group, by (seed, task)."""
    return {pair: value for pair, value in of.items() if in_group(pair[1], patterns)}


def compare(first: dict[tuple, float], second: dict[tuple, float]) -> list[str]:
    """The cells of HEADER behind the points. Scores are by (seed, task).

    A task that one point lacks is left out, then a seed that lacks one of the others: a mean over seeds of other tasks
    is none.
    """
    both = [pair for pair in first if pair in second]
    seeds, tasks = (list(dict.fromkeys(pair[k] for pair in both)) for k in (0, 1))
    seeds = [seed for seed in seeds if all((seed, task) in of for task in tasks for of in (first, second))]
    if not seeds:
        return ["", "", "", "", ""]
    a, b = ([[of[seed, task] for task in tasks] for seed in seeds] for of in (first, second))
    over_seeds = p_value(list(map(mean, a)), list(map(mean, b)))
    over_tasks = p_value(*([mean(column) for column in zip(*scores, strict=True)] for scores in (a, b)))
    difference = mean(map(mean, b)) - mean(map(mean, a))
    return [str(len(seeds)), str(len(tasks)), f"{difference:+.2f}", over_seeds, over_tasks]


def p_value(first: list[float], second: list[float]) -> str:
    """Two-sided p of a paired t-test; "" where there are not two pairs, or all differ by the same."""
    if len(first) < 2 or len({round(b - a, 9) for a, b in zip(first, second, strict=True)}) < 2:
        return ""
    p = ttest_rel(second, first).pvalue
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
