"""Draws docs/story.svg: what `gce-backend demo` prints, line by line, as it appears.

The demonstration runs for about a minute; the drawing shows it in a fifth of that time. Where
nothing moves, it shows all lines.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DRAWING = ROOT / "docs" / "story.svg"
WIDTH, LINE, TOP, LEFT = 860, 19, 58, 24
COLUMNS = 86
"""Characters of a line."""
FASTER = 5.0
_LINE = re.compile(r" *(\d+\.\d) s  (.*)")
STYLE = """\
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d6deeb}
.c{fill:#82aaff;font-weight:700}.t{fill:#7f8fa6}.d{fill:#a5e075;font-weight:700}
g{animation:a .3s both}@keyframes a{from{opacity:0}to{opacity:1}}
@media(prefers-reduced-motion:reduce){g{animation:none}}"""


class Told(NamedTuple):
    """A line of the demonstration: seconds since its beginning, and the words."""

    at: float
    text: str


def told_in(output: str) -> list[Told]:
    """The lines of what the command printed; its last one has the time of the line before."""
    found: list[Told] = []
    for line in output.splitlines():
        timed = _LINE.fullmatch(line)
        if timed:
            found.append(Told(float(timed[1]), timed[2]))
        elif line.startswith("everything was verified"):
            found.append(Told(found[-1].at, line))
    return found


def drawn(lines: Sequence[Told]) -> str:
    """The drawing of these lines."""
    rows = list(_rows(lines))
    height = int(re.findall(r' y="(\d+)"', rows[-2])[-1]) + 20
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>gce-backend demo: the life of a fleet in a minute</title>",
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#0f1724"/>',
            *(
                f'<circle cx="{22 + 18 * n}" cy="20" r="5" fill="{color}"/>'
                for n, color in enumerate(("#ff6b6b", "#ffd166", "#06d6a0"))
            ),
            f'<text x="{LEFT}" y="48"><tspan class="t">$</tspan> gce-backend demo</text>',
            *rows,
            "</svg>\n",
        )
    )


def _rows(lines: Sequence[Told]) -> Iterator[str]:
    number = 0
    for at, text in lines:
        chapter = text[:1].isdigit()
        last = text.startswith("everything was verified")
        kind = "c" if chapter else "d" if last else ""
        pieces = textwrap.wrap(text.strip(), COLUMNS, break_on_hyphens=False)
        yield f'<g style="animation-delay:{at / FASTER:.1f}s">'
        for place, piece in enumerate(pieces):
            number += 1
            y = TOP + LINE * number - 4
            if not place and not last:
                yield f'<text x="{LEFT}" y="{y}" class="t" xml:space="preserve">{at:5.1f} s</text>'
            x = LEFT + (80 if chapter else 104 if not last else 0)
            words = html.escape(piece, quote=False)
            yield f'<text x="{x}" y="{y}"{f" class={kind!r}" if kind else ""}>{words}</text>'
        yield "</g>"


def main() -> None:
    """Runs the demonstration, and draws it."""
    command = [str(Path(sys.executable).with_name("gce-backend")), "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 -- ours
    lines = told_in(done.stdout)
    DRAWING.write_text(drawn(lines), encoding="utf-8")
    sys.stdout.write(f"{DRAWING.relative_to(ROOT)}: {len(lines)} lines\n")


if __name__ == "__main__":
    main()
