"""The shell of a report: one HTML file that fetches nothing, with figures as inline SVG in the page's own colours.

Promises: no script, no address that is ever fetched; light, dark and print; a figure's ids are its own on the page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the reader's own text colour; no curve uses them.
INK = "#010203"
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #ccc; --warn: #a04000; --error: #b00020; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181c; --line: #444; --warn: #ffb066; --error: #ff8095; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 0 0 1rem; color: var(--ink); } figure svg { width: 100%; height: auto; max-width: 52rem; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; } .pair figure { flex: 1 1 24rem; min-width: 0; }
p, figcaption { max-width: 52rem; }
figcaption, small { opacity: .8; } .said { font-size: 1.1rem; }
@media screen and (prefers-color-scheme: dark) { figure svg { filter: brightness(1.4); } }
.wide { overflow-x: auto; } .limits { white-space: nowrap; } h1 { overflow-wrap: anywhere; }
th { overflow-wrap: break-word; }
thead th { min-width: 4.5rem; } table.fits th:nth-child(3) { min-width: 11rem; } tbody th { min-width: 6rem; }
summary { cursor: pointer; margin: .5rem 0; } details > .wide, details > .pair { margin-bottom: 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); }
td ul { margin: 0; padding-left: 1rem; min-width: 16rem; } pre { overflow-x: auto; font-size: .85em; }
li.warning b { color: var(--warn); } li.error b { color: var(--error); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000; --paper: #fff; --line: #999; --warn: #000; --error: #000; }
  body { max-width: none; margin: 0; font-size: 11px; } section, figure { break-inside: avoid; }
  details > * { display: block; }
}
"""


class Figures:
    """Draws the figures of one page; each gets ids of its own."""

    def __init__(self) -> None:
        self.count = 0

    def figure(self, draw: Callable[[Axes], Axes], caption: str, *, width: float = 8.0, height: float = 5.0) -> str:
        """Return a figure element: what `draw` draws on new axes, with a caption, which is also its label."""
        from analysis.plots.output import new_axes

        self.count += 1
        with warnings.catch_warnings(), _context():
            warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
            figure = draw(new_axes(width, height)).get_figure(root=True)
            svg = "" if figure is None else _svg(figure, f"f{self.count}-", caption)
        return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def html_page(title: str, parts: list[str]) -> str:
    """Return the whole file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a section with a heading; nothing where there is no content."""
    content = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def folded(summary: str, *parts: str) -> str:
    """Return content that opens on a click and is printed whole; nothing where there is none."""
    content = "".join(parts)
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """Return a table whose rows begin with a name; every text is escaped."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _context() -> Any:
    import matplotlib as mpl

    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    settings: Any = {**ink, "svg.fonttype": "path", "svg.hashsalt": "scalerl"}
    return mpl.rc_context(settings)


def _svg(figure: Figure, prefix: str, label: str) -> str:
    """The figure as inline SVG whose text and axes take the colour of the page."""
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = svg.getvalue()
    text = text[text.index("<svg") :]
    # Inside HTML neither the metadata nor the namespaces mean anything, and they hold the only addresses.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}")
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1)
    return text.replace(INK, "currentColor")
