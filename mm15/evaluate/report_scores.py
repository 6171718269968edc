"""The report's scores and examples, out of evaluation/NAME.json and examples.json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .. import page

_JSON = Mapping[str, Any]
LONGEST_REPLY = 150
"""Characters of a reply that an example shows."""


def score_plot(scores: Mapping[str, _JSON]) -> list[str]:
    """By group, a row for each stage: the score and the blank-picture score on 0 to 100 %, with intervals."""
    rows = []
    for group in dict.fromkeys(name for found in scores.values() for name in found["groups"]):
        rows.append(f"<h3>{escape(group)}</h3>")
        for stage, found in scores.items():
            if group in found["groups"]:
                rows += _plot_row(stage, found["groups"][group], (found.get("blank") or {}).get(group))
    axis = "".join(f'<span style="left:{x}%">{x} %</span>' for x in (0, 50, 100))
    return [
        "<p>Each group is the plain mean of its tasks. The same model answers the same questions a second time with "
        "every picture replaced by grey: what it scores then, it knows without looking.</p>",
        '<div class="legend"><span><i style="background:var(--blue)"></i>with pictures</span>'
        '<span><i style="border:2px solid var(--grey)"></i>with blank pictures</span>'
        "<span>bars: 95 % intervals</span></div>",
        f'<div class="plot">{"".join(rows)}<span></span><div class="axis">{axis}</div><span></span></div>',
    ]


def _plot_row(stage: str, real: _JSON, blank: _JSON | None) -> list[str]:
    marks = (_marks(blank, " blank") if blank else "") + _marks(real, "")
    against = f' <span class="soft">/ {page.percent(blank["score"])}</span>' if blank else ""
    return [
        f'<span class="soft">{escape(stage)}</span><div class="track">{marks}</div>',
        f'<span class="number"><b>{page.percent(real["score"])}</b>{against}</span>',
    ]


def _marks(score: _JSON, kind: str) -> str:
    low, high = 100 * score["low"], 100 * score["high"]
    return (
        f'<span class="range{kind}" style="left:{low:.2f}%;width:{high - low:.2f}%"></span>'
        f'<span class="dot{kind}" style="left:{100 * score["score"]:.2f}%"></span>'
    )


def score_tables(scores: Mapping[str, _JSON]) -> list[str]:
    """Groups by stage, and every task of the last stage."""
    groups = dict.fromkeys(name for found in scores.values() for name in found["groups"])
    head, rows = ["group", *scores, "blank", "gain over blank", "samples"], []
    last = list(scores.values())[-1]
    for group in groups:
        cells = [_interval(found["groups"].get(group)) for found in scores.values()]
        own, blank = last["groups"].get(group), (last.get("blank") or {}).get(group)
        rows.append([escape(group), *cells, _interval(blank), _gain(last, group), str(own["n"]) if own else ""])
    return [
        "<h3>By group</h3>",
        page.table(head, rows),
        '<p class="soft small">Score in percent with its 95 % interval. Blank, gain and samples are of the last '
        "stage; the gain is paired by sample.</p>",
        page.folded(f"By task, after {list(scores)[-1]}", _task_table(last)),
    ]


def _task_table(found: _JSON) -> str:
    rows, classes = [], []
    for group, real in found["groups"].items():
        blank = (found.get("blank") or {}).get(group)
        entries = [(group, real, blank, "strong")]
        for task, score in real["tasks"].items():
            entries.append((task, score, blank["tasks"].get(task) if blank else None, "inner"))
        for name, score, against, kind in entries:
            rows.append([escape(name), _interval(score), _interval(against), str(score["n"]), str(score["malformed"])])
            classes.append(kind)
    return page.table(["task", "score", "blank", "samples", "unreadable boxes"], rows, classes=classes)


def _interval(score: _JSON | None) -> str:
    if score is None:
        return "&ndash;"
    low, high = f"{100 * score['low']:.0f}", f"{100 * score['high']:.0f}"
    return f'{100 * score["score"]:.1f} <span class="soft small">{low}&ndash;{high}</span>'


def _gain(found: _JSON, group: str) -> str:
    gain = found.get("gain", {}).get(group)
    if gain is None:
        return "&ndash;"
    low, high = f"{100 * gain['low']:+.0f}", f"{100 * gain['high']:+.0f}"
    return f'{100 * gain["mean"]:+.1f} <span class="soft small">{low} to {high}</span>'


# ------------------------------------------------------------------------------------------------------------- examples


def example_cards(stages: Mapping[str, Sequence[_JSON]], pictures: Path) -> list[str]:
    """The examples of the last stage by group, each with its reply after every stage."""
    last = list(stages.values())[-1]
    lines = [
        "<p>The first held-out samples of every task, not picked. Boxes are drawn as after the last stage.</p>"
        '<div class="legend"><span><i class="box" style="border-color:#1c7ed6"></i>true place</span>'
        '<span><i class="box" style="border-color:#f76707"></i>where the model points</span>'
        '<span><i class="box" style="border-color:#7048e8"></i>what the question points at</span></div>'
    ]
    for group in dict.fromkeys(example["group"] for example in last):
        cards = [_card(example, stages, pictures) for example in last if example["group"] == group]
        lines.append(f'<h3>{escape(group)}</h3><div class="cards">{"".join(cards)}</div>')
    return lines


def _card(example: _JSON, stages: Mapping[str, Sequence[_JSON]], pictures: Path) -> str:
    key = (example["group"], example["task"], example["id"])
    said = []
    for stage, examples in stages.items():
        for other in examples:
            if (other["group"], other["task"], other["id"]) == key:
                said.append(f"<dt>{escape(stage)}</dt><dd>{_verdict(other)}</dd>")
    if example.get("blank_reply") is not None and example["file"]:
        said.append(f'<dt>blank</dt><dd class="soft">{_words(example["blank_reply"])}</dd>')
    shown, kind = "", ""
    if example["file"] and (pictures / example["file"]).is_file():
        words = escape(f"{example['task']}: {example['question']}", quote=True)
        shown = f'<img alt="{words}" src="{page.picture(pictures / example["file"])}">'
        kind = " wide" if page.is_wide(pictures / example["file"]) else ""
    shots = ", ".join(example.get("shots", []))
    told = f" · told before: {shots}" if shots else ""
    return (
        f'<article class="card{kind}">{shown}<div><p class="soft small">{escape(example["task"] + told)}</p>'
        f"<p><b>{escape(example['question']) or '(continue)'}</b></p>"
        f"<dl><dt>true</dt><dd>{escape(example['answer'])}</dd>{''.join(said)}</dl></div></article>"
    )


def _verdict(example: _JSON) -> str:
    score = example["score"]
    mark = '<span class="good">✓</span>' if score >= 1 else '<span class="bad">✗</span>'
    told = [page.percent(score)] if 0 < score < 1 else []
    if example.get("iou") is not None:
        told.append(f"IoU {example['iou']:.2f}")
    more = f' <span class="soft small">{", ".join(told)}</span>' if told else ""
    return f"{mark} {_words(example['reply'])}{more}"


def _words(reply: str) -> str:
    """A reply as HTML, cut where it is long; an untrained model also writes control characters."""
    cut = reply if len(reply) <= LONGEST_REPLY else reply[:LONGEST_REPLY] + "…"
    return escape(re.sub(r"[\x00-\x1f\x7f]", "�", cut)) or "(nothing)"
