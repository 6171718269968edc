"""The page of a check: what was found, drawn where a picture says more, and what the stages will see.

One HTML file that stands alone, light and dark, for a phone and upward. Only the first few findings of a kind are
drawn; all of them are in the JSON. A thumbnail costs the decoding of its picture.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ... import page
from ...files import write_atomically
from .expected import StageOutlook
from .findings import Finding, Kind
from .report import Histogram, Report, SourceSummary, number
from .thumbnails import Thumbnails

CARDS = 8
"""So many findings of a kind are drawn."""
LINES = 20
"""So many are listed, of kinds that no picture explains."""
_DRAWN = {
    Kind.REGION_OUTSIDE,
    Kind.REGION_EMPTY,
    Kind.TOO_MANY_TILES,
    Kind.LEAK_SAMPLE,
    Kind.LEAK_PICTURE,
    Kind.LEAK_NEAR,
    Kind.DUPLICATE_SAMPLE,
    Kind.DUPLICATE_PICTURE,
}
_PAIRS = {Kind.LEAK_SAMPLE, Kind.LEAK_PICTURE, Kind.LEAK_NEAR, Kind.DUPLICATE_SAMPLE, Kind.DUPLICATE_PICTURE}
_OUTLIERS = {"largest": "Largest", "smallest": "Smallest", "longest": "Longest for their width"}


def write_page(report: Report, path: Path) -> Path:
    """Writes the page and returns its path. OSError when it cannot be written."""
    body = [
        *_headline(report),
        *_overview(report),
        *_details(report),
        *_stages(report.stages),
        *_lengths(report.histograms),
        *_sources(report.summaries),
        *_outliers(report),
        *_compared(report),
    ]
    write_atomically(path, page.document(f"{report.recipe}: data check", body))
    return path


def _headline(report: Report) -> Iterator[str]:
    faults = sum(finding.kind.fault for finding in report.findings)
    samples = sum(summary.samples for summary in report.summaries)
    rate = page.amount(report.looked_at / max(report.seconds, 1e-3))
    yield f"<h1>{escape(report.recipe)}: data check</h1>"
    yield f'<p class="soft">In {page.duration(report.seconds)}, {rate} samples a second, from headers and texts.</p>'
    yield page.facts(
        [
            (f"{faults:,}", "faults"),
            (f"{len(report.findings) - faults:,}", "notes"),
            (
                f"{report.looked_at:,}",
                "samples" + ("" if report.looked_at == samples else f" of {page.amount(samples)}"),
            ),
            (f"{sum(s.pictures for s in report.summaries):,}", "picture files"),
        ]
    )


def _overview(report: Report) -> Iterator[str]:
    yield "<h2>What was found</h2>"
    if not report.findings:
        yield '<p class="good">Nothing is wrong.</p>'
        return
    rows = []
    for kind, count in report.counts.items():
        by_source = Counter(finding.source for finding in report.of_kind(kind))
        named = ", ".join(f"{name} {n:,}" for name, n in by_source.most_common(4))
        link = f'<td class="wrap"><a href="#{kind.value}">{escape(kind.heading)}</a></td>'
        rows.append(
            [
                f'<span class="{"bad" if kind.fault else "soft"}">{count:,}</span>',
                link,
                page.wide_cell(named + (", ..." if len(by_source) > 4 else "")),
                page.wide_cell(("" if kind.fault else "A note, no fault: ") + kind.advice),
            ]
        )
    yield page.table(["", "what", "in", "what to do"], rows)


def _details(report: Report) -> Iterator[str]:
    thumbnails = Thumbnails(report.sources)
    below = _common_folder(report.findings)
    if below:
        yield f'<p class="soft small">Paths are below {escape(below)}</p>'
    for kind, count in report.counts.items():
        findings = report.worst(kind)
        yield f'<h3 id="{kind.value}">{escape(kind.heading.capitalize())}: {count:,}</h3>'
        pairs = " Left: where it was found; right: what it repeats." if kind in _PAIRS else ""
        yield f'<p class="soft">{escape(kind.advice[:1].upper() + kind.advice[1:])}.{pairs}</p>'
        drawn = [(finding, thumbnails.of(finding)) for finding in findings[:CARDS]] if kind in _DRAWN else []
        if any(picture for _, picture in drawn):
            yield f'<div class="cards">{"".join(_card(*one, below) for one in drawn)}</div>'
            shown = len(drawn)
        else:
            yield page.table(["where", "what"], [_line(finding, below) for finding in findings[:LINES]])
            shown = min(count, LINES)
        if count > shown:
            yield f'<p class="soft small">And {count - shown:,} more; --json lists all.</p>'


def _card(finding: Finding, picture: str, below: str) -> str:
    image = f'<img src="{picture}" alt="">' if picture else ""
    wide = " wide" if finding.kind in _PAIRS and picture else ""
    message = f'<p style="overflow-wrap:anywhere">{escape(finding.message.replace(below, ""))}</p>'
    rows = {"source": finding.source, "where": finding.where.replace(below, ""), "id": finding.id}
    cells = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in rows.items() if value)
    return f'<div class="card{wide}">{image}<div>{message}<dl>{cells}</dl></div></div>'


def _line(finding: Finding, below: str) -> list[str]:
    where = finding.where or (f"{finding.source}[{finding.index}]" if finding.index >= 0 else finding.source)
    named = where + (f" (id {finding.id})" if finding.id else "")
    return [page.wide_cell(text.replace(below, "")) for text in (named, finding.message)]


def _common_folder(findings: Sequence[Finding]) -> str:
    """The folder below which all places lie, with a slash at its end; empty where they have none in common."""
    folders = {os.path.dirname(finding.where) for finding in findings if os.path.isabs(finding.where)}
    common = os.path.commonpath(folders) if folders else ""
    return common + os.sep if len(common) > 1 else ""


# ---------------------------------------------------------------------------------------------------------- what it is


def _stages(stages: Sequence[StageOutlook]) -> Iterator[str]:
    if not stages:
        return
    yield "<h2>What the stages will see</h2>"
    yield (
        '<p class="soft">From measured lengths, by packing the first draws. Shares are of samples, tokens and target '
        "tokens; a pass over a source takes so many steps.</p>"
    )
    for stage in stages:
        batch = stage.batch
        told = (
            f"{stage.steps:,} steps of {stage.samples_per_step:.3g} samples in {batch['rows']} rows of "
            f"{batch['tokens']:,} tokens and {batch['tiles']:,} tiles, filled to {page.percent(stage.token_fill, 1)} "
            f"and {page.percent(stage.tile_fill, 1)}."
        )
        if stage.skipped:
            told += f" {page.percent(stage.skipped, 1)} of the draws are skipped."
        yield f'<h3>{escape(stage.name)}</h3><p class="small">{escape(told)}</p>'
        if stage.ends_after is not None and stage.ends_after < stage.steps:
            yield page.note(f"The data ends after {stage.ends_after:,} steps: every source has had its epochs.")
        yield _stage_table(stage)


def _stage_table(stage: StageOutlook) -> str:
    head = ["source", "", "asked", "samples", "tokens", "targets", "tokens each", "skipped", "passes", "steps a pass"]
    widest = max([*(s.asked for s in stage.sources), *(s.samples for s in stage.sources), 1e-9])
    rows = []
    for s in stage.sources:
        bar = (
            f'<div class="bar"><span class="fill" style="width:{100 * s.samples / widest:.2f}%"></span>'
            f'<span class="tick" style="left:{100 * s.asked / widest:.2f}%"></span></div>'
        )
        lost = page.percent(s.skipped / max(s.looked_at, 1), 1)
        rows.append(
            [
                escape(s.name),
                bar,
                *(page.percent(share, 1) for share in (s.asked, s.samples, s.tokens, s.targets)),
                f"{s.mean_tokens:,.0f}",
                f'<span class="bad">{lost}</span>' if s.skipped else lost,
                f"{s.epochs:.2f}",
                number(s.steps_per_epoch),
            ]
        )
    lost_why = [
        f"{s.name}: {', '.join(f'{n:,} {why}' for n, why in _losses(s.unusable, s.too_long, s.too_many_tiles) if n)}"
        for s in stage.sources
        if s.skipped
    ]
    why = f'<p class="soft small">Skipped of those looked at. {escape("; ".join(lost_why))}.</p>' if lost_why else ""
    return page.table(head, rows) + why


def _losses(unusable: int, too_long: int, too_many: int) -> list[tuple[int, str]]:
    return [(unusable, "unusable"), (too_long, "with too many tokens"), (too_many, "with too many tiles")]


def _lengths(histograms: Sequence[Histogram]) -> Iterator[str]:
    if not histograms:
        return
    yield "<h2>Lengths</h2>"
    yield (
        '<div class="legend"><span><i style="background:var(--blue);border-radius:2px"></i>samples that fit a row'
        '</span><span><i style="background:var(--orange);border-radius:2px"></i>bars with some that do not</span></div>'
    )
    yield '<div class="curves">'
    for histogram in histograms:
        yield f"<figure><figcaption>{escape(histogram.stage)}: {histogram.unit} a sample</figcaption>"
        yield _bars(histogram) + "</figure>"
    yield "</div>"


def _bars(histogram: Histogram) -> str:
    most = max(histogram.counts)
    rows = []
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        colour = ";background:var(--orange)" if high - 1 > histogram.budget else ""
        label = f"{low:,}" if high == low + 1 else f"{low:,} - {high - 1:,}"
        bar = f'<div class="bar"><span class="fill" style="width:{100 * count / most:.2f}%{colour}"></span></div>'
        rows.append([label, bar, f"{count:,}"])
    return page.table(["", "", ""], rows)


def _sources(summaries: Sequence[SourceSummary]) -> Iterator[str]:
    yield "<h2>Sources</h2>"
    rows = []
    for s in summaries:
        sizes = [f"{s.widths[i]}x{s.heights[i]}" for i in (0, 2, 4)] if s.widths else ["", "", ""]
        rows.append(
            [
                escape(s.name),
                s.role,
                f"{s.samples:,}",
                f"{s.looked_at:,}",
                f"{s.usable:,}",
                f"{s.pictures:,}",
                page.amount(s.picture_bytes).replace("B", "G") + "B" if s.picture_bytes else "",
                *sizes,
            ]
        )
    head = ["source", "used for", "samples", "looked at", "usable", "pictures", "", "smallest", "median", "largest"]
    yield page.table(head, rows)
    yield '<p class="soft small">Smallest, median and largest: of the widths and of the heights, each on its own.</p>'


def _outliers(report: Report) -> Iterator[str]:
    shown = {name: refs for name, refs in report.outliers.items() if refs}
    if not shown:
        return
    thumbnails = Thumbnails(report.sources)
    yield "<h2>Unusual pictures</h2>"
    for name, refs in shown.items():
        yield f"<h3>{_OUTLIERS[name]}</h3>"
        cards = [
            f'<div class="card"><img src="{thumbnails.whole(ref)}" alt=""><div><p>{ref.width} x {ref.height} pixels</p>'
            f"<dl><dt>source</dt><dd>{escape(ref.source)}</dd><dt>sample</dt><dd>{ref.index}</dd></dl></div></div>"
            for ref in refs
        ]
        yield f'<div class="cards">{"".join(cards)}</div>'


def _compared(report: Report) -> Iterator[str]:
    if report.compared or report.notes:
        yield "<h2>Compared with evaluation sets</h2>"
        yield "".join(f"<p>{escape(line)}</p>" for line in [*report.compared, *report.notes])
