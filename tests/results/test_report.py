"""report.html: whole, well-formed, with the numbers of metrics.csv, nothing loaded, nothing believed that is a text."""

import csv
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from trainings import TINY

from gte.curves import read_rows
from gte.results.page import MOST_POINTS, Line, chart, number, ticks
from gte.results.report import write_experiment_report, write_run_report
from gte.ticker import spell

EVIL = "<script>alert(1)</script> & \"two\" 'quotes'"
HISTORY = [
    {"stage": {"name": "pretrain", "global_batch": 8}, "steps": 5, "sources": {EVIL: {}}, "commit": "abc"},
    {
        "stage": {"name": EVIL, "global_batch": 8, "steps": 40},
        "loss": "improved_contrastive_loss",
        "sources": {EVIL: {"rows": 1200, "licence": "CC & <b>", "probability": 0.25}, "plain": {"rows": 7}},
        "commit": "0123abc",
    },
]


class Loaded(HTMLParser):
    """What a browser would fetch or run, as an HTML parser sees it."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [f"<{tag}>"] if tag in ("script", "link", "img", "iframe", "object", "image", "use") else []
        self.found += [f"{key}={value}" for key, value in attrs if key in ("src", "href", "srcset") or key[:2] == "on"]


def parsed(file: Path) -> ET.Element:
    """The page as strict XML, in which every element is closed; it loads nothing."""
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n") and not Loaded(text).found
    assert "url(" not in text and "@import" not in text and "http" not in text
    return ET.fromstring(text.partition("\n")[2])


def paths(page: ET.Element) -> list[tuple[ET.Element, ET.Element]]:
    """(svg, path) of every curve."""
    return [(svg, path) for svg in page.iter("svg") for path in svg.iter("path") if "data-key" in path.attrib]


def points(svg: ET.Element, path: ET.Element) -> list[tuple[float, float]]:
    """The numbers that a curve was drawn from, to the drawing's 1/4000."""
    _, _, wide, high = map(float, svg.attrib["viewBox"].split())
    (left, right), (low, high_value) = (list(map(float, svg.attrib[key].split())) for key in ("data-x", "data-y"))
    drawn = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([-\d.e]+),([-\d.e]+)", path.attrib["d"])]
    assert len(drawn) == int(path.attrib["data-points"])
    return [(left + x / wide * (right - left), high_value - y / high * (high_value - low)) for x, y in drawn]


def words(page: ET.Element) -> str:
    return " ".join(text.strip() for text in page.iter() for text in [text.text or ""] if text)


def write_run(folder: Path, rows: int = 40, sources=(EVIL, "plain"), history=HISTORY) -> Path:
    """A run directory with losses of two sources in turn, speed, memory and an evaluation every tenth step."""
    folder.mkdir(parents=True)
    names = ["step", "train/loss", *(f"train/loss/{name}" for name in sources), "train/pairs_per_s", "eval/Task"]
    names += ["eval/mean", "train/peak_memory_mb", "train/skipped"]
    with open(folder / "metrics.csv", "w", newline="") as lines:
        table = csv.DictWriter(lines, names)
        table.writeheader()
        for step in range(rows):
            loss = 3 / (1 + step / 7) + (step * 7919 % 13) / 50
            row = {"step": step, "train/loss": loss, f"train/loss/{sources[step % len(sources)]}": loss}
            row |= {"train/pairs_per_s": 16.0, "train/peak_memory_mb": 100 + step // 10, "train/skipped": 0.0}
            if step % 10 == 9:
                row |= {"eval/Task": 50 + step, "eval/mean": 40 + step}
            table.writerow(row)
    if history is not None:
        (folder / "training.json").write_text(json.dumps(history))
    return folder


def test_every_curve_has_the_points_and_the_values_of_metrics_csv(tmp_path):
    run = write_run(tmp_path / "run")
    page = parsed(write_run_report(run))
    rows = read_rows(run / "metrics.csv")
    drawn = {}
    for svg, path in paths(page):
        drawn.setdefault(path.attrib["data-key"], []).append((svg, path))
    logged = {key for key in rows[0] if key != "step" and any(row[key] for row in rows)}
    assert set(drawn) == logged - {"train/skipped"}  # zero at every step
    for key, found in drawn.items():
        expected = [(int(row["step"]) + 1, float(row[key])) for row in rows if row[key]]
        svg, path = found[0]  # the raw one, where there is a smoothed one
        low, high = map(float, svg.attrib["data-y"].split())
        for (x, y), (step, value) in zip(points(svg, path), expected, strict=True):
            assert x == pytest.approx(step, abs=0.05) and y == pytest.approx(value, abs=(high - low) / 4000)
    raw, smooth = drawn["train/loss"]
    losses = [float(row["train/loss"]) for row in rows]
    means = [sum(losses[max(0, k - 19) : k + 1]) / len(losses[max(0, k - 19) : k + 1]) for k in range(40)]
    assert [y for _, y in points(*smooth)] == pytest.approx(means, abs=1e-3)
    assert raw[1].attrib["class"].startswith("raw") and "mean of 20 steps" in smooth[1].attrib["data-name"]
    told = words(page)
    assert number(means[-1]) in told and "40 of 40 steps; commit 0123abc" in told
    assert "20 s" in told  # 40 steps of 8 pairs at 16 a second


def test_names_are_text_wherever_they_are_shown(tmp_path):
    run = write_run(tmp_path / EVIL.replace("/", "|"))
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([f"out={EVIL}"]))
    file = write_run_report(run)
    page = parsed(file)
    assert EVIL in words(page) and "CC & <b>" in words(page)
    assert {path.attrib["data-name"] for _, path in paths(page)} >= {EVIL, "plain"}
    assert "<script>" not in file.read_text() and html.escape(EVIL) in file.read_text()


def test_no_chart_has_more_than_six_colours_and_seven_are_refused(tmp_path):
    page = parsed(write_run_report(write_run(tmp_path / "run", 80, [f"source {k}" for k in range(8)])))
    charts = [
        {path.attrib["data-name"] for path in svg.iter("path") if "data-key" in path.attrib} for svg in page.iter("svg")
    ]
    assert max(map(len, charts)) == 4 and sum(names >= {"source 0"} for names in charts) == 1
    with pytest.raises(ValueError, match="7 curves"):
        chart("t", "u", [Line(str(k), "key", [1, 2], [1.0, 2.0]) for k in range(7)])


def test_a_long_run_of_many_sources_is_a_small_page_that_keeps_its_spikes(tmp_path):
    run = write_run(tmp_path / "run", 50_000, [f"source {k}" for k in range(40)])
    text = (run / "metrics.csv").read_text()
    first = text.index("\n31234,")
    line = text[first + 1 :].partition("\n")[0]
    (run / "metrics.csv").write_text(text.replace(line, line.replace(line.split(",")[1], "77.5"), 1))
    file = write_run_report(run)
    assert file.stat().st_size < 1_000_000
    svg, path = next(pair for pair in paths(parsed(file)) if pair[1].attrib["data-key"] == "train/loss")
    found = points(svg, path)
    assert 100 < len(found) <= MOST_POINTS and max(y for _, y in found) == pytest.approx(77.5, abs=0.05)
    assert next(x for x, y in found if y > 70) == pytest.approx(31_235, abs=5)


def test_what_a_run_does_not_have_is_not_shown(tmp_path):
    run = write_run(tmp_path / "run", history=None)
    headings = [node.text for node in parsed(write_run_report(run)).iter("h2")]
    assert headings == ["Loss", "Loss by source", "Evaluation", "Throughput and memory", "Data"]
    (run / "metrics.csv").write_text("step,train/loss\n0,2.5\n1,nan\n2,1.5\n3,inf\n")
    page = parsed(write_run_report(run))
    assert [node.text for node in page.iter("h2")] == ["Loss"]
    raw, smooth = paths(page)
    assert raw[1].attrib["data-points"] == "2" and raw[1].attrib["d"].count("M") == 2  # gaps, not a line across them
    assert smooth[1].attrib["data-points"] == "4"
    (run / "metrics.csv").write_text("")  # killed before its first line
    assert not list(parsed(write_run_report(run)).iter("svg"))


def test_the_numbers_of_a_page_are_those_of_all_steps_and_of_finite_values_alone(tmp_path):
    """Logged at each 50th step, 100 of 8 pairs at 10 a second; the first evaluation is no number."""
    (tmp_path / "run").mkdir()
    lines = ["eval/Task,step,train/loss,train/loss/a,train/pairs_per_s", "nan,0,3,3,10", "40,50,nan,nan,10", "30,60,,,"]
    (tmp_path / "run/metrics.csv").write_text("\n".join([*lines, ""]))
    facts = {"stage": {"name": "pretrain", "global_batch": 8, "steps": 100}, "steps": 100}
    page = parsed(write_run_report(tmp_path / "run", [facts]))
    told = words(page)
    assert spell(80) in told and "100 of 100 steps" in told and "not finished" not in told
    rows = [[cell.text for cell in row] for row in page.iter("tr")]
    assert ["Task", "nan", number(40), "51", number(30)] in rows
    (of_source,) = [row for row in rows if row[0] == "a"]
    assert number(3) in of_source and "nan" not in of_source


def test_scores_of_the_run_are_shown_beside_the_baselines_and_of_other_runs_are_not(tmp_path):
    for name in ("one", "other"):
        write_run(tmp_path / name)
        task = {"type": "STS", "metric": "cosine_spearman", "main_score": 61.25, "scores": {"cosine_spearman": 61.25}}
        models = {
            "BM25 <1>": {"checkpoint": "bm25", "tasks": {"STSBenchmark": task}},
            name: {"checkpoint": str(tmp_path / name / "checkpoints/last.ckpt"), "tasks": {"STSBenchmark": task}},
        }
        (tmp_path / f"eval_{name}").mkdir()
        (tmp_path / f"eval_{name}" / "results.json").write_text(json.dumps({"suite": "sts", "models": models}))
    told = words(parsed(write_run_report(tmp_path / "one")))
    assert "BM25 <1>" in told and "61.25" in told and "eval_one/results.json" in told and "eval_other" not in told


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    before = write_run_report(run).read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_run_report(run, [HISTORY[0]])
    assert (run / "report.html").read_text() == before


def test_an_experiments_page_has_means_deviations_and_bands_over_its_seeds(tmp_path):
    scores = [
        {"run": f"loss={loss},seed={seed}", "commit": "c0ffee12", "overrides": EVIL, "seed": seed}
        | {"metric": "STS & co", "value": str(value)}
        for loss, seed, value in (("vanilla", 1, 50), ("vanilla", 2, 53), ("improved", 1, 60))
    ]
    losses = [
        {"run": row["run"], "step": step, "loss": 5 - step + int(row["seed"])} for row in scores for step in (1, 2)
    ]
    file = write_experiment_report(
        tmp_path, "objective", scores, losses, ["vanilla", "improved"], [["a", "b"], ["1", "2"]], [HISTORY]
    )
    page = parsed(file)
    marks = [path.attrib for path in page.iter("path") if "data-mean" in path.attrib]
    assert {(mark["data-name"], float(mark["data-mean"])) for mark in marks} == {("vanilla", 51.5), ("improved", 60.0)}
    assert {round(float(mark["data-deviation"]), 6) for mark in marks} == {round(4.5**0.5, 6), 0.0}
    curves = {path.attrib["data-name"]: points(svg, path) for svg, path in paths(page)}
    assert [y for _, y in curves["vanilla"]] == pytest.approx([5.5, 4.5], abs=1e-3)
    assert sum("band" in path.attrib.get("class", "") for path in page.iter("path")) == 1  # one of one seed has none
    told = words(page)
    assert "2 points, 3 runs, 2 seeds; commit c0ffee1" in told and EVIL in told and "CC & <b>" in told
    assert [node.text for node in page.iter("h2")][2:4] == ["Differences", "The paper's table"]


def test_a_run_writes_its_page_goes_on_with_it_and_any_run_gets_one_by_collect(script, prepared, tmp_path):
    script.draws = True
    for steps in (3, 7):
        settings = [f"data.dir={prepared}", "out=run", "resume=auto", f"stage.steps={steps}"]
        code, out, err = script("train", *TINY, *settings)
        assert code == 0 and "report.html" in out, err
        page = parsed(tmp_path / "run" / "report.html")
        (raw, _) = [path for _, path in paths(page) if path.attrib["data-key"] == "train/loss"]
        assert raw.attrib["data-points"] == str(steps) and f"{steps} of {steps} steps" in words(page)
    assert (tmp_path / "run" / "loss.svg").stat().st_size > 1_000
    at_the_end = (tmp_path / "run" / "report.html").read_text()
    for gone in ("report.html", "training.json"):
        (tmp_path / "run" / gone).unlink()
    code, out, err = script("collect", "report=run")
    assert code == 0 and "run/report.html" in out, err
    assert (tmp_path / "run" / "report.html").read_text() == at_the_end
    before = sorted(tmp_path.iterdir())
    assert "is no run directory: it has no metrics.csv" in script.refused("collect", "report=rnu")
    assert sorted(tmp_path.iterdir()) == before
    assert "name= is missing" in script.refused("collect")


def test_ticks_are_round_and_within_their_range():
    for low, high in ((0.0, 1.0), (0.693, 11.2), (1e-6, 2e-4), (-3.0, 4.0), (49_000.0, 50_000.0), (5.0, 5.0)):
        found = ticks(low, high)
        assert 1 <= len(found) <= 6 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
        steps = {f"{b - a:.6g}" for a, b in itertools.pairwise(found)}
        assert len(steps) <= 1 and all(step.lstrip("0.").rstrip("0")[:1] in tuple("125") for step in steps)


MEASURE = """<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, seen = [];
  for (const path of page.querySelectorAll("path[data-key]")) {
    const box = path.getBoundingClientRect(), style = frame.contentWindow.getComputedStyle(path);
    seen.push([path.dataset.key, box.width, box.height, style.stroke]);
  }
  const root = page.documentElement, ink = frame.contentWindow.getComputedStyle(page.body);
  const said = {seen, over: root.scrollWidth - root.clientWidth, page: ink.backgroundColor, ink: ink.color,
    tall: root.scrollHeight};
  const out = document.createElement("pre");
  out.textContent = "MEASURED" + JSON.stringify(said) + "MEASURED";
  document.body.append(out);
};
</script>"""


@pytest.fixture
def chromium(tmp_path):
    """Opens a page in a real headless browser: what it measured of it there, and a picture's pixels."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium: install it, or name it by CHROMIUM=/path/to/chromium")
    image = pytest.importorskip("matplotlib.image")

    def run(file: Path, width: int, dark: bool):
        """Within a frame, since a window is at least 500 wide."""
        framed, picture = tmp_path / "framed.html", tmp_path / f"{width}{'dark' * dark}.png"
        page = html.escape(file.read_text(encoding="utf-8"))
        frame = f'<iframe style="border:0" width="{width}" height="3000" srcdoc="{page}"></iframe>'
        framed.write_text(f'<body style="margin:0">{frame}{MEASURE}</body>', encoding="utf-8")
        command = [
            found,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=5000",
        ]
        command += [
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        ]
        command += [f"--window-size={max(500, width)},3000", "--dump-dom", framed.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert "MEASURED" in shown.stdout, shown.stderr[-2000:]
        shot = [one for one in command if one != "--dump-dom"]
        subprocess.run([*shot[:-1], f"--screenshot={picture}", shot[-1]], capture_output=True, timeout=120, check=True)
        pixels = (image.imread(picture)[:, :, :3] * 255).round().astype(int)
        return json.loads(html.unescape(shown.stdout.split("MEASURED")[-2])), pixels

    return run


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_shows_every_curve_in_both_schemes_on_a_phone_and_on_a_screen(chromium, tmp_path, width, dark):
    file = write_run_report(write_run(tmp_path / "run", 400, [*(f"source {k}" for k in range(7)), EVIL]))
    said, pixels = chromium(file, width, dark)
    keys = [path.attrib["data-key"] for _, path in paths(parsed(file))]
    assert [key for key, *_ in said["seen"]] == keys and len(keys) > 10
    flat = {key for key, _, height, _ in said["seen"] if height == 0}
    assert flat <= {"train/pairs_per_s"}  # which is constant here
    for key, wide, _, _ in said["seen"]:
        assert wide > (150 if width == 390 else 300), key
    assert said["over"] <= 0  # nothing stands out sideways: wide tables scroll by themselves
    page, ink = (sum(map(int, re.findall(r"\d+", said[key])[:3])) for key in ("page", "ink"))
    assert (page < 120 and ink > 600) if dark else (page > 700 and ink < 150)
    assert abs(pixels[5, 5].sum() - page) <= 3
    for stroke in {stroke for _, _, _, stroke in said["seen"]}:
        colour = list(map(int, re.findall(r"\d+", stroke)[:3]))
        near = (abs(pixels - colour).max(axis=2) <= 12).sum()
        assert near > 100, f"{near} pixels of {stroke}"
