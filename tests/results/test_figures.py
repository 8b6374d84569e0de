"""Figures show the numbers that they are given: means and deviations over seeds, smoothed curves, six a panel."""

from math import inf, isnan, nan, sqrt

import matplotlib
import pytest

from gte.curves import band, best_for_the_time, chunks, read_metrics, running_mean, spread, steps_made, thin, window_of
from gte.errors import UserError
from gte.results.ablation import by_line, losses_by_line, scores_by_seconds, seconds
from gte.results.figures import ablation, loss_by_source, loss_curves, loss_of_points, mixture_shares, score_by_seconds

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def no_figure_left():
    plt.close("all")
    yield
    plt.close("all")


def panels() -> list:
    return [axes for axes in plt.gcf().axes if axes.axison]


def test_a_smoothed_value_is_the_mean_of_the_last_window_of_finite_values():
    values = [4.0, 1.0, nan, 7.0, 1e20, 2.0, 3.0, 4.0, inf, 5.0]
    for window in (1, 3, 20):
        for at, smooth in enumerate(running_mean(values, window)):
            last = [value for value in values[max(0, at - window + 1) : at + 1] if not isnan(value) and value != inf]
            assert smooth == pytest.approx(sum(last) / len(last), rel=1e-12) if last else isnan(smooth)
    assert running_mean([], 20) == []
    assert (window_of(40), window_of(50_000)) == (20, 1000)


def test_a_thinned_curve_keeps_its_ends_every_spike_and_its_gaps():
    ys = [float(k % 7) for k in range(50_000)]
    ys[1234], ys[40_001], ys[30_000] = 1e6, -1e6, nan
    xs, kept = thin(range(50_000), ys, 600)
    assert len(xs) <= 600 and (xs[0], xs[-1]) == (0, 49_999) and xs == sorted(set(xs))
    assert {1234, 40_001, 30_000} <= set(xs)
    assert all(kept[k] == ys[x] or isnan(ys[x]) for k, x in enumerate(xs))
    assert thin([1, 2], [3.0, nan], 600)[0] == [1, 2]


def test_a_metrics_file_is_read_to_its_last_whole_line_and_named_where_it_is_damaged(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,train/loss,eval/A,none\n0,1.5,,\n1,nan,,\n2,2.5,70,\n3,1")
    curves = read_metrics(file)
    assert set(curves) == {"train/loss", "eval/A"} and curves["eval/A"] == ([2], [70.0])
    assert curves["train/loss"][0] == [0, 1, 2] and steps_made(curves["eval/A"]) == ([3], [70.0])
    file.write_text("")
    assert read_metrics(file) == {}
    file.write_text("step,train/loss\n0,1.5\n1,1.x\n")
    with pytest.raises(UserError, match=r"metrics\.csv, line 3"):
        read_metrics(file)


def test_seven_curves_are_two_panels():
    assert [len(part) for part in chunks(list(range(7)))] == [3, 4]
    assert chunks([]) == [] and [len(part) for part in chunks("abcdef")] == [6]


def test_points_of_categories_are_means_with_intervals_and_no_line():
    ours = {"pretrain": [("vanilla", [1.0, 2.0, 6.0]), ("improved", [4.0, 4.0, 7.0])]}
    ablation(ours, None, "objective", "loss")
    (panel,) = panels()
    (drawn,) = panel.containers
    line, _, (bars,) = drawn
    assert line.get_linestyle() == "None" and line.get_ydata().tolist() == [3.0, 5.0]
    assert line.get_xdata().tolist() == pytest.approx([0, 1], abs=0.3)  # a little aside, where there are several
    deviations = [sqrt((4 + 1 + 9) / 2), sqrt((1 + 1 + 4) / 2)]
    for segment, middle, deviation in zip(bars.get_segments(), (3.0, 5.0), deviations, strict=True):
        assert segment[:, 1].tolist() == pytest.approx([middle - deviation, middle + deviation])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["vanilla", "improved"]


def test_points_of_numbers_stand_at_their_numbers_in_a_band_and_share_a_panel_with_the_papers_where_x_agree():
    ours = {"ours": [("0", [10.0, 12.0]), ("0.5", [14.0, 16.0]), ("1", [11.0, 15.0])]}
    paper = [["alpha", "STS", "MTEB"], ["0", "50", "40"], ["0.50", "58", "44"], ["1.0", "54", "48"]]
    ablation(ours, paper, "mixing", "alpha")
    own, both = panels()
    assert own.get_lines()[0].get_xdata().tolist() == [0, 0.5, 1]
    assert own.get_lines()[0].get_ydata().tolist() == [11, 15, 13]
    edges = own.collections[0].get_paths()[0].vertices[:, 1]
    assert (min(edges), max(edges)) == (pytest.approx(11 - sqrt(2)), pytest.approx(15 + sqrt(2)))
    compared = {line.get_label(): line.get_ydata().tolist() for line in both.get_lines()}
    assert compared == {"ours": [-2, 2, 0], "paper, STS": [-4, 4, 0], "paper, MTEB": [-4, 0, 4]}
    plt.close("all")
    ablation(ours, [paper[0], *paper[2:]], "mixing", "alpha")  # other points than ours: a panel of the paper's own
    _, theirs = panels()
    assert theirs.get_lines()[0].get_ydata().tolist() == [58, 54]


def test_no_panel_has_more_than_six_curves(tmp_path):
    many = {f"line {k}": [("1", [1.0]), ("2", [2.0])] for k in range(8)}
    ablation(many, None, "t", "x")
    assert [len(panel.get_lines()) for panel in panels()] == [4, 4]
    plt.close("all")
    loss_of_points({"": {str(k): [([1, 2], [2.0, 1.0])] for k in range(13)}}, "t")
    assert [len(panel.get_lines()) for panel in panels()] == [4, 4, 5]
    plt.close("all")
    mixture_shares({"a": 1, "b": 9}, [k / 10 for k in range(8)])
    assert [len(panel.get_lines()) for panel in panels()] == [4, 4]
    plt.close("all")
    names = [f"train/loss/s{k}" for k in range(7)]
    rows = [f"{k},{','.join(str(k) if k % 7 == n else '' for n in range(7))}" for k in range(21)]
    (tmp_path / "metrics.csv").write_text("\n".join([",".join(["step", *names]), *rows, ""]))
    loss_by_source(tmp_path / "metrics.csv", "t")
    assert [len(panel.get_lines()) for panel in panels()] == [3, 4]
    assert panels()[0].get_lines()[0].get_xdata().tolist() == [1, 8, 15]
    assert panels()[0].get_lines()[0].get_ydata().tolist() == [0, 3.5, 7]


def test_a_loss_over_seeds_is_their_mean_in_a_band_of_one_deviation_at_their_common_steps():
    seeds = [([2, 4, 6], [5.0, 4.0, 3.0]), ([2, 4], [7.0, 4.0])]
    assert band(seeds) == ([2, 4], [6.0, 4.0], [pytest.approx(sqrt(2)), 0.0])
    loss_of_points({"pretrain": {"vanilla": seeds}}, "objective")
    (panel,) = panels()
    assert panel.get_title() == "objective, pretrain" and panel.get_lines()[0].get_ydata().tolist() == [6.0, 4.0]
    edges = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert (min(edges), max(edges)) == (4.0, pytest.approx(6 + sqrt(2)))
    assert spread([3.0]) == (3.0, 0.0)


def test_runs_of_one_point_are_its_seeds_and_panels_are_what_points_have_in_common():
    rows = [
        {"run": run, "step": str(step), "loss": str(loss)}
        for run, loss in {
            "stage=PT,loss=vanilla,seed=2": 3,
            "stage=PT,loss=improved,seed=1": 5,
            "stage=FT,loss=improved,seed=1": 2,
            "stage=PT,loss=vanilla,seed=1": 4,
        }.items()
        for step in (1, 2)
    ]
    found = losses_by_line(rows, ["PT", "FT", "vanilla", "improved"])
    assert {title: list(group) for title, group in found.items()} == {"PT": ["vanilla", "improved"], "FT": ["improved"]}
    assert sorted(curve[1] for curve in found["PT"]["vanilla"]) == [[3.0, 3.0], [4.0, 4.0]]
    alone = losses_by_line([{"run": f"seed={seed}", "step": "1", "loss": "2"} for seed in (1, 2)], [])
    assert {title: {x: len(seeds) for x, seeds in group.items()} for title, group in alone.items()} == {"": {"ours": 2}}


def test_a_mixtures_shares_are_equation_4(tmp_path):
    sizes = {"small": 100, "large": 10_000, "mid": 2_500}
    mixture_shares(sizes, [0, 0.5, 1])
    (panel,) = panels()
    assert [label.get_text() for label in panel.get_yticklabels()] == ["small", "mid", "large"]
    for line, alpha in zip(panel.get_lines(), (0, 0.5, 1), strict=True):
        total = sum(size**alpha for size in sizes.values())
        assert line.get_xdata().tolist() == pytest.approx([100 * n**alpha / total for n in (100, 2_500, 10_000)])


def test_the_best_for_the_time_is_what_no_other_point_beats():
    points = [(10, 50.0), (20, 40.0), (20, 60.0), (30, 60.0), (5, 30.0), (40, 61.0)]
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert best_for_the_time(points) == sorted(set(points) - beaten)
    scores = [
        {"run": f"loss={loss},seed={seed}", "metric": metric, "value": value}
        for loss, seed, metric, value in [
            *(("a", 1, "STS", "50"), ("a", 2, "STS", "52"), ("b", 1, "STS", "60"), ("c", 1, "STS", "1")),
            *(("a", 1, "train/seconds", "10"), ("a", 2, "train/seconds", "12"), ("b", 1, "train/seconds", "90")),
        ]
    ]
    found = scores_by_seconds(scores, [])
    assert found == {"a": [(10.0, 50.0), (12.0, 52.0)], "b": [(90.0, 60.0)]}
    assert by_line(scores, [])["ours"][0] == ("a", [50.0, 52.0])  # seconds are no task
    score_by_seconds(found, "t")
    assert [text.get_text() for text in panels()[0].texts] == ["a", "b"]


def test_seconds_of_a_run_are_its_pairs_by_their_rate_also_of_steps_not_logged():
    assert seconds(([0, 1, 2], [100.0, 50.0, 200.0]), 100, 3) == pytest.approx(1 + 2 + 0.5)
    assert seconds(([0, 10, 20], [100.0] * 3), 100, 21) == pytest.approx(21)
    assert seconds(([0, 50], [10.0, 10.0]), 8, 100) == pytest.approx(100 * 8 / 10)  # 49 of them after the last line
    assert seconds(([60, 61], [5.0, 20.0]), 10, 100) == pytest.approx(100 * (2 + 0.5) / 2)  # the first lines are lost
    assert seconds(([], []), 100, 3) == 0.0


def test_a_figure_is_a_png_and_a_small_svg_that_is_the_same_each_time(tmp_path):
    rows = [f"{step},{5 / (1 + step)}" for step in range(300)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,train/loss", *rows, ""]))
    written = []
    for name in ("a", "b"):
        loss_curves({"run <&>": tmp_path / "metrics.csv"}, tmp_path / f"{name}.png")
        written.append((tmp_path / f"{name}.svg").read_bytes())
    assert written[0] == written[1] and len(written[0]) < 50_000 and b"&lt;&amp;&gt;" in written[0]
    assert b"<dc:date>" not in written[0] and (tmp_path / "a.png").stat().st_size > 5_000
    assert not plt.get_fignums()
