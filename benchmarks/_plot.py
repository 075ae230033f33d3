"""Lines over time as SVG, without a library: what a report of a long run needs, and no more."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 40, 40


class Line(NamedTuple):
    name: str
    colour: str
    values: Sequence[float]
    dashed: bool = False


def plot(title: str, times: Sequence[float], lines: Sequence[Line]) -> str:
    """An SVG of *lines*, each with a value for each of *times*. Both axes begin at zero."""
    latest = max(*times, 1e-9)
    highest = 1.1 * max(max(line.values) for line in lines)

    def place(time: float, value: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * time / latest
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / highest

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for step in range(5):
        x, _ = place(latest * step / 4, 0)
        _, y = place(0, highest * step / 4)
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{highest * step / 4:.0f}</text>',
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{latest * step / 4:.3g}</text>',
        ]
    for line in lines:
        points = [place(time, value) for time, value in zip(times, line.values, strict=True)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        beside = WIDTH - RIGHT + 8
        parts += [
            f'<polyline points="{drawn}" fill="none" stroke="{line.colour}" stroke-width="1.5"{dashes}/>',
            f'<text x="{beside}" y="{points[-1][1] + 4:.1f}" fill="{line.colour}">{escape(line.name)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
