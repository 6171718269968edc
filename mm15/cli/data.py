"""``mm15 data``: bring datasets in, look into them, check them before the first step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError

data = typer.Typer(name="data", help="Build, convert, show and check datasets.", no_args_is_help=True)
build = typer.Typer(name="build", help="Make a dataset from files of your own.", no_args_is_help=True)
data.add_typer(build, name="build")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@data.command()
def convert(source: Path, out: Path) -> None:
    """Write a dataset in another format, with a report of what could not be carried."""
    raise UserError("data convert is not there yet")


@data.command()
def show(recipe: str) -> None:
    """Asked against realised shares of a recipe's mixture; or one sample of a source, drawn."""
    raise UserError("data show is not there yet")


@data.command()
def check(recipe: str) -> None:
    """Look through all the data of a recipe before the first step; reads headers only."""
    raise UserError("data check is not there yet")


@build.command("pdf")
def build_pdf(folder: Path) -> None:
    """PDFs to page pictures with words and boxes."""
    raise UserError("data build pdf is not there yet")


@build.command("web")
def build_web(pages: str) -> None:
    """HTML pages to screenshots with every element's role, name and box."""
    raise UserError("data build web is not there yet")


@build.command("text")
def build_text() -> None:
    """Rendered text in many fonts, sizes and distortions."""
    raise UserError("data build text is not there yet")


@build.command("charts")
def build_charts() -> None:
    """Charts and tables with their data and questions."""
    raise UserError("data build charts is not there yet")


@data.command()
def recaption(model: str, source: str) -> None:
    """Caption a source's pictures with a model or an OpenAI-compatible endpoint, filter, and write a source."""
    raise UserError("data recaption is not there yet")


def say(text: str) -> None:
    """One line (or document) of result on stdout."""
    sys.stdout.write(text + "\n")
