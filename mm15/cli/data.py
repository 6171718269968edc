"""``mm15 data``: bring datasets in, look into them, check them before the first step."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .building import (
    EngineName,
    EngineOption,
    Heldout,
    PictureForm,
    Seed,
    Split,
    To,
    ToOption,
    Workers,
    one_of_each,
    run_builds,
    share_of,
)
from .output import Json, save, say
from .recaption import recaption

if TYPE_CHECKING:
    from ..recipe import Recipe

data = typer.Typer(name="data", help="Build, convert, show and check datasets.", no_args_is_help=True)
build = typer.Typer(name="build", help="Make a dataset from files of your own.", no_args_is_help=True)
data.add_typer(build, name="build")
data.command()(recaption)


@data.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A file, pattern, address or hub id; or X.source.yaml.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[str, typer.Option(help="Format to write: llava, openai, webdataset, ...")],
    from_: Annotated[str | None, typer.Option("--from", help="Format of IN (not for X.source.yaml).")] = None,
    regions: Annotated[str | None, typer.Option(help="How to write places into texts: ferret, internvl, ...")] = None,
    from_regions: Annotated[str | None, typer.Option(help="How the texts of IN write places.")] = None,
    images: Annotated[str | None, typer.Option(help="The folder below which the pictures of IN lie.")] = None,
    split: Annotated[str | None, typer.Option(help="The split of IN (parquet, world).")] = None,
    layout: Annotated[str | None, typer.Option(help="The layout of IN (parquet, webdataset).")] = None,
    to_layout: Annotated[str | None, typer.Option(help="The layout to write (parquet, webdataset).")] = None,
    copy_pictures: Annotated[bool, typer.Option(help="Copy pictures that are files, beside OUT.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="More of IN's block: columns.images=pictures")] = None,
    to_set: Annotated[list[str] | None, typer.Option(help="More of OUT's block: task=caption")] = None,
    json: Json = False,
) -> None:
    """Write a dataset in another format, with a report of what could not be carried."""
    from ..data import convert as converting
    from ..data.sources import open_source

    options = {"regions": from_regions, "images": images, "split": split, "layout": layout}
    if source.endswith(converting.BESIDE) and from_ is None:
        block = converting.read_block(Path(source))
    elif from_ is None:
        raise UserError(f"--from FORMAT is missing: what is {source}? (llava, openai, parquet, ...)")
    else:
        block = converting.described(source, from_, options, set_ or [], "IN")
    target = {"regions": regions, "layout": to_layout}
    settings = converting.described(str(out), to, target, to_set or [], "OUT")
    report = converting.convert(
        open_source(block, "in"),
        settings,
        copy_pictures=copy_pictures,
        bar=lambda numbers: _bar(numbers, "converting", "samples"),
    )
    say(jsonlib.dumps(report.as_dict()) if json else report.table())


@data.command()
def show(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage (default: all).")] = None,
    draws: Annotated[int, typer.Option(min=1, help="How many draws of the mixture to look at.")] = 1000,
    source: Annotated[str | None, typer.Option(help="Show a sample of this source instead.")] = None,
    sample: Annotated[int, typer.Option(help="Its number, from 0.")] = 0,
    draw: Annotated[Path | None, typer.Option(help="Write its pictures with their regions to this file.")] = None,
    json: Json = False,
) -> None:
    """Asked against realised shares of a recipe's mixtures; or one sample of a source, drawn. Reads headers only."""
    from .. import recipe as recipes

    settings = recipes.load(recipe, overrides or [])
    if source is not None:
        _show_sample(settings, source, sample, draw, json)
        return
    if draw is not None:
        raise UserError("--draw draws one sample; add --source NAME")
    from ..data.open import open_recipe
    from ..data.show import show_stage, table

    opened = open_recipe(settings)
    shown = []
    for name in [stage] if stage else settings.stages:
        shown.append(show_stage(opened, name, _bar(range(draws), f"{name}: measuring", "draws")))
    say(jsonlib.dumps([one.as_dict() for one in shown]) if json else "\n\n".join(map(table, shown)))


@data.command()
def check(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only what this stage draws from.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="Look for samples of this set in the training data, besides those of the recipe's evaluation. "
            "SOURCE is FORMAT:PATH, X.source.yaml, or a source block in braces. May be repeated.",
        ),
    ] = None,
    perceptual: Annotated[
        bool,
        typer.Option(
            help="Where evaluation pictures are stored: look for training pictures that look like one. Reads pixels "
            "(JPEGs at an eighth); generated pictures are never compared."
        ),
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Write a page with pictures of what was found.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Look at so many samples a source, evenly spread.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one.")] = 2,
    json: Json = False,
) -> None:
    """Look through all the data of a recipe before the first step; reads headers and texts.

    Status 0: no fault was found. 2: some were (or the command cannot be used so). Notes do not change it.
    """
    from .. import recipe as recipes
    from ..data.check import check as check_data
    from ..data.check.against import read_against
    from ..progress import Bar

    settings = recipes.load(recipe, overrides or [])
    sets = read_against(against or [])
    with Bar("checking", unit="samples") as bar:
        report = check_data(
            settings,
            stage=stage,
            against=sets,
            limit=limit,
            workers=workers,
            perceptual=perceptual,
            bar=lambda done, total: bar.update(done, total=total),
        )
    if out is not None:
        from ..data.check.report_page import write_page

        try:
            write_page(report, out)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); check the folder") from None
    say(jsonlib.dumps(report.as_dict()) if json else report.text() + (f"\n\npage: {out}" if out else ""))
    raise typer.Exit(report.status)


@build.command("pdf")
def build_pdf(
    folder: Annotated[Path, typer.Argument(help="A folder with PDFs (and folders of them), or one PDF.")],
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("corpus/pages"),
    tasks: Annotated[
        str, typer.Option(help="Of ocr,read,refer,ground,words,lines,interleaved.")
    ] = "ocr,read,refer,ground",
    long_side: Annotated[int, typer.Option(help="Longer side of a page's picture in pixels.")] = 1344,
    pages_per_file: Annotated[int | None, typer.Option(help="At most so many pages of a file.", min=1)] = None,
    turns: Annotated[int, typer.Option(help="Questions about places a page.", min=1)] = 6,
    cuts: Annotated[int, typer.Option(help="Small pictures a page, for words and lines.", min=1)] = 8,
    picture: Annotated[PictureForm, typer.Option(help="Form of the pictures.")] = PictureForm.JPEG,
    quality: Annotated[int, typer.Option(help="Quality of JPEGs.", min=1, max=100)] = 90,
    heldout: Heldout = 0.02,
    seed: Seed = 0,
    to: ToOption = To.WEBDATASET,
    workers: Workers = 2,
    engine: EngineOption = EngineName.LOCAL,
    json: Json = False,
) -> None:
    """PDFs to page pictures with words and boxes: reading, places, small cuts, text with figures. Resumes."""
    from ..corpora.pdf import TASKS, Choice, PdfBuilder, look_through

    chosen = one_of_each(tasks, TASKS, "--tasks")
    choice = Choice(chosen, picture.value, quality, turns, cuts, seed)
    files = look_through(folder, workers=workers)

    def builder(split: Split) -> PdfBuilder:
        return PdfBuilder(folder, files, choice, long_side, pages_per_file, heldout, split.value)

    run_builds(builder, out, source="pages", heldout=heldout, to=to, workers=workers, engine=engine, json=json)


@build.command("web")
def build_web(
    pages: Annotated[Path, typer.Argument(help="A folder with HTML files, or a text file with one address a line.")],
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("corpus/screens"),
    viewports: Annotated[str, typer.Option(help="Of phone,tablet,desktop.")] = "phone,tablet,desktop",
    tasks: Annotated[str | None, typer.Option(help="Only these, separated by commas (default: all).")] = None,
    turns: Annotated[int, typer.Option(help="Most questions about a screen.", min=1)] = 8,
    screens: Annotated[int, typer.Option(help="Most screens of a page, scrolling down.", min=1)] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds for a page at one viewport.", min=1)] = 30,
    heldout: Heldout = 0.02,
    seed: Seed = 0,
    to: ToOption = To.WEBDATASET,
    workers: Workers = 2,
    engine: EngineOption = EngineName.LOCAL,
    json: Json = False,
) -> None:
    """Web pages to screenshots and questions about their elements: reading, types, places, taps, lists. Resumes."""
    from ..corpora.web import TASKS, VIEWPORTS, WebBuilder, WebSettings

    chosen = one_of_each(viewports, tuple(VIEWPORTS), "--viewports")
    asked = one_of_each(tasks, tuple(TASKS), "--tasks") if tasks is not None else tuple(TASKS)

    def builder(split: Split) -> WebBuilder:
        return WebBuilder(
            WebSettings(pages, chosen, asked, turns, screens, timeout, seed, split=split.value, heldout=heldout)
        )

    run_builds(builder, out, source="screens", heldout=heldout, to=to, workers=workers, engine=engine, json=json)


@build.command("text")
def build_text(
    texts: Annotated[Path | None, typer.Option(help="A text file or a folder of them (default: made up).")] = None,
    samples: Annotated[int, typer.Option(help="Pictures to make.", min=1)] = 1000,
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("corpus/text"),
    fonts: Annotated[list[Path] | None, typer.Option(help="Folder of fonts besides the system's; repeatable.")] = None,
    system_fonts: Annotated[bool, typer.Option(help="Use the system's fonts.")] = True,
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures to write on.")] = None,
    tasks: Annotated[str, typer.Option(help="Of read,read-box,find.")] = "read,read-box,find",
    layouts: Annotated[str, typer.Option(help="Of line,paragraph,rotated,blocks.")] = "line,paragraph,rotated,blocks",
    distortions: Annotated[
        str, typer.Option(help="Of perspective,shear,blur,noise,jpeg,low-contrast; or none.")
    ] = "perspective,shear,blur,noise,jpeg,low-contrast",
    size: Annotated[int, typer.Option(help="Longest side of a picture in pixels.")] = 1024,
    contrast: Annotated[float, typer.Option(help="Least contrast of ink and ground (WCAG ratio).")] = 3.0,
    turns: Annotated[int, typer.Option(help="Most questions about a picture.", min=1)] = 3,
    heldout: Heldout = 0.02,
    seed: Seed = 0,
    to: ToOption = To.WEBDATASET,
    workers: Workers = 2,
    engine: EngineOption = EngineName.LOCAL,
    json: Json = False,
) -> None:
    """Rendered text in many fonts, layouts and distortions: reading it, its boxes, its lines. Resumes."""
    from ..corpora.text import TASKS, Distortion, Layout, TextBuilder, TextSettings

    settings = TextSettings(
        samples,
        texts,
        tuple(fonts or ()),
        system_fonts,
        pictures,
        size,
        seed,
        one_of_each(tasks, TASKS, "--tasks"),
        turns,
        tuple(map(Layout, one_of_each(layouts, tuple(map(str, Layout)), "--layouts"))),
        distortions=()
        if distortions == "none"
        else tuple(map(Distortion, one_of_each(distortions, tuple(map(str, Distortion)), "--distortions"))),
        contrast=contrast,
        heldout=heldout,
    )

    def builder(split: Split) -> TextBuilder:
        return TextBuilder(replace(settings, split=split.value, samples=share_of(samples, heldout, split)))

    run_builds(builder, out, source="text", heldout=heldout, to=to, workers=workers, engine=engine, json=json)


@build.command("charts")
def build_charts(
    samples: Annotated[int, typer.Option(help="Charts to make.", min=1)] = 1000,
    tables: Annotated[Path | None, typer.Option(help="A CSV file or a folder of them (default: made up).")] = None,
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("corpus/charts"),
    kinds: Annotated[str | None, typer.Option(help="Of bar,line,scatter,pie,stacked,histogram,table.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these questions, separated by commas (default: all).")] = None,
    fonts: Annotated[list[Path] | None, typer.Option(help="Folder of fonts besides the system's; repeatable.")] = None,
    system_fonts: Annotated[bool, typer.Option(help="Use the system's fonts.")] = True,
    size: Annotated[int, typer.Option(help="Longest side of a picture in pixels.")] = 800,
    turns: Annotated[int, typer.Option(help="Most questions about a chart.", min=1)] = 3,
    heldout: Heldout = 0.02,
    seed: Seed = 0,
    to: ToOption = To.WEBDATASET,
    workers: Workers = 2,
    engine: EngineOption = EngineName.LOCAL,
    json: Json = False,
) -> None:
    """Charts and tables with their data: values, extremes, trends, counts, colors, places. Resumes."""
    from ..corpora.charts import TASKS, ChartBuilder, ChartSettings, Kind

    settings = ChartSettings(
        samples,
        tables,
        tuple(fonts or ()),
        system_fonts,
        size,
        seed,
        tuple(map(Kind, one_of_each(kinds, tuple(map(str, Kind)), "--kinds"))) if kinds is not None else tuple(Kind),
        one_of_each(tasks, tuple(TASKS), "--tasks") if tasks is not None else tuple(TASKS),
        turns,
        heldout=heldout,
    )

    def builder(split: Split) -> ChartBuilder:
        return ChartBuilder(replace(settings, split=split.value, samples=share_of(samples, heldout, split)))

    run_builds(builder, out, source="charts", heldout=heldout, to=to, workers=workers, engine=engine, json=json)


def _show_sample(settings: Recipe, source: str, number: int, draw: Path | None, json: bool) -> None:
    from ..data.sources import open_source
    from ..data.view import describe_sample, draw_sample, read_sample, sample_at
    from ..recipe.settings import closest

    if source not in settings.sources:
        raise UserError(f"recipe {settings.name!r} has no source {source!r}{closest(source, list(settings.sources))}")
    found = sample_at(open_source(settings.sources[source], source), number)
    told = describe_sample(found)
    if draw is not None:
        save(draw_sample(found), draw)
    say(jsonlib.dumps(told) if json else read_sample(told))


def _bar(numbers: Sequence[int], label: str, unit: str) -> Iterable[int]:
    """The numbers, with a bar on stderr while they are gone through."""
    from ..progress import track

    return track(numbers, label, total=len(numbers), unit=unit)
