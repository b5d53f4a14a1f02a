#!/usr/bin/env python3
"""Draws a Grafana dashboard as one SVG image, from the dashboard's JSON and from responses of Prometheus (see `make monitoring`).

    hack/draw-dashboard.py DASHBOARD.json RESULTS.json IMAGE.svg

The image has the layout, titles, units, legends and colours of the dashboard, so that the documentation shows the panels with
real data. The script does not use Grafana.
"""

import json
import math
import re
import sys
from html import escape

COLUMN, LINE, GAP, MARGIN = 58, 38, 10, 16
INK, FAINT, GRID, PAPER, CARD = "#1f2933", "#6b7685", "#e6e9ee", "#f3f5f8", "#ffffff"
PALETTE = ["#3573c9", "#e08a1e", "#2f9e6e", "#7c5cbf", "#d1433f", "#2aa5b8", "#b0306a", "#8a6d3b", "#7a838f", "#c9a227"]


def text(x, y, words, size=12, fill=INK, weight=400, anchor="start"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{escape(str(words))}</text>')


def width(words, size):
    return len(str(words)) * size * 0.56


def shortened(words, size, room):
    most = max(1, int(room / (size * 0.56)))
    return words if len(words) <= most else words[: most - 1] + "…"


def human(value, unit):
    if unit == "s":
        for limit, factor, name in [(1e-3, 1e6, "µs"), (1, 1e3, "ms"), (90, 1, "s"), (5400, 1 / 60, "min"), (129600, 1 / 3600, "h")]:
            if abs(value) < limit:
                return "0" if value == 0 else f"{value * factor:.3g} {name}"
        return f"{value / 86400:.3g} days"
    number = f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
    return number + ("/s" if unit == "reqps" else "")


def ticks(top):
    """Returns about four round numbers from 0 to at least `top`."""
    if top <= 0:
        return [0, 1]
    raw = top / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


class Series:
    def __init__(self, answer, raw):
        self.labels = raw["metric"]
        pairs = raw.get("values") or [raw["value"]]
        self.points = {round(t): float(v) for t, v in pairs if not math.isnan(float(v))}
        self.name = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: self.labels.get(m[1], ""), answer["legend"]).strip()
        self.last = self.points[max(self.points)] if self.points else float("nan")


class Panel:
    def __init__(self, spec, results):
        self.spec, self.results = spec, results
        grid = spec["gridPos"]
        self.x, self.y = MARGIN + grid["x"] * COLUMN, grid["y"] * LINE
        self.w, self.h = grid["w"] * COLUMN - GAP, grid["h"] * LINE - GAP
        answers = [a for a in results["answers"] if a["panel"] == spec["id"]]
        self.series = [s for a in answers for s in (Series(a, raw) for raw in a["series"]) if s.points]
        self.defaults = spec["fieldConfig"]["defaults"]
        self.unit = self.defaults.get("unit", "short")

    def colour(self, series, index):
        for override in self.spec["fieldConfig"]["overrides"]:
            if override["matcher"]["options"] == series.name:
                return override["properties"][0]["value"]["fixedColor"]
        return PALETTE[index % len(PALETTE)]

    def by_threshold(self, value):
        colour = INK
        for step in self.defaults.get("thresholds", {}).get("steps", []):
            if step["value"] is None or value >= step["value"]:
                colour = step["color"]
        return colour

    def mapped(self, value):
        for mapping in self.defaults.get("mappings", []):
            found = mapping["options"].get(f"{value:.0f}")
            if found:
                return found["text"], found.get("color")
        return human(value, self.unit), None

    def draw(self):
        card = (f'<rect x="{self.x}" y="{self.y}" width="{self.w}" height="{self.h}" rx="6" fill="{CARD}" stroke="{GRID}"/>'
                f'<title>{escape(self.spec["description"])}</title>')
        title = text(self.x + 12, self.y + 22, shortened(self.spec["title"], 13, self.w - 20), 13, INK, 600)
        body = getattr(self, self.spec["type"].replace("-", "_"))()
        return f"<g>{card}{title}{body}</g>"

    # --- panel types ---------------------------------------------------------------------------------------------

    def stat(self):
        series = self.series[0]
        words, _ = self.mapped(series.last)
        colour = self.by_threshold(series.last)
        out = text(self.x + 12, self.y + 76, words, 38, colour, 600)
        points = sorted(series.points.items())
        if len(points) > 2:
            low, high = min(series.points.values()), max(series.points.values())
            left, top, wide, tall = self.x + 1, self.y + self.h - 40, self.w - 2, 38
            spread = (high - low) or 1
            flat = high == low
            place = [(left + wide * i / (len(points) - 1), top + tall - (4 if flat else 30 * (v - low) / spread + 4))
                     for i, (_, v) in enumerate(points)]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
            out += (f'<polygon points="{left},{top + tall} {line} {left + wide},{top + tall}" fill="{colour}" opacity="0.12"/>'
                    f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.7"/>')
        return out

    def frame(self, legend_rows):
        return self.x + 52, self.y + 36, self.w - 66, self.h - 36 - 22 - 16 * legend_rows - 8

    def time_axis(self, left, top, wide, tall):
        start, end = self.results["start"], self.results["end"]
        step = next(s for s in (10, 20, 30, 60, 120, 300, 600) if (end - start) / s <= wide / 70)
        out = ""
        for second in range(0, end - start + 1, step):
            x = left + wide * second / (end - start)
            out += text(x, top + tall + 15, f"{second // 60}:{second % 60:02d}", 10, FAINT, anchor="middle")
        return out

    def legend(self, names, top):
        out, x, y = "", self.x + 14, top
        for name, colour in names:
            need = 16 + width(name, 11) + 12
            if x + need > self.x + self.w - 6 and x > self.x + 14:
                x, y = self.x + 14, y + 16
            out += f'<rect x="{x}" y="{y - 8}" width="10" height="4" rx="2" fill="{colour}"/>' + text(x + 15, y, name, 11, FAINT)
            x += need
        return out

    def legend_rows(self, names):
        rows, x = 1, 0
        for name in names:
            need = 28 + width(name, 11)
            if x + need > self.w - 20 and x > 0:
                rows, x = rows + 1, 0
            x += need
        return rows

    def timeseries(self):
        custom = self.defaults.get("custom", {})
        stacked, stepped = "stacking" in custom, custom.get("lineInterpolation") == "stepAfter"
        self.series.sort(key=lambda s: s.name)
        named = [(s, self.colour(s, i)) for i, s in enumerate(self.series)]
        rows = self.legend_rows([s.name for s in self.series])
        left, top, wide, tall = self.frame(rows)
        start, end, step = self.results["start"], self.results["end"], self.results["step"]
        times = [round(start + i * step) for i in range((end - start) // step + 1)]
        if stacked:
            high = max(sum(s.points.get(t, 0) for s in self.series) for t in times)
        else:
            high = max(v for s in self.series for v in s.points.values())
        marks = ticks(high)
        x = lambda t: left + wide * (t - start) / (end - start)
        y = lambda v: top + tall - tall * v / marks[-1]
        out = ""
        for mark in marks:
            out += f'<line x1="{left}" x2="{left + wide}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" stroke="{GRID}"/>'
            out += text(left - 6, y(mark) + 4, human(round(mark, 9), self.unit), 10, FAINT, anchor="end")
        out += self.time_axis(left, top, wide, tall)
        floor = dict.fromkeys(times, 0.0)
        for series, colour in named:
            if stacked:
                upper = {t: floor[t] + series.points.get(t, 0) for t in times}
                edge = self.steps([(x(t), y(upper[t])) for t in times], stepped)
                back = self.steps([(x(t), y(floor[t])) for t in times], stepped)[::-1]
                area = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge + back)
                line = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge)
                out += f'<polygon points="{area}" fill="{colour}" opacity="0.55"/>'
                out += f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1"/>'
                floor = upper
                continue
            for run in self.runs(series, step):
                line = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in run)
                if len(run) == 1:
                    out += f'<circle cx="{x(run[0][0]):.1f}" cy="{y(run[0][1]):.1f}" r="1.5" fill="{colour}"/>'
                out += f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
        return out + self.legend([(s.name, c) for s, c in named], top + tall + 34)

    @staticmethod
    def steps(place, stepped):
        if not stepped:
            return place
        out = place[:1]
        for (_, before), (a, b) in zip(place, place[1:]):
            out += [(a, before), (a, b)]
        return out

    @staticmethod
    def runs(series, step):
        runs = []
        for t, v in sorted(series.points.items()):
            if not runs or t - runs[-1][-1][0] > step * 1.5:
                runs.append([])
            runs[-1].append((t, v))
        return runs

    def state_timeline(self):
        self.series.sort(key=lambda s: s.name)
        left, top, wide, tall = self.frame(1)
        left, wide = self.x + 66, self.w - 80
        start, end, step = self.results["start"], self.results["end"], self.results["step"]
        out, row = self.time_axis(left, top, wide, tall), tall / len(self.series)
        legend = {}
        for i, series in enumerate(self.series):
            y = top + i * row + row * 0.18
            out += text(left - 8, y + row * 0.38, series.name, 11, INK, anchor="end")
            for run in self.runs(series, step):
                while run:
                    first, value = run[0]
                    same = next((i for i, (_, v) in enumerate(run) if v != value), len(run))
                    last, run = run[same - 1][0] + step, run[same:]
                    colour = legend[self.mapped(value)[0]] = self.by_threshold(value)
                    at = left + wide * (first - start) / (end - start)
                    long = min(wide * (last - first) / (end - start), left + wide - at)
                    out += f'<rect x="{at:.1f}" y="{y:.1f}" width="{long:.1f}" height="{row * 0.64:.1f}" fill="{colour}"/>'
        return out + self.legend(sorted(legend.items()), top + tall + 34)

    def table(self):
        renamed = {}
        for transformation in self.spec.get("transformations", []):
            renamed.update(transformation["options"].get("renameByName", {}))
        labels = sorted({name for s in self.series for name in s.labels if name != "__name__"})
        heads = labels + [renamed.get("Value", "Value")]
        rows = []
        for series in sorted(self.series, key=lambda s: [s.labels.get(name, "") for name in labels]):
            words, colour = self.mapped(series.last)
            colour = colour or (self.by_threshold(series.last) if "thresholds" in self.defaults else INK)
            rows.append([(series.labels.get(name, ""), INK) for name in labels] + [(words, colour)])
        need = [max([len(head)] + [len(row[i][0]) for row in rows]) + 2 for i, head in enumerate(heads)]
        room = self.w - 24
        at = [self.x + 12 + room * sum(need[:i]) / sum(need) for i in range(len(heads) + 1)]
        out, y = "", self.y + 50
        for i, head in enumerate(heads):
            out += text(at[i], y, head, 11, FAINT, 600)
        for row in rows:
            y += 24
            if y > self.y + self.h - 6:
                break
            out += f'<line x1="{self.x + 10}" x2="{self.x + self.w - 10}" y1="{y - 16}" y2="{y - 16}" stroke="{GRID}"/>'
            for i, (words, colour) in enumerate(row):
                out += text(at[i], y, shortened(words, 12, at[i + 1] - at[i] + 6), 12, colour, 600 if colour != INK else 400)
        return out


def main():
    board = json.load(open(sys.argv[1]))
    results = json.load(open(sys.argv[2]))
    panels = [p for p in board["panels"] if p["type"] != "row"]
    wide = MARGIN * 2 + 24 * COLUMN - GAP
    head = 56
    tall = head + max((p["gridPos"]["y"] + p["gridPos"]["h"]) for p in panels) * LINE + 4
    body = "".join(Panel(p, results).draw() for p in panels)
    rows = "".join(text(MARGIN + 2, p["gridPos"]["y"] * LINE + 24, p["title"], 15, FAINT, 600)
                   for p in board["panels"] if p["type"] == "row")
    names = [v for v in board["templating"]["list"] if v.get("allValue")]
    chips, x = "", wide - MARGIN
    for variable in reversed(names):
        words = f'{variable["label"]}: All'
        long = width(words, 12) + 20
        x -= long
        chips += (f'<rect x="{x:.1f}" y="14" width="{long:.1f}" height="26" rx="4" fill="{CARD}" stroke="{GRID}"/>'
                  + text(x + 10, 31, words, 12, FAINT))
        x -= 8
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" role="img" '
           f'font-family="Inter, Segoe UI, Helvetica, Arial, sans-serif"><title>{escape(board["title"])}: the dashboard</title>'
           f'<rect width="{wide}" height="{tall}" fill="{PAPER}"/>' + text(MARGIN, 34, board["title"], 20, INK, 700)
           + chips + f'<g transform="translate(0,{head})">{rows}{body}</g></svg>\n')
    with open(sys.argv[3], "w") as file:
        file.write(svg)


if __name__ == "__main__":
    main()
