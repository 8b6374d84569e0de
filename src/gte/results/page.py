"""A page of HTML that needs nothing else: text, tables, charts; light and dark, on a phone and on paper.

Every text that is given is escaped. A chart is an SVG that stretches with the page, its numbers beside it as text, so
that they stay readable at any width; there is no script and nothing is loaded.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import floor, isfinite, log10

from gte.curves import MOST_CURVES, thin

WIDE, HIGH = 1000, 400  # units of a chart's own coordinates
LONG = 40  # characters of a cell that is worth lines of its own
NUMBER = re.compile(r"[-+±\d., %e]*|nan|-?inf")
MOST_POINTS = 600  # of a curve; a chart is at most some 1,000 device pixels wide
STYLE = """
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1d1d1f; --faint: #6a6a70; --line: #dcdce0; --card: #fff;
  --c1: #0072b2; --c2: #c04e00; --c3: #00805d; --c4: #b0518a; --c5: #9a6a00; --c6: #3d8fc4; }
@media (prefers-color-scheme: dark) { :root { --page: #131417; --ink: #e9e9ec; --faint: #a0a0a8; --line: #34353b;
  --card: #1b1c20; --c1: #56b4e9; --c2: #ff8f4a; --c3: #2fc79a; --c4: #e59ac8; --c5: #e6b84c; --c6: #9db7ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.35rem; margin: .3rem 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
p { margin: .4rem 0; } small, .note { color: var(--faint); font-size: .82rem; } code { font-size: .85em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tiles div, .chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .8rem; }
.chart { margin: 0; min-width: 0; } figcaption { font-weight: 600; font-size: .9rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; list-style: none; margin: .2rem 0 .5rem; padding: 0;
  font-size: .8rem; }
.legend li::before { content: ""; display: inline-block; width: 1rem; height: 3px; margin-right: .35rem;
  vertical-align: middle; background: currentcolor; } .legend span { color: var(--ink); }
.plot { position: relative; margin: .3rem .4rem 1.3rem 3.2rem; }
.plot svg { display: block; width: 100%; height: 12rem; }
.plot span { position: absolute; color: var(--faint); font-size: .72rem; line-height: 1; white-space: nowrap;
  font-variant-numeric: tabular-nums; } .y { right: calc(100% + .4rem); transform: translateY(-50%); }
.x { top: calc(100% + .35rem); transform: translateX(-50%); } .x.end { transform: translateX(-100%); }
svg path { fill: none; stroke: currentcolor; stroke-width: 1.8; stroke-linejoin: round; vector-effect:
  non-scaling-stroke; } svg .grid { color: var(--line); stroke-width: 1; } svg .raw { opacity: .35; stroke-width: 1; }
svg .band { fill: currentcolor; stroke: none; opacity: .2; } svg .dot { stroke-width: 7; stroke-linecap: round; }
svg .seed { stroke-width: 4; stroke-linecap: round; opacity: .4; }
.c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); } .c4 { color: var(--c4); }
.c5 { color: var(--c5); } .c6 { color: var(--c6); }
.rows { display: grid; grid-template-columns: fit-content(45%) 1fr; gap: 0 .7rem; align-items: center;
  font-size: .8rem; }
.rows svg { width: 100%; height: 1.5rem; display: block; } .rows .axis { position: relative; height: 1.1rem; }
.rows .axis span { position: absolute; transform: translateX(-50%); color: var(--faint); font-size: .72rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .83rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } .n { text-align: right; } td, th { white-space: nowrap; }
td.t { min-width: 20rem; white-space: normal; }
.bar { display: block; height: 4px; border-radius: 2px; background: var(--c1); }
@media print { .chart, .tiles div { break-inside: avoid; } }
"""


@dataclass
class Line:
    """A curve of a chart.

    Attributes:
        name: what the legend shows; a line of the same name as the one before is drawn in its colour, without an entry.
        key: the metric that it is of.
        xs, ys: its points; a gap where a value is not finite.
        kind: line, raw (thin and faint) or dot (a mark at each point, and a line).
        spread: of a line, the half height of a band around it at each point.
    """

    name: str
    key: str
    xs: Sequence[float]
    ys: Sequence[float]
    kind: str = "line"
    spread: Sequence[float] = field(default_factory=list)


def text(value: object) -> str:
    """A value as HTML: what would be markup or end an attribute is escaped."""
    return escape(str(value), quote=True)


def number(value: float) -> str:
    """A number in few digits: 1,234 0.0123 1.2e-05."""
    if not isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1:
        return f"{value:.4f}".rstrip("0").rstrip(".")
    if 1 <= abs(value) < 1000:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two: steps of 1, 2 or 5 times a power of ten, at most `most` of them."""
    if not high > low:
        return [low]
    step = 10.0 ** floor(log10((high - low) / most))
    step *= next((factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) < most), 50)
    first = -floor(-low / step + 1e-9)
    return [round(k * step, 12) for k in range(first, floor(high / step + 1e-9) + 1)]


def range_of(values: Iterable[float]) -> tuple[float, float]:
    """The least and the greatest of the finite values, a little apart where they are equal."""
    finite = [value for value in values if isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low == high:
        margin = abs(low) * 0.05 or 0.5
        return low - margin, high + margin
    return low, high


def path_of(points: Iterable[tuple[float, float]], x_range: tuple, y_range: tuple) -> tuple[str, int]:
    """The points as an SVG path in a chart's coordinates, broken where a value is not finite; how many it has."""
    (left, right), (low, high) = x_range, y_range
    parts, drawn, begins = [], 0, True
    for x, y in points:
        if not isfinite(y):
            begins = True
            continue
        across, down = WIDE * (x - left) / (right - left), HIGH * (high - y) / (high - low)
        parts.append(f"{'M' if begins else 'L'}{across:.5g},{down:.5g}")
        drawn, begins = drawn + 1, False
    return "".join(parts), drawn


def chart(title: str, unit: str, lines: Sequence[Line], x_label: str = "step") -> str:
    """A figure of at most six differently coloured curves over a common x axis; nothing where no curve has a point.

    Each path has data-key, data-name and data-points, the svg its ranges as data-x and data-y: so a reader, or a test,
    can take the numbers back out of the drawing.

    Raises ValueError for more than six colours.
    """
    lines = [line for line in lines if any(map(isfinite, line.ys))]
    names = list(dict.fromkeys(line.name for line in lines))
    if len(names) > MOST_CURVES:
        raise ValueError(f"{len(names)} curves in one chart; at most {MOST_CURVES} can be told apart")
    if not lines:
        return ""
    x_range = range_of(x for line in lines for x in line.xs)
    heights = [y for line in lines for y in line.ys]
    for line in lines:
        for y, spread in zip(line.ys, line.spread, strict=False):
            heights += [y - spread, y + spread]
    y_range = range_of(heights)
    drawn = [draw(line, names.index(line.name) + 1, x_range, y_range) for line in lines]
    ys = {y: 100 * (y_range[1] - y) / (y_range[1] - y_range[0]) for y in ticks(*y_range)}
    xs = {x: 100 * (x - x_range[0]) / (x_range[1] - x_range[0]) for x in ticks(*x_range)}
    grid = "".join(f"M0,{HIGH * share / 100:.5g}H{WIDE}" for share in ys.values())
    labels = [f'<span class="y" style="top:{share:.4g}%">{number(y)}</span>' for y, share in ys.items()]
    for x, share in xs.items():
        end = " end" if share > 97 else ""  # else it would stand out on a phone
        labels.append(f'<span class="x{end}" style="left:{share:.4g}%">{number(x)}</span>')
    legend = "".join(f'<li class="c{k}"><span>{text(name)}</span></li>' for k, name in enumerate(names, 1))
    shown, over = ", ".join(names), f"{unit}, by {x_label}" if unit else f"by {x_label}"
    return (
        f'<figure class="chart"><figcaption>{text(title)} <small>{text(over)}</small></figcaption>'
        f'<ul class="legend">{legend if len(names) > 1 or names[0] != title else ""}</ul><div class="plot">'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none" role="img" '
        f'aria-label="{text(title)} by {text(x_label)}: {text(shown)}" data-x="{x_range[0]!r} {x_range[1]!r}" '
        f'data-y="{y_range[0]!r} {y_range[1]!r}"><path class="grid" d="{grid}"/>{"".join(drawn)}</svg>'
        f"{''.join(labels)}</div></figure>\n"
    )


def draw(line: Line, colour: int, x_range: tuple, y_range: tuple) -> str:
    """A line's paths: its band, if it has one, then itself, then its marks."""
    paths = []
    if line.spread:
        upper = [(x, y + s) for x, y, s in zip(line.xs, line.ys, line.spread, strict=True) if isfinite(y + s)]
        lower = [(x, y - s) for x, y, s in zip(line.xs, line.ys, line.spread, strict=True) if isfinite(y - s)]
        edge, _ = path_of([*upper, *lower[::-1]], x_range, y_range)
        paths.append(f'<path class="band c{colour}" d="{edge}Z"/>')
    shape, points = path_of(zip(*thin(line.xs, line.ys, MOST_POINTS), strict=True), x_range, y_range)
    paths.append(
        f'<path class="{line.kind.replace("dot", "line")} c{colour}" data-key="{text(line.key)}" '
        f'data-name="{text(line.name)}" data-points="{points}" d="{shape}"><title>{text(line.name)}</title></path>'
    )
    if line.kind == "dot":
        marks = shape.replace("L", "M").replace("M", "h0M").removeprefix("h0") + "h0"
        paths.append(f'<path class="dot c{colour}" d="{marks}"/>')
    return "".join(paths)


def dots(title: str, unit: str, rows: Sequence[tuple[str, float, float, Sequence[float]]]) -> str:
    """A figure with a row a point: its mean as a mark, its standard deviation as an interval, its seeds as faint marks.

    rows: (label, mean, deviation, the value of each seed); nothing where there are none.
    """
    if not rows:
        return ""
    edges = [edge for _, mean, deviation, values in rows for edge in (mean - deviation, mean + deviation, *values)]
    low, high = range_of(edges)
    margin = (high - low) * 0.06
    x_range = (low - margin, high + margin)

    def at(x: float) -> str:
        return f"{WIDE * (x - x_range[0]) / (x_range[1] - x_range[0]):.5g}"

    places = {x: 100 * (x - x_range[0]) / (x_range[1] - x_range[0]) for x in ticks(*x_range)}
    grid = "".join(f"M{share * WIDE / 100:.5g},0V20" for share in places.values())
    parts = []
    for label, mean, deviation, values in rows:
        seeds = "".join(f"M{at(value)},10h0" for value in values) if len(values) > 1 else ""
        parts.append(
            f'<span>{text(label)}</span><svg viewBox="0 0 {WIDE} 20" preserveAspectRatio="none" role="img" '
            f'aria-label="{text(label)}: {mean:.2f} ± {deviation:.2f}"><path class="grid" d="{grid}"/>'
            f'<path class="seed c1" d="{seeds}"/>'
            f'<path class="c1" d="M{at(mean - deviation)},10H{at(mean + deviation)}"/>'
            f'<path class="dot c1" data-name="{text(label)}" data-mean="{mean!r}" data-deviation="{deviation!r}" '
            f'd="M{at(mean)},10h0"/></svg>'
        )
    axis = "".join(f'<span style="left:{share:.4g}%">{number(x)}</span>' for x, share in places.items())
    return (
        f'<figure class="chart"><figcaption>{text(title)} <small>{text(unit)}</small></figcaption>'
        f'<div class="rows">{"".join(parts)}<span></span><div class="axis">{axis}</div></div></figure>\n'
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table with a header; columns of numbers to the right. One wider than the page scrolls by itself."""
    header, *body = rows
    kinds = [kind_of([row[k] for row in body]) for k in range(len(header))]

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{kind}>{text(cell)}</{tag}>" for cell, kind in zip(row, kinds, strict=True))

    lines = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in body)
    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>\n{lines}</tbody></table></div>\n'


def kind_of(cells: Sequence[str]) -> str:
    """The class of a column: n of numbers, t of long texts, which get room; none of words."""
    if all(NUMBER.fullmatch(cell) for cell in cells):
        return ' class="n"'
    return ' class="t"' if max(map(len, cells)) > LONG else ""


def tiles(facts: dict[str, str]) -> str:
    """A few numbers that matter, each with its name."""
    each = "".join(f"<div><b>{text(value)}</b><small>{text(name)}</small></div>" for name, value in facts.items())
    return f'<div class="tiles">{each}</div>\n'


def section(title: str, *parts: str) -> str:
    """A heading and what is below it; nothing where all parts are empty."""
    return f"<section><h2>{text(title)}</h2>\n{''.join(parts)}</section>\n" if any(parts) else ""


def charts(*figures: str) -> str:
    """Figures beside each other where there is room; nothing where all are empty."""
    return f'<div class="charts">{"".join(figures)}</div>\n' if any(figures) else ""


def note(words: str) -> str:
    """A line of small text."""
    return f'<p class="note">{text(words)}</p>\n'


def page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """The whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{text(title)}</h1>"
        f"<p>{text(subtitle)}</p></header>\n{''.join(parts)}</body>\n</html>\n"
    )
