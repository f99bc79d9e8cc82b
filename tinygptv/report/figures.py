"""Training curves as SVG text: no plotting library, no script, readable on light and dark grounds."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import escape

from tinygptv.train.job import read_metrics

LOSS_COLOUR = "#3b82f6"
RATE_COLOUR = "#d97706"
_INK = "#7d8590"
_GRID = "#7d859033"
_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 64, 34, 42
_MOST_POINTS = 400
_SMOOTHING = 0.9


@dataclass(frozen=True)
class Curve:
    """One stage's training: steps, mean loss per target token (nats) and learning rate, equally long."""

    name: str
    steps: list[int]
    losses: list[float]
    rates: list[float]


def read_curve(name: str, path: Path) -> Curve:
    """A stage's `metrics.jsonl`; steps whose loss is no number are left out."""
    records = {row["step"]: row for row in read_metrics(path) if math.isfinite(row["loss"])}
    steps = sorted(records)
    return Curve(
        name,
        steps,
        [records[step]["loss"] for step in steps],
        [records[step]["lr"] for step in steps],
    )


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start."""
    average, weight, result = 0.0, 0.0, []
    for value in values:
        average = _SMOOTHING * average + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        result.append(average / weight)
    return result


def loss_curve_svg(metrics_paths: Mapping[str, Path]) -> str:
    """One picture with a panel per stage, two in a row: stage name → its `metrics.jsonl`."""
    panels = [_panel(read_curve(name, path)) for name, path in metrics_paths.items()]
    return _in_rows(panels, "training loss and learning rate per stage")


def compared_svg(stages: Mapping[str, Sequence[Curve]], colours: Mapping[str, str]) -> str:
    """One picture with a panel per stage, two in a row: in each the smoothed loss of several runs, in the `colours` of
    their names. Begins after the first tenth of the steps, for the fall from nothing would flatten the rest."""
    panels = [_compared_panel(stage, [_begun(curve) for curve in curves], colours) for stage, curves in stages.items()]
    return _in_rows(panels, "training loss of several runs per stage")


def _in_rows(panels: Sequence[str], label: str) -> str:
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / 2)
    placed = "".join(
        f'<g transform="translate({index % 2 * _WIDTH} {index // 2 * _HEIGHT})">{panel}</g>'
        for index, panel in enumerate(panels)
    )
    return _svg(columns * _WIDTH, rows * _HEIGHT, placed, label)


def stage_svg(curve: Curve) -> str:
    """The panel of one stage, as a picture of its own."""
    return _svg(_WIDTH, _HEIGHT, _panel(curve), f"training loss and learning rate of {curve.name}")


def data_uri(svg: str) -> str:
    """The picture as an address that needs no server, for places that want an image's URL."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _svg(width: int, height: int, content: str, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{escape(label)}" font-family="system-ui, sans-serif" font-size="11">{content}</svg>'
    )


def _panel(curve: Curve) -> str:
    title = f'<text x="{_LEFT}" y="18" font-size="13" font-weight="600" fill="{_INK}">{escape(curve.name)}</text>'
    if not curve.steps:
        return f'{title}<text x="{_LEFT}" y="60" fill="{_INK}">no steps recorded</text>'
    steps, losses, rates = _thinned(curve)
    across = _Axis(min(steps), max(steps), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(0, max(losses) * 1.05, _HEIGHT - _BOTTOM, _TOP)
    up_rate = _Axis(0, max(rates) * 1.1 or 1.0, _HEIGHT - _BOTTOM, _TOP)
    last = f"loss {losses[0]:.2f} → {smoothed(curve.losses)[-1]:.2f}"
    return "".join(
        [
            title,
            f'<text x="{_WIDTH - _RIGHT}" y="18" text-anchor="end" fill="{LOSS_COLOUR}">{last}</text>',
            *(_horizontal(up, value) for value in up.ticks()),
            *(_below(across, value) for value in across.ticks()),
            *(_beside(up_rate, value) for value in up_rate.ticks()),
            _line(steps, rates, across, up_rate, f'stroke="{RATE_COLOUR}" stroke-width="1.5" stroke-dasharray="5 3"'),
            _line(steps, losses, across, up, f'stroke="{LOSS_COLOUR}" stroke-width="1" opacity="0.35"'),
            _line(steps, smoothed(losses), across, up, f'stroke="{LOSS_COLOUR}" stroke-width="2"'),
            _axis_names(),
        ]
    )


def _begun(curve: Curve) -> Curve:
    """A curve's smoothed losses without the first tenth of its steps."""
    first = len(curve.steps) // 10
    steps, losses, rates = _thinned(replace(curve, losses=smoothed(curve.losses)))
    kept = [place for place, step in enumerate(steps) if step > first]
    return Curve(curve.name, [steps[k] for k in kept], [losses[k] for k in kept], [rates[k] for k in kept])


def _compared_panel(stage: str, curves: Sequence[Curve], colours: Mapping[str, str]) -> str:
    title = f'<text x="{_LEFT}" y="18" font-size="13" font-weight="600" fill="{_INK}">{escape(stage)}</text>'
    drawn = [curve for curve in curves if curve.steps]
    if not drawn:
        return f'{title}<text x="{_LEFT}" y="60" fill="{_INK}">no steps recorded</text>'
    losses = [loss for curve in drawn for loss in curve.losses]
    across = _Axis(min(c.steps[0] for c in drawn), max(c.steps[-1] for c in drawn), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(min(losses) * 0.97, max(losses) * 1.03, _HEIGHT - _BOTTOM, _TOP)
    # The first run lies on top of those it is compared with.
    lines = [_line(c.steps, c.losses, across, up, f'stroke="{colours[c.name]}" stroke-width="1.8"') for c in drawn]
    return "".join(
        [
            title,
            *(_horizontal(up, value) for value in up.ticks()),
            *(_below(across, value) for value in across.ticks()),
            *reversed(lines),
            _axis_names(rate=False),
        ]
    )


def _axis_names(rate: bool = True) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    right = _WIDTH - 10
    names = (
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle" fill="{_INK}">step</text>'
        f'<text x="14" y="{middle}" text-anchor="middle" fill="{LOSS_COLOUR if rate else _INK}" '
        f'transform="rotate(-90 14 {middle})">loss, nats per token</text>'
    )
    if not rate:
        return names
    return names + (
        f'<text x="{right}" y="{middle}" text-anchor="middle" fill="{RATE_COLOUR}" '
        f'transform="rotate(90 {right} {middle})">learning rate</text>'
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About four round values within the axis."""
        span = (self.high - self.low) or 1
        size = 10 ** math.floor(math.log10(span / 4))
        step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 5)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _horizontal(axis: _Axis, value: float) -> str:
    y = axis.at(value)
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{_GRID}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end" fill="{_INK}">{value:g}</text>'
    )


def _below(axis: _Axis, value: float) -> str:
    y = _HEIGHT - _BOTTOM + 15
    return f'<text x="{axis.at(value)}" y="{y}" text-anchor="middle" fill="{_INK}">{value:g}</text>'


def _beside(axis: _Axis, value: float) -> str:
    return f'<text x="{_WIDTH - _RIGHT + 6}" y="{axis.at(value) + 4}" fill="{_INK}">{_short(value)}</text>'


def _short(rate: float) -> str:
    """`1.5e-3`, `2e-4`, `0`."""
    if rate == 0:
        return "0"
    power = math.floor(math.log10(rate) + 1e-9)
    return f"{rate / 10**power:.3g}e{power}"


def _line(steps: Sequence[int], values: Sequence[float], across: _Axis, up: _Axis, style: str) -> str:
    points = " ".join(f"{across.at(step)},{up.at(value)}" for step, value in zip(steps, values, strict=True))
    return f'<polyline fill="none" stroke-linejoin="round" {style} points="{points}"/>'


def _thinned(curve: Curve) -> tuple[list[int], list[float], list[float]]:
    """At most 400 points: runs of neighbouring steps become their mean."""
    size = math.ceil(len(curve.steps) / _MOST_POINTS)
    runs = [slice(start, start + size) for start in range(0, len(curve.steps), size)]
    return (
        [curve.steps[run][-1] for run in runs],
        [sum(curve.losses[run]) / len(curve.losses[run]) for run in runs],
        [sum(curve.rates[run]) / len(curve.rates[run]) for run in runs],
    )
