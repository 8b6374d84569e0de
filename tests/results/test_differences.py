"""Differences of an ablation's points are paired, over seeds and over tasks, and tested as Student tested them."""

from statistics import mean

import pytest

from gte.errors import UserError
from gte.results.ablation import check_groups, table
from gte.results.differences import differences

# Student (1908), additional hours of sleep by two drugs on ten patients: t = 4.0621 of 9 degrees, p = 0.002833
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def scores(*rows: tuple) -> list[dict]:
    return [dict(zip(("run", "seed", "metric", "value"), row, strict=True)) for row in rows]


def by_seed(run: str, values: list[float], task: str = "STS") -> list[tuple]:
    return [(f"{run},seed={seed}", seed, task, str(value)) for seed, value in enumerate(values)]


def test_ten_seeds_of_students_data_have_his_p_in_any_order_of_rows():
    rows = scores(*by_seed("alpha=0", FIRST), *by_seed("alpha=1", SECOND))
    (_, found), (_, turned) = differences(rows, []), differences(rows[::-1], [])
    assert found == turned == ["alpha: 0 -> 1", "10", "1", "+1.58", "0.003", ""]


def test_tasks_are_paired_by_name_and_their_p_is_that_of_the_means_over_seeds():
    tasks = [f"T{number}" for number in range(10)]
    rows = [
        (f"loss=a,seed={seed}", seed, task, x + seed) for seed in (1, 2) for task, x in zip(tasks, FIRST, strict=True)
    ]
    rows += [
        (f"loss=b,seed={seed}", seed, task, x + seed)
        for seed in (2, 1)
        for task, x in reversed(list(zip(tasks, SECOND, strict=True)))
    ]
    rows += [(f"loss={loss},seed=1", 1, "train/loss", 1e6) for loss in "ab"]  # is no score
    _, found = differences(scores(*rows), ["b", "a"])
    assert found == ["loss: b -> a", "2", "10", "-1.58", "", "0.003"]  # both seeds differ by the same: no spread, no p


def test_points_that_differ_in_one_key_are_compared_by_what_both_have():
    rows = by_seed("stage=pretrain,loss=a", [1, 2, 3]) + by_seed("stage=pretrain,loss=b", [3, 5, 5, 90])
    rows += by_seed("stage=finetune,loss=a", [7, 8])
    rows += by_seed("stage=pretrain,loss=a", [0], "Other")  # one seed of it alone, and none of b
    header, *found = differences(scores(*rows), ["pretrain", "finetune", "a", "b"])
    assert len(header) == len(found[0])
    assert [row[0] for row in found] == ["pretrain, loss: a -> b", "a, stage: pretrain -> finetune"]
    assert found[0][1:4] == ["3", "1", f"{mean([2, 3, 2]):+.2f}"]
    assert float(found[0][4]) == pytest.approx(0.020, abs=1e-3)  # t = 7 of 2 degrees: p = 1 - 7 / sqrt(51)


def test_a_seed_that_lacks_a_task_leaves_the_comparison_and_the_others_stay():
    rows = [
        one for a, shift in ((0, 0), (1, 2)) for task in "STU" for one in by_seed(f"a={a}", [1 + shift, 2, 9], task)
    ]
    rows = [row for row in rows if row[:3] != ("a=1,seed=2", 2, "U")]
    complete = [row for row in rows if row[1] != 2]
    groups = {"one": ["U"], "both": ["S", "T"]}
    assert differences(scores(*rows), [])[1] == differences(scores(*complete), [])[1]
    assert differences(scores(*rows), [])[1][:4] == ["a: 0 -> 1", "2", "3", "+1.00"]
    assert differences(scores(*rows), [], groups)[1][-2:] == [
        "+1.00 (0.500)",
        "+0.67 (0.423)",
    ]  # all three seeds have S and T
    none = [row for row in rows if (row[1], row[2]) in ((0, "S"), (1, "T"))]
    assert differences(scores(*none), [])[1] == ["a: 0 -> 1", "", "", "", "", ""]


def test_a_group_is_the_mean_of_its_tasks_and_has_its_own_p():
    rows = by_seed("a=0", [1, 2, 3], "STS12") + by_seed("a=1", [3, 5, 5], "STS12")
    rows += by_seed("a=0", [5, 6, 7], "STS13") + by_seed("a=1", [7, 9, 9], "STS13")
    rows += by_seed("a=0", [50, 50, 50], "Ruby") + by_seed("a=1", [40, 40, 40], "Ruby")
    groups = {"similarity": ["STS*"], "code": ["Ruby"], "all": ["STS1?", "Ruby"]}
    found = scores(*rows)
    check_groups(found, groups)
    assert table(found, [], groups)[0] == ["point", "seeds", "similarity", "code", "all", "mean of tasks"]
    assert table(found, [], groups)[2] == ["a 1", "3", "6.33 ± 1.15", "40.00 ± 0.00", *["17.56 ± 0.77"] * 2]
    header, row = differences(found, [], groups)
    assert header[-3:] == ["similarity", "code", "all"]
    assert row[-3:-1] == ["+2.33 (0.020)", "-10.00"]  # t = 7 of 2 degrees, as above; no spread, no p
    assert row[-1] == f"{row[3]} ({row[4]})"


def test_a_pattern_that_fits_no_task_is_refused_by_its_group():
    with pytest.raises(UserError, match=r"groups.science: Scifact fits none of the tasks: STS"):
        check_groups(scores(*by_seed("a=0", [1])), {"science": ["Scifact"]})
