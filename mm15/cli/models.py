"""Commands that make one model of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .output import say


def upcycle(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a folder with a decoder alone.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    experts: Annotated[int, typer.Option(help="Experts of a sparse layer.")] = 64,
    top_k: Annotated[int, typer.Option(help="Experts a token goes to.")] = 2,
    every: Annotated[int, typer.Option(help="Every so many layers one is sparse.")] = 2,
    noise: Annotated[float, typer.Option(help="Noise on the experts, in deviations of their weights.")] = 0.0,
    fresh: Annotated[float, typer.Option(help="Share of the experts that start fresh.")] = 0.0,
    drop: Annotated[float, typer.Option(help="Share of each copied expert's hidden units that start fresh.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the routers and of all that is drawn.")] = 0,
) -> None:
    """Turn a dense model into a mixture of experts that starts where it stands (arXiv 2212.05055)."""
    from ..pretrained import find_model
    from ..train.upcycle import Upcycling
    from ..train.upcycle import upcycle as convert

    place = find_model(model)
    if not isinstance(place, Path):
        raise UserError(f"{model}: upcycle reads local folders; fetch the model first")
    settings = Upcycling(experts, top_k, every, noise=noise, fresh=fresh, drop=drop, seed=seed)
    made = convert(place, out, settings)
    layers = ", ".join(str(layer + 1) for layer in made.layers)
    say(f"{out}: {made.dense:,} -> {made.sparse:,} parameters; {experts} experts, top-{top_k}, in layers {layers}")
