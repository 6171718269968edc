"""``mm15 data recaption``: captions of a source's pictures by a model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .building import EngineName, To, ToOption, run_builds
from .output import Json

if TYPE_CHECKING:
    from ..corpora.recaption import Captioner
    from ..recipe import Source


class CaptionForm(StrEnum):
    """How captions are written."""

    CAPTION = "caption"
    CHAT = "chat"


def recaption(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, a hub id; with --endpoint its name there.")
    ],
    source: Annotated[str, typer.Argument(help="Whose pictures: RECIPE:SOURCE, X.source.yaml, or a path with --from.")],
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("corpus/captions"),
    from_: Annotated[str | None, typer.Option("--from", help="Format of a path: llava, parquet, ...")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="More of its block: images=pictures")] = None,
    endpoint: Annotated[str | None, typer.Option(help="OpenAI-compatible: http://HOST:PORT/v1.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to ask; repeatable; empty: the picture alone.")] = None,
    draws: Annotated[int, typer.Option(help="Answers a prompt (needs --temperature).", min=1)] = 1,
    temperature: Annotated[float, typer.Option(help="Of the endpoint.", min=0, max=2)] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest caption, in tokens.", min=1)] = 256,
    batch: Annotated[int, typer.Option(help="Pictures at a time (own models).", min=1)] = 8,
    parallel: Annotated[int, typer.Option(help="Requests at a time (endpoint).", min=1)] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds a request may take (endpoint).")] = 120.0,
    retries: Annotated[int, typer.Option(help="Tries after the first (endpoint).", min=0)] = 6,
    words: Annotated[str, typer.Option(help="Fewest and most words of a caption.")] = "3,300",
    repeated: Annotated[float, typer.Option(help="Largest share of a caption that repeats itself.")] = 0.2,
    agree: Annotated[float, typer.Option(help="Least token F1 between the answers about a picture.")] = 0.0,
    agree_old: Annotated[float, typer.Option(help="Least token F1 with the caption there was.")] = 0.0,
    scripts: Annotated[str, typer.Option(help="Only letters of these: latin,cyrillic,cjk,... (default: any).")] = "",
    alike: Annotated[float, typer.Option(help="Overlap from which captions are duplicates.")] = 0.85,
    form: Annotated[CaptionForm, typer.Option(help="Captions as text after the picture, or as answers.")] = (
        CaptionForm.CAPTION
    ),
    answers: Annotated[Path | None, typer.Option(help="Raw answers to read and add to (OUT/answers.jsonl).")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.", min=1)] = None,
    give_up: Annotated[bool, typer.Option("--give-up", help="Go on without pictures that got no answer.")] = False,
    to: ToOption = To.WEBDATASET,
    json: Json = False,
) -> None:
    """Caption a source's pictures with a model or an OpenAI-compatible endpoint; filter, write a source. Resumes."""
    from ..corpora import recaption as room
    from ..data.sources import open_source

    low, comma, high = words.partition(",")
    if not (low.strip().isdigit() and comma and high.strip().isdigit()):
        raise UserError(f"--words {words!r}: write FEWEST,MOST")
    named = tuple(name.strip().lower() for name in scripts.split(",") if name.strip())
    filters = room.Filters((int(low), int(high)), repeated, agree, agree_old, named, alike)
    opened = open_source(source_of(source, from_, set_ or []), "in")
    if endpoint is None and (draws > 1 or temperature):
        raise UserError("--draws and --temperature need --endpoint: our own models are greedy")
    if draws > 1 and not temperature:
        raise UserError("--draws without --temperature would give the same answer again")
    captioner: Captioner
    if endpoint is None:
        captioner = room.ModelCaptioner(model, max_new_tokens=max_new_tokens, batch=batch)
    else:
        settings = room.Endpoint(endpoint, model, max_new_tokens, temperature, parallel, timeout, retries)
        captioner = room.EndpointCaptioner(settings)
    builder = room.recaption(
        opened,
        captioner,
        out,
        prompts=prompt or ["Describe the picture in detail."],
        draws=draws,
        filters=filters,
        form=room.Form(form.value),
        answers=answers,
        limit=limit,
        give_up=give_up,
    )
    run_builds(
        lambda _: builder, out, source="captions", heldout=0, to=to, workers=0, engine=EngineName.LOCAL, json=json
    )


def source_of(text: str, form: str | None, sets: Sequence[str]) -> Source:
    """The block of RECIPE:SOURCE, of X.source.yaml, or of a path with its format and further settings."""
    from .. import recipe as recipes
    from ..data import convert
    from ..recipe.settings import closest

    if form is not None:
        return convert.described(text, form, {}, sets, "SOURCE")
    if text.endswith(convert.BESIDE):
        return convert.read_block(Path(text))
    recipe, colon, name = text.rpartition(":")
    if not colon:
        raise UserError(f"what is {text}? give RECIPE:SOURCE, a .source.yaml file, or add --from FORMAT")
    blocks = recipes.load(recipe).sources
    if name not in blocks:
        raise UserError(f"recipe {recipe} has no source {name!r}{closest(name, list(blocks))}")
    return blocks[name]
