"""The look of the report, and the few pieces of HTML it is made of.

One neutral design for light and dark, from a phone's width upward: system fonts, two colours that colour-blind people
can tell apart (blue with pictures, grey without), no scripts, nothing fetched.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #636c76; --line: #d8dee4; --ground: #ffffff; --card: #f6f8fa;
  --blue: #1c6fd0; --orange: #d9480f; --violet: #7048e8; --grey: #8c959f; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --ground: #0d1117;
  --card: #151b23; --blue: #58a6ff; --orange: #ff9248; --violet: #a78bfa; --grey: #7d8590; --good: #3fb950;
  --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; } .soft { color: var(--soft); } .small { font-size: .85rem; }
.number { font-variant-numeric: tabular-nums; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.fact b { display: block; font-size: 1.35rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.fact span { color: var(--soft); font-size: .85rem; }
.note { border-left: 3px solid var(--orange); background: var(--card); padding: .6rem .9rem; margin: .8rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child, .left { text-align: left; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; text-align: left; }
tr.strong td { font-weight: 600; } tr.inner td:first-child { padding-left: 1.6rem; }
.plot { display: grid; grid-template-columns: minmax(4.5rem, max-content) 1fr max-content; gap: .15rem .75rem;
  align-items: center; font-size: .9rem; }
.plot h3 { grid-column: 1 / -1; margin: 1rem 0 .1rem; }
.track { position: relative; height: 1.35rem; min-width: 6rem;
  background: linear-gradient(to right, var(--line) 1px, transparent 1px) 0 0 / 25% 100%;
  border-right: 1px solid var(--line); }
.range, .dot, .fill, .tick { position: absolute; top: 50%; }
.range { height: 4px; margin-top: -2px; border-radius: 2px; background: var(--blue); opacity: .45; }
.dot { width: 11px; height: 11px; margin: -5.5px 0 0 -5.5px; border-radius: 50%; background: var(--blue); }
.range.blank { background: var(--grey); } .dot.blank { background: var(--ground); border: 2px solid var(--grey); }
.axis { position: relative; height: 1.2rem; color: var(--soft); font-size: .75rem; }
.axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.3rem; color: var(--soft); font-size: .85rem; margin: .5rem 0; }
.legend i { display: inline-block; width: .75rem; height: .75rem; border-radius: 50%; margin-right: .4rem;
  vertical-align: -1px; } .legend i.box { border-radius: 2px; background: none !important; border: 3px solid; }
.bar { position: relative; height: .85rem; min-width: 7rem; background: var(--card); }
.fill { left: 0; top: 0; bottom: 0; background: var(--blue); opacity: .75; border-radius: 0 2px 2px 0; }
.tick { top: -2px; bottom: -2px; width: 2px; margin-left: -1px; background: var(--ink); }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.25rem; }
figure { margin: 0; } figcaption { font-size: .9rem; margin-bottom: .2rem; } figure svg { width: 100%; height: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
  font-size: .9rem; }
.card.wide { grid-column: span 2; } .card img { display: block; width: 100%; max-height: 22rem; object-fit: contain;
  background: var(--line); } .card div { padding: .65rem .85rem .8rem; } .card p { margin: 0 0 .4rem; }
.card dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .7rem; margin: 0; }
.card dt { color: var(--soft); } .card dd { margin: 0; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--soft); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow-x: auto;
  font: .8rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 40rem) { body { padding: 1.25rem .9rem 3rem; } h1 { font-size: 1.5rem; }
  .card.wide { grid-column: auto; } .plot { gap: .15rem .5rem; font-size: .82rem; } .facts { gap: .5rem;
  grid-template-columns: 1fr 1fr; } .card img { max-height: 15rem; } th, td { padding: .3rem .4rem; } }
"""


_WIDE = '<td class="wrap">'


def document(title: str, body: Iterable[str]) -> str:
    """A whole page; `body` is HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def facts(items: Sequence[tuple[str, str]]) -> str:
    """Big values with what they are below them."""
    cells = "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in items
    )
    return f'<div class="facts">{cells}</div>'


def note(*lines: str) -> str:
    """Something the reader must know, such as a part that is missing."""
    return f'<p class="note">{"<br>".join(escape(line) for line in lines)}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, classes: Sequence[str] = ()) -> str:
    """A table that scrolls sideways on a narrow page; cells are HTML, `classes` are those of the rows."""
    wide = {i for row in rows for i, cell in enumerate(row) if cell.startswith(_WIDE)}
    names = "".join(f"<th{' class=left' if i in wide else ''}>{escape(name)}</th>" for i, name in enumerate(head))
    lines = [
        f'<tr class="{kind}">{"".join(cell if cell.startswith(_WIDE) else f"<td>{cell}</td>" for cell in row)}</tr>'
        for row, kind in zip_longest(rows, classes, fillvalue="")
    ]
    top = f"<thead><tr>{names}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def wide_cell(text: str) -> str:
    """Text that may take several lines in a table."""
    return f"{_WIDE}{escape(text)}</td>"


def picture(path: Path) -> str:
    """The data: address of a PNG."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def is_wide(path: Path) -> bool:
    """Whether a PNG is much wider than high, by its header."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width > 1.7 * height


def folded(summary: str, content: str) -> str:
    """Content behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def percent(share: float, digits: int = 0) -> str:
    """A share as percent."""
    return f"{100 * share:.{digits}f} %"


def amount(number: float) -> str:
    """A count in three digits: 950, 12.3k, 4.56M, 1.2B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 12 min 30 s, 3 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
