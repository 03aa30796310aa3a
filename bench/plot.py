"""The picture of the results: a bar for each workload and column on a logarithmic scale, a line
where the goal of the group or the row lies, in the colour of the engine whose goal it is. Plain
SVG, written out by hand."""

import math
from xml.sax.saxutils import escape

from figures import (DISK_GOAL, GROUPS, NATIVE_GOALS, PEERS, ROWS_ONLY, WORKLOADS, column_name,
                     group_geomean, slowdown, times)

COLOURS = {"interpret": "#7fb3c8", "translate": "#1f6f8b", "qemu": "#d9a441", "bochs": "#a3785f"}
OTHER = "#8a8a8a"
LEFT, RIGHT, BAR, GAP, HEAD, TOP = 170, 620, 7, 6, 26, 58


def _x(value, most):
    share = math.log(max(value, 1.0)) / math.log(most)
    return LEFT + share * (RIGHT - LEFT)


def _text(x, y, text, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _goal(column, what):
    """The slowdown that a column is to stay under in a group, or in a row of its own."""
    if what == "disk_read":
        return None if column in PEERS else 1 / DISK_GOAL
    return NATIVE_GOALS.get(column, {}).get(what)


def _goal_line(at, top, bottom, column):
    return (f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}" class="goal" '
            f'stroke="{COLOURS.get(column, OTHER)}"/>')


def svg(results):
    monitors = list(results["monitors"])
    values = [s for name in results["workloads"] for m in monitors
              if (s := slowdown(results, name, m))]
    if not values:
        return None
    most = 10 ** math.ceil(math.log10(max(values + [10.5])))
    step = BAR * len(monitors) + GAP
    out, values_text, y = [], [], TOP

    for group, title in GROUPS.items():
        names = [n for n, w in results["workloads"].items()
                 if w["group"] == group and any(slowdown(results, n, m) for m in monitors)]
        if not names:
            continue
        out.append(_text(12, y + 15, title, 'class="group"'))
        if group not in ROWS_ONLY:
            means = ", ".join(f"{column_name(m)} {times(group_geomean(results, group, m))}"
                              for m in monitors)
            out.append(_text(RIGHT + 70, y + 15, f"geomean: {means}",
                             'class="mean" text-anchor="end"'))
        y += HEAD
        start = y
        for name in names:
            out.append(_text(LEFT - 8, y + step / 2 + 1, WORKLOADS.get(name, name),
                             'text-anchor="end"'))
            for i, monitor in enumerate(monitors):
                s = slowdown(results, name, monitor)
                if not s:
                    continue
                end, bar_y = _x(s, most), y + i * BAR
                out.append(f'<rect x="{LEFT}" y="{bar_y}" width="{max(end - LEFT, 1):.1f}" '
                           f'height="{BAR - 1}" fill="{COLOURS.get(monitor, OTHER)}"/>')
                values_text.append(_text(max(end, LEFT) + 4, bar_y + BAR - 1, times(s),
                                         'class="value"'))
            for monitor in monitors:
                if goal := _goal(monitor, name):
                    out.append(_goal_line(_x(goal, most), y - 2, y + step - GAP + 1, monitor))
            y += step
        for monitor in monitors:
            if goal := _goal(monitor, group):
                out.append(_goal_line(_x(goal, most), start - 3, y - GAP + 3, monitor))
        y += 6

    axis, tick = [], 1
    while tick <= most:
        at = _x(tick, most)
        axis.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{y}" class="axis"/>')
        axis.append(_text(at, y + 14, f"{tick}x", 'text-anchor="middle" class="value"'))
        tick *= 10
    legend, at = [], LEFT
    for monitor in monitors:
        legend.append(f'<rect x="{at}" y="36" width="10" height="10" '
                      f'fill="{COLOURS.get(monitor, OTHER)}"/>')
        legend.append(_text(at + 14, 45, column_name(monitor)))
        at += 110
    legend.append(f'<line x1="{at + 5}" x2="{at + 5}" y1="35" y2="47" class="goal" '
                  'stroke="#222"/>')
    legend.append(_text(at + 14, 45, "goal"))
    host = results["host"]
    width, height = RIGHT + 84, y + 42
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}">\n<style>text{{font:11px sans-serif;fill:#222}}'
            '.title{font-size:15px;font-weight:bold}.group{font-weight:bold}'
            '.mean{fill:#555}'
            '.value{font-size:8.5px;fill:#555;paint-order:stroke;stroke:#fff;stroke-width:3px}'
            '.goal{stroke-width:1.5;stroke-dasharray:4 2}'
            '.axis{stroke:#e3e3e3}</style>\n'
            f'<rect width="{width}" height="{height}" fill="#fff"/>')
    foot = _text(12, y + 34, f"{results['date'][:10]}, {host['cpu']}, {results['guest']}",
                 'class="mean"')
    title = _text(12, 22, "Slowdown against the bare host (less is better)", 'class="title"')
    return "\n".join([head, title, *legend, *axis, *out, *values_text, foot, "</svg>", ""])
