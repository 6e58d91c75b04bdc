"""Charts as SVG, made on the server: stacked bars with an axis, and a text for screen readers.

The numbers are in the title of each bar, which is stretched to the width there is; all other text stands
beside them in HTML, so that it stays readable on a narrow screen. No style is inline, as the content security
policy demands: colours are classes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from worker.cli.output import counted
from worker.console.formats import compact

_WIDTH, _HEIGHT = 1000, 200
_GAP = 0.18
_LABELS = 5

#: Number of series with a colour of their own; the others are summed up as "other".
SERIES_MAX = 6


@dataclass(frozen=True, slots=True)
class Series:
    """Series of a chart: ``named`` are the largest, and ``others`` the number of those summed up."""

    named: tuple[str, ...]
    others: int

    @classmethod
    def largest(cls, every: Iterable[Mapping[str, int]]) -> "Series":
        """Return the series of these amounts, each with its name."""
        sums: Counter[str] = Counter()
        for amounts in every:
            sums.update(amounts)
        names = [name for name, _ in sums.most_common()]
        named = names if len(names) <= SERIES_MAX else names[: SERIES_MAX - 1]
        return cls(tuple(named), len(names) - len(named))

    @property
    def titles(self) -> tuple[str, ...]:
        """Names of the series as they are shown."""
        return (*self.named, f"{self.others} others") if self.others else self.named

    def values(self, amounts: Mapping[str, int]) -> tuple[int, ...]:
        """Return the value of each series, of the amounts of one bar."""
        own = tuple(amounts.get(name, 0) for name in self.named)
        return (*own, sum(amounts.values()) - sum(own)) if self.others else own

    def text(self, values: Sequence[int], shown: Callable[[int], str] = "{:,}".format) -> str:
        """Return the values of one bar with their names; empty where there is none."""
        pairs = zip(self.titles, values, strict=True)
        return ", ".join(f"{title} {shown(value)}" for title, value in pairs if value)


@dataclass(frozen=True, slots=True)
class Bar:
    """Bar of a chart: its label, its text for readers, and a value for each series."""

    label: str
    text: str
    values: tuple[int, ...]
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Parts of a chart, which a template puts together."""

    svg: Markup
    ticks: tuple[str, ...]
    labels: tuple[str, ...]
    series: tuple[tuple[str, str], ...]
    title: str
    top: int

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to draw."""
        return self.top == 0


def stacked_bars(
    bars: Sequence[Bar],
    series: Sequence[str],
    *,
    title: str,
    description: str,
    colours: Sequence[str] = (),
    tick: Callable[[int], str] = compact,
) -> Chart:
    """Return a chart of ``bars``, each with a value for every one of ``series``.

    ``colours`` are names of classes; by default those of a palette in order. The largest sum fills the height
    up to a round number; ``tick`` is how the axis shows a number.
    """
    classes = list(colours) or [f"series-{number % SERIES_MAX}" for number in range(len(series))]
    highest = max((sum(bar.values) for bar in bars), default=0)
    top = round_up(highest)
    step = _WIDTH / max(len(bars), 1)
    parts = [_grid(), *(_bar(bar, place, step, top, classes) for place, bar in enumerate(bars))]
    svg = Markup(
        '<svg class="bars" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        "<title>{}</title><desc>{}</desc>{}</svg>"
    ).format(_WIDTH, _HEIGHT, f"{title}. {description}", title, description, Markup("").join(parts))
    return Chart(
        svg=svg,
        ticks=(tick(top), tick(top // 2) if top > 1 else "", "0"),
        labels=_spread([bar.label for bar in bars]),
        series=tuple(zip(series, classes, strict=True)),
        title=title,
        top=highest,
    )


def round_up(value: int) -> int:
    """Return the next 1, 2, 4, 6, 8 or 10 times a power of ten; its half is round too."""
    if value <= 2:
        return max(value, 0)
    power = int(10 ** (len(str(value)) - 1))
    return next(power * factor for factor in (1, 2, 4, 6, 8, 10) if power * factor >= value)


def _grid() -> Markup:
    return Markup("").join(
        Markup('<line class="grid" x1="0" x2="{}" y1="{}" y2="{}"/>').format(_WIDTH, at, at)
        for at in (0, _HEIGHT // 2, _HEIGHT)
    )


def _bar(bar: Bar, place: int, step: float, top: int, classes: Sequence[str]) -> Markup:
    left, width = place * step + step * _GAP / 2, step * (1 - _GAP)
    sums = [0, *accumulate(bar.values)]
    pieces = [
        Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" y="{:.2f}" height="{:.2f}"/>').format(
            f"{name} estimated" if bar.is_estimated else name,
            left,
            width,
            _HEIGHT * (1 - above / top),
            _HEIGHT * (above - below) / top,
        )
        for name, below, above in zip(classes, sums, sums[1:], strict=False)
        if above > below
    ]
    hit = Markup('<rect class="hit" x="{:.2f}" width="{:.2f}" y="0" height="{}"/>').format(
        place * step, step, _HEIGHT
    )
    return Markup('<g data-text="{}"><title>{}</title>{}{}</g>').format(
        bar.text, bar.text, Markup("").join(pieces), hit
    )


def _spread(labels: Sequence[str]) -> tuple[str, ...]:
    """Return a few labels at equal distances, with the first and the last."""
    if len(labels) <= _LABELS:
        return tuple(labels)
    last = len(labels) - 1
    return tuple(labels[round(place * last / (_LABELS - 1))] for place in range(_LABELS))


def share_bar(counts: Mapping[str, int], colours: Mapping[str, str]) -> Markup:
    """Return one bar with a part for each state, in the order of ``colours``; empty without any."""
    parts = [(colour, counts.get(state, 0)) for state, colour in colours.items()]
    whole = sum(value for _, value in parts)
    if not whole:
        return Markup("")
    sums = [0, *accumulate(value for _, value in parts)]
    rects = Markup("").join(
        Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" y="0" height="10"/>').format(
            name, _WIDTH * below / whole, _WIDTH * value / whole
        )
        for (name, value), below in zip(parts, sums, strict=False)
        if value
    )
    return Markup(
        '<svg class="share" viewBox="0 0 {} 10" preserveAspectRatio="none" role="img" aria-label="{}">'
        "{}</svg>"
    ).format(_WIDTH, counted(counts), rects)
