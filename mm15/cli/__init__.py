"""The command line. Results go to stdout, progress and logs to stderr; status 0, 2 for what the user can mend, 1 for
our faults.

Everything heavy is imported inside the command that needs it, so that ``mm15 tiles`` and ``mm15 --help`` are quick.
"""

from __future__ import annotations

import json as jsonlib
import os
import re
import sys
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Stopped, UserError
from .data import data
from .exporting import export
from .models import upcycle
from .output import Json, note, save, say
from .planning import plan

if TYPE_CHECKING:
    from ..generate.conversation import Conversation, Reply
    from ..generate.fast import FastDecoder
    from ..regions import Box, Point

app = typer.Typer(
    name="mm15",
    help="Train, run and evaluate multimodal models by the MM1.5 recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data, name="data")
app.command()(export)
app.command()(upcycle)
app.command()(plan)

_USAGE: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Typer's errors of usage: its own copy of click's, or click's, by version."""

INTERRUPTED = 130
"""Status of a command that Ctrl-C ended, as shells have it."""
TERMINATED = 143
"""Status of a run that SIGTERM ended, as shells have it."""


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change: stages.sft.steps=100")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/NAME).")] = None,
    stage: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with another learning rate, schedule or clipping.")
    ] = False,
) -> None:
    """Run all stages of a recipe, then evaluation and report. The same command again resumes."""
    from .. import recipe as recipes

    settings = recipes.load(recipe, overrides or [])
    folder = out or Path("runs") / settings.name
    from ..evaluate.report import write_report
    from ..evaluate.results import summary
    from ..evaluate.stage import evaluate_stage
    from ..train.run import run as run_recipe

    run_recipe(settings, folder, only=stage, evaluate=evaluate_stage, accept_changes=accept_changes)
    if int(os.environ.get("RANK", "0")) == 0:
        page = write_report(folder)
        scores = folder / "evaluation" / f"{stage or list(settings.stages)[-1]}.json"
        if scores.exists():
            say(summary(scores))
        say(f"report: {page}\nmodel:  {folder / 'model'}\ntry:    mm15 chat {folder} PICTURE")


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder or a hub id.")],
    pictures: Annotated[list[Path] | None, typer.Argument(help="Pictures to talk about.")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="Ask once; without it, a conversation.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="X,Y in pixels of the last picture.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="X1,Y1,X2,Y2 in pixels of the last picture.")] = None,
    max_tiles: Annotated[int | None, typer.Option(help="Allow more tiles than in training.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    draw: Annotated[Path | None, typer.Option(help="Write the last picture with the answer's boxes drawn.")] = None,
    weights: Annotated[str | None, typer.Option(help="Fast generation on a CPU: fp32 (same answers) or int8.")] = None,
    json: Json = False,
) -> None:
    """Ask a model about pictures; boxes come back in pixels of the picture."""
    from ..image import open_picture
    from ..sample import Image

    places = [_numbers(text, 2, "--point") for text in point or []] + [_numbers(text, 4, "--box") for text in box or []]
    opened = [open_picture(Image(path), where=str(path)) for path in pictures or []]
    if places and not opened:
        raise UserError("--point and --box refer to a picture; name one")
    if json and prompt is None:
        raise UserError("--json needs a question: add -p TEXT")
    if draw is not None and not opened:
        raise UserError("--draw needs a picture to draw on; name one")
    for place in places:
        _inside(place, opened[-1].size)
    from ..generate.conversation import Conversation
    from ..generate.loading import load

    network, processor = load(model, device=None if weights is None else "cpu")
    if max_tiles is not None:
        processor = processor.with_tiling(max_tiles=max_tiles)
    conversation = Conversation(network, processor, max_new_tokens=max_new_tokens, fast=_fast(network, weights))
    if prompt is None:
        _converse(conversation, opened, places)
        return
    reply = conversation.ask(prompt, images=opened, regions=places)
    if draw is not None:
        from ..image.marking import draw_regions

        save(draw_regions(opened[-1], [r for r in reply.regions if r.image == len(opened) - 1]), draw)
    say(jsonlib.dumps(_reply(reply)) if json else _readable(reply))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder or a model folder.")],
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")] = None,
    group: Annotated[str | None, typer.Option(help="Only this group.")] = None,
    limit: Annotated[int | None, typer.Option(help="Samples a task.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Take the tasks of this recipe (default: the run's).")] = None,
    json: Json = False,
) -> None:
    """Score a model by group, against the same model shown blank pictures."""
    from ..evaluate.stage import evaluate_model

    results = evaluate_model(model, recipe=recipe, tasks=tasks, group=group, limit=limit)
    say(jsonlib.dumps(results.as_dict()) if json else results.table())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Write the run's page: curves, mixture, scores, pictures with boxes."""
    from ..evaluate.report import write_report

    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: not a run folder (no recipe.yaml)")
    say(str(write_report(run)))


@app.command()
def tiles(
    picture: Annotated[str, typer.Argument(help="A picture file, or WIDTHxHEIGHT in pixels.")],
    tile: Annotated[int, typer.Option(help="Side of a tile in pixels.")] = 672,
    min_tiles: Annotated[int, typer.Option(help="Fewest tiles of a grid.")] = 4,
    max_tiles: Annotated[int, typer.Option(help="Most tiles of a grid.")] = 9,
    rule: Annotated[str, typer.Option(help="mm15, budget, static or none.")] = "mm15",
    draw: Annotated[Path | None, typer.Option(help="Write a drawing of the grid.")] = None,
    json: Json = False,
) -> None:
    """Explain how a picture is split into tiles."""
    from ..image import Rule, Tiling, draw_grid, explain, open_picture, picture_size, plan
    from ..image.explain import describe
    from ..sample import Image

    try:
        tiling = Tiling(tile=tile, rule=Rule(rule), min_tiles=min_tiles, max_tiles=max_tiles)
    except ValueError as error:
        raise UserError(str(error)) from None
    size = re.fullmatch(r"(\d+)[xX](\d+)", picture)
    if size and not Path(picture).exists():
        width, height = int(size[1]), int(size[2])
    else:
        width, height = picture_size(Image(picture), where=picture)
    told = explain(width, height, tiling)
    if draw is not None:
        opened = None if size else open_picture(Image(picture), where=picture)
        save(draw_grid(opened, plan(width, height, tiling)), draw)
    say(jsonlib.dumps(told) if json else describe(told))


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="A shipped recipe's name or a YAML file.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema for editors.")] = False,
) -> None:
    """Print a recipe resolved, the list of shipped ones, or the schema."""
    from .. import recipe as recipes

    if schema:
        say(jsonlib.dumps(recipes.schema(), indent=1))
    elif name is None:
        say("\n".join(recipes.shipped()))
    else:
        say(recipes.dump(recipes.load(name, overrides or [])).rstrip())


# ------------------------------------------------------------------------------------------------------------ helpers


def _numbers(text: str, count: int, option: str) -> Box | Point:
    from ..regions import Box, Point

    try:
        values = [float(number) for number in text.split(",")]
        if len(values) != count:
            raise ValueError(f"it has {len(values)} numbers")
        return Point(*values) if count == 2 else Box(*values)
    except ValueError as error:
        form = "X,Y" if count == 2 else "X1,Y1,X2,Y2"
        raise UserError(f"{option} {text!r}: {error}; write {form} in pixels") from None


def _inside(place: Box | Point, size: tuple[int, int]) -> None:
    from ..regions import Coordinates

    try:
        Coordinates().quantise(place, size)
    except ValueError as error:
        raise UserError(str(error)) from None


def _fast(network: Any, weights: str | None) -> FastDecoder | None:
    """The fast decoder that `--weights` asks for; without it none, and transformers' `generate` answers."""
    if weights is None:
        return None
    from ..generate.fast import FastDecoder, Weights
    from ..progress import PATIENCE_SECONDS

    known = [kind.value for kind in Weights]
    if weights not in known:
        raise UserError(f"--weights is {weights!r}; give one of {', '.join(known)}")
    told = Timer(PATIENCE_SECONDS, note, ["preparing the fast decoder; compiled for this machine once, in some 15 s"])
    told.start()
    try:
        decoder = FastDecoder(network, weights=Weights(weights))
        decoder.compile()
    finally:
        told.cancel()
    return decoder


def _converse(conversation: Conversation, pictures: list[Any], places: list[Any]) -> None:
    """Lines from stdin to the model until end of file; the pictures go with the first."""
    note("Ask about the picture; an empty line or Ctrl-D ends.")
    while True:
        if sys.stdin.isatty():
            note("> ", end="")
        line = sys.stdin.readline().strip()
        if not line:
            return
        reply = conversation.ask(line, images=pictures, regions=places)
        pictures, places = [], []
        say(_readable(reply))


def _reply(reply: Reply) -> dict[str, Any]:
    found = [
        {"label": region.label, "image": region.image, "pixels": [round(v, 1) for v in region.shape]}
        for region in reply.regions
    ]
    return {"text": reply.text, "regions": found, "malformed": [bad.text for bad in reply.malformed]}


def _readable(reply: Reply) -> str:
    """The answer with its coordinates, then each region in pixels on a line of its own."""
    lines = [reply.text or "(no answer)"]
    for region in reply.regions:
        numbers = ", ".join(f"{value:.0f}" for value in region.shape)
        kind = "box" if len(tuple(region.shape)) == 4 else "point"
        lines.append(f"  {kind} in pixels: {numbers}" + (f"  ({region.label})" if region.label else ""))
    lines += [f"  not readable as coordinates: {bad.text} ({bad.why})" for bad in reply.malformed]
    return "\n".join(lines)


def main() -> None:
    """Entry point: errors the user can mend become one line and status 2."""
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # typer turns Ctrl-C into this status, without a word
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else 0)
    except UserError as error:
        note(f"mm15: {' '.join(str(error).split())}")
        sys.exit(2)
    except _USAGE as error:
        note(f"mm15: {' '.join(error.format_message().split())}; see mm15 --help")  # type: ignore[attr-defined]
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        note("mm15: interrupted; the same command goes on from what was saved")
        sys.exit(INTERRUPTED)
    except Stopped as stopped:
        note(f"mm15: {stopped}")
        sys.exit(TERMINATED)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
