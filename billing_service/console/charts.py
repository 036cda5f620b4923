"""Stacked bars as SVG: where each rectangle lies, for a template to draw.

Positions are whole numbers, so amounts never pass through a float. The drawing has no text: it is stretched to any
width, and the page sets the labels around it.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from msgspec import Struct

from billing_client.contract.decimals import plain, total
from billing_service.rendering.formats import MINUS, number

HEIGHT, SLOT = 1_000, 100  # of the drawing, and the width of each bar with its margins
TICKS = 4  # about so many lines
OTHER = "other services"
MANY_LABELS = 8  # fit beside each other on a telephone


class Rectangle(Struct, frozen=True):
    """A part of a bar. `style` names its series in the style sheet, `title` is shown under the pointer."""

    x: int
    y: int
    width: int
    height: int
    style: str
    title: str


class Label(Struct, frozen=True):
    """The label of a bar; a minor one is left out where there is little room."""

    text: str
    is_minor: bool


class Chart(Struct, frozen=True):
    """A chart of stacked bars.

    Attributes:
        title: What it shows, for those who do not see it.
        description: What there is to see, in a sentence.
        width: The width of the drawing; HEIGHT is its height.
        zero: Where the line of zero is, from the top.
        ticks: The numbers at the lines, from the top.
        lines: Where the lines are, from the top.
        rectangles: The parts of all bars.
        labels: The label of each bar, in order.
        legend: The style and name of each series.
    """

    title: str
    description: str
    width: int
    zero: int
    ticks: list[str]
    lines: list[int]
    rectangles: list[Rectangle]
    labels: list[Label]
    legend: list[tuple[str, str]]


class Bar(Struct, frozen=True):
    """What one bar shows: the amount of each series, and of the bar beside it, if there is one."""

    label: str
    name: str
    parts: Mapping[str | None, str]
    beside: str | None = None
    beside_name: str = ""


def draw(title: str, bars: Sequence[Bar], series: Sequence[str | None], unit: str, beside: str = "") -> Chart:
    """Draw bars.

    Args:
        title: What the chart shows.
        bars: The bars, from left to right.
        series: The series from the bottom to the top; None stands for all that have no name.
        unit: The currency or unit of the amounts.
        beside: What the bars beside the others show; empty if there are none.
    """
    styles = {name: f"s{n}" if name is not None else "s7" for n, name in enumerate(series)}
    scale = _Scale([side for bar in bars for side in _sides(bar)])
    rectangles: list[Rectangle] = []
    for n, bar in enumerate(bars):
        left, width = (SLOT * n + 12, 76) if not beside else (SLOT * n + 38, 54)
        if bar.beside is not None:
            about = f"{bar.beside_name}: {number(bar.beside)} {unit}"
            rectangles += scale.stack(SLOT * n + 8, 30, [("beside", bar.beside, about)])
        parts = [(name, bar.parts[name]) for name in series if name in bar.parts]
        about = f"{bar.name}, "
        rectangles += scale.stack(
            left, width, [(styles[name], v, f"{about}{name or OTHER}: {number(v)} {unit}") for name, v in parts]
        )
    every = max(1, -(-len(bars) // MANY_LABELS))
    legend = [(styles[name], name or OTHER) for name in series]
    return Chart(
        title=title,
        description=_description(bars, unit),
        width=max(1, len(bars)) * SLOT,
        zero=scale.at(Decimal(0)),
        ticks=[_short(tick) for tick in scale.ticks],
        lines=[scale.at(tick) for tick in scale.ticks],
        rectangles=rectangles,
        labels=[Label(bar.label, n % every != 0) for n, bar in enumerate(bars)],
        legend=legend + ([("beside", beside)] if beside else []),
    )


def _sides(bar: Bar) -> tuple[Decimal, Decimal]:
    """How far a bar reaches below and above zero."""
    amounts = [Decimal(part) for part in bar.parts.values()]
    beside = Decimal(bar.beside or 0)
    below, above = sum((a for a in amounts if a < 0), Decimal(0)), sum((a for a in amounts if a > 0), Decimal(0))
    return min(below, beside), max(above, beside)


def _short(tick: Decimal) -> str:
    """The number at a line: 200 k, 5 M; very large and very small ones by their power of ten."""
    size = abs(tick)
    if tick and not Decimal("0.0001") <= size < Decimal("1e15"):
        digits, _, exponent = f"{tick:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if size >= Decimal(1).scaleb(power):
            return f"{number(plain(tick.scaleb(-power)))} {letter}"
    return number(plain(tick))


def _description(bars: Sequence[Bar], unit: str) -> str:
    if not bars:
        return "There are no bars."
    highest = max(bars, key=lambda bar: _sides(bar)[1])
    top = number(total(highest.parts.values()))
    first, last = bars[0].name, bars[-1].name
    return f"{len(bars)} bars, from {first} to {last}. The highest is {highest.name} with {top} {unit}."


class _Scale:
    """From amounts to positions: the highest line is at the top, the lowest at the bottom."""

    def __init__(self, sides: Sequence[Decimal]) -> None:
        low, high = min(sides, default=Decimal(0)), max(sides, default=Decimal(0))
        high = high or Decimal(low == high)  # with nothing to show, zero is at the bottom
        step = _step(high - low)
        bottom, top = low // step, -(-high // step)
        bottom -= low % step != 0  # of a negative number, // cuts towards zero
        top += high > top * step
        self._top, self._span = top * step, max(top - bottom, Decimal(1)) * step
        self.ticks = [step * n for n in range(int(top), int(bottom) - 1, -1)] or [Decimal(0)]

    def at(self, amount: Decimal) -> int:
        """The position of an amount, from the top."""
        return int((self._top - amount) * HEIGHT / self._span)

    def stack(self, x: int, width: int, parts: Sequence[tuple[str, str, str]]) -> list[Rectangle]:
        """A bar of parts (style, amount, title): those above zero upwards, the others downwards."""
        above = below = Decimal(0)
        rectangles = []
        for style, text, title in parts:
            amount = Decimal(text)
            start = above if amount > 0 else below
            end = start + amount
            above, below = (end, below) if amount > 0 else (above, end)
            y = self.at(max(start, end))
            if amount:
                height = max(self.at(min(start, end)) - y, 3)  # so that there is something to see
                rectangles.append(Rectangle(x, y, width, height, style, title))
        return rectangles


def _step(span: Decimal) -> Decimal:
    """The distance of the lines: 1, 2 or 5 times a power of ten, for about TICKS lines."""
    power = Decimal(1).scaleb((span / TICKS).adjusted())
    return next((power * n for n in (1, 2, 5) if power * n * TICKS >= span), power * 10)
