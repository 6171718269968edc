"""The report's training side: loss curves, mixtures, skipped samples and settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from .. import page
from .. import recipe as recipes
from .plots import loss_curve
from .run_record import StageRecord

MANY = 20
"""Skipped samples listed one by one."""


def curves(stages: Sequence[StageRecord]) -> list[str]:
    """A loss curve for each stage that has steps, and a table of what the steps were."""
    figures, rows = [], []
    for stage in stages:
        if not stage.metrics:
            continue
        steps = [line["step"] for line in stage.metrics]
        drawing = loss_curve(steps, [line["loss"] for line in stage.metrics], name=stage.name)
        caption = f"<b>{escape(stage.name)}</b> · loss by step"
        figures.append(f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>")
        rows.append(_stage_row(stage))
    if not figures:
        return [page.note("No step has been trained yet.")]
    head = ["stage", "steps", "first loss", "last loss", "largest gradient norm", "samples/s", "tokens/s", "time"]
    return [f'<div class="curves">{"".join(figures)}</div>', page.table(head, rows)]


def _stage_row(stage: StageRecord) -> list[str]:
    lines, seconds = stage.metrics, max(stage.seconds, 1e-9)
    tail = max(len(lines) // 50, 1)
    return [
        escape(stage.name),
        f"{lines[-1]['step']} of {stage.settings.steps}",
        f"{_mean(lines[:tail], 'loss'):.3f}",
        f"{_mean(lines[-tail:], 'loss'):.3f}",
        f"{max(line.get('grad_norm', 0.0) for line in lines):.2f}",
        page.amount(sum(line.get("samples", 0) for line in lines) / seconds),
        page.amount(sum(line.get("tokens", 0) for line in lines) / seconds),
        page.duration(stage.seconds),
    ]


def _mean(lines: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(line[key] for line in lines) / len(lines)


# -------------------------------------------------------------------------------------------------------------- mixture


def mixture(stages: Sequence[StageRecord]) -> list[str]:
    """By stage and source: the share of samples asked for and the one that came, and what it was in tokens."""
    lines = [
        '<div class="legend"><span><i style="background:var(--blue);border-radius:2px"></i>realised share of '
        'samples</span><span><i style="background:var(--ink);width:2px;border-radius:0"></i>asked</span></div>'
    ]
    for stage in stages:
        if stage.mixture is None:
            lines.append(page.note(f"Stage {stage.name} has no mixture.json yet."))
            continue
        lines += [f"<h3>{escape(stage.name)}</h3>", _mixture_table(stage.mixture)]
    return lines


def _mixture_table(shares: Mapping[str, Any]) -> str:
    asked, realised, groups = shares["asked"], shares["realised"], shares.get("groups", {})
    total = {key: sum(one.get(key, 0) for one in realised.values()) or 1 for key in ("samples", "tokens", "tiles")}
    widest = max([*asked.values(), *(one["samples"] / total["samples"] for one in realised.values())], default=1)
    rows, classes = [], []
    for group, sources in _by_group(asked, realised, groups):
        came = sum(realised.get(s, {}).get("samples", 0) for s in sources) / total["samples"]
        wanted = sum(asked.get(s, 0.0) for s in sources)
        rows.append([escape(group), "", page.percent(wanted, 2), page.percent(came, 2), "", "", "", ""])
        classes.append("strong")
        for source in sources:
            one = {"samples": 0, "tokens": 0, "target_tokens": 0, "tiles": 0, **realised.get(source, {})}
            share, wanted = one["samples"] / total["samples"], asked.get(source, 0.0)
            bar = (
                f'<div class="bar"><span class="fill" style="width:{100 * share / widest:.2f}%"></span>'
                f'<span class="tick" style="left:{100 * wanted / widest:.2f}%"></span></div>'
            )
            cells = [escape(source), bar, page.percent(wanted, 2), page.percent(share, 2), f"{one['samples']:,}"]
            cells += [
                page.percent(one["tokens"] / total["tokens"], 1),
                f"{one['target_tokens']:,}",
                f"{one['tiles']:,}",
            ]
            rows.append(cells)
            classes.append("inner")
    head = ["source", "", "asked", "realised", "samples", "share of tokens", "target tokens", "tiles"]
    return page.table(head, rows, classes=classes)


def _by_group(
    asked: Mapping[str, float], realised: Mapping[str, Any], groups: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """Groups in order of appearance, each with its sources from the largest share down."""
    sources = list(dict.fromkeys([*asked, *realised]))
    for group in dict.fromkeys(groups.get(source, "") for source in sources):
        own = [source for source in sources if groups.get(source, "") == group]
        yield group or "(no group)", sorted(own, key=lambda source: -asked.get(source, 0.0))


def skipped(stages: Sequence[StageRecord]) -> list[str]:
    """The ledger of samples that were skipped, counted by source; nothing where none was."""
    counts = {(stage.name, source): n for stage in stages for source, n in _skips(stage).items()}
    if not counts:
        return []
    summary = ", ".join(f"{n:,} of {source} in {stage}" for (stage, source), n in counts.items())
    listed = [(stage.name, line) for stage in stages for line in stage.skipped]
    rows = [[escape(stage), *_ledger_line(line)] for stage, line in listed[:MANY]]
    rest = sum(counts.values()) - len(rows)
    more = f'<p class="soft small">and {rest:,} more; see skipped.jsonl of the stages</p>' if rest > 0 else ""
    table = page.table(["stage", "source", "index", "why"], rows)
    return ["<h2>Skipped samples</h2>", f"<p>{escape(summary)}.</p>", table + more]


def _skips(stage: StageRecord) -> dict[str, int]:
    """Skipped samples by source, from the ledger, or from mixture.json where there is none."""
    counts = Counter(str(line.get("source", "?")) for line in stage.skipped)
    realised = (stage.mixture or {}).get("realised", {})
    for source, one in realised.items():
        counts[source] = max(counts[source], one.get("skipped", 0))
    return {source: n for source, n in counts.items() if n}


def _ledger_line(line: Mapping[str, Any]) -> list[str]:
    why = line.get("why") or line.get("reason") or line.get("error")
    if why is None:
        why = ", ".join(f"{key} {value}" for key, value in line.items() if key not in ("source", "index"))
    return [escape(str(line.get("source", ""))), escape(str(line.get("index", ""))), page.wide_cell(str(why))]


# ------------------------------------------------------------------------------------------------------------- settings


def settings(recipe: recipes.Recipe, precision: str) -> list[str]:
    """The settings that decide most: the model, the pictures, and a column for each stage; `precision` as it was."""
    model, picture = recipe.model, recipe.picture
    rows = [
        ["encoder", page.wide_cell(_backbone(model.vision))],
        [
            "connector",
            page.wide_cell(f"C-Abstractor, {model.connector.tokens} tokens a tile, depth {model.connector.depth}"),
        ],
        ["decoder", page.wide_cell(_backbone(model.decoder))],
        ["pictures", page.wide_cell(_picture(picture))],
        ["coordinates", page.wide_cell(_coordinates(recipe.coordinates))],
        ["seed, precision", page.wide_cell(f"{recipe.seed}, {precision}")],
    ]
    by_stage = {name: _stage_settings(recipe, name) for name in recipe.stages}
    keys = next(iter(by_stage.values()), {})
    stage_rows = [[escape(key), *(page.wide_cell(found[key]) for found in by_stage.values())] for key in keys]
    return [page.table(["", ""], rows), "<h3>By stage</h3>", page.table(["", *by_stage], stage_rows)]


def _backbone(backbone: recipes.Backbone) -> str:
    shape = ", ".join(f"{key} {value}" for key, value in backbone.shape.items())
    return ", ".join(part for part in (backbone.family, backbone.weights or "from scratch", shape) if part)


def _picture(picture: recipes.Picture) -> str:
    if picture.rule == "none":
        return f"one tile of {picture.tile} px, never split"
    split = f"{picture.min_tiles} to {picture.max_tiles} tiles of {picture.tile} px by rule {picture.rule}"
    return f"{split}, overview {picture.overview}, split below {picture.split_below} pictures"


def _coordinates(contract: recipes.Contract) -> str:
    return f"{contract.bins} bins a side, written " + ("as one token each" if contract.tokens else "in digits")


def _stage_settings(recipe: recipes.Recipe, name: str) -> dict[str, str]:
    stage = recipe.stages[name]
    batch, optimizer, schedule = stage.batch, stage.optimizer, stage.schedule
    return {
        "steps": f"{stage.steps:,}",
        "batch": f"{batch.rows} row{'s' * (batch.rows != 1)} of up to {batch.tokens:,} tokens and {batch.tiles} tiles",
        "optimiser": f"{optimizer.name}, decay {optimizer.weight_decay:g}, clip {optimizer.clip:g}",
        "learning rate": f"{optimizer.lr:g}, {schedule.kind}, warm-up {schedule.warmup}",
        "pictures": _picture(recipe.stage_picture(name)),
        "groups": ", ".join(f"{group} {block.weight:g}" for group, block in stage.mixture.items()),
    }
