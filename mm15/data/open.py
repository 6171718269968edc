"""A recipe's data, opened: its sources, and for each stage the processor and the mixture that training will use.

    Recipe --open_recipe--> Opened: sources, tokenizer, processor_of(stage), mixture_of(stage)

No weights of the model are read: a processor needs a tokenizer only, which is the decoder's or is trained on the
sources' own texts (a second for the pico recipe's 33 sources). So looking into the data costs what the data costs, and
`mm15 run`, `data show` and `data check` all see the same draws, tokens and tiles.

A stage that mixes by tokens (`unit: target_tokens`) needs to know how many a sample of each source has: `MEASURED`
samples of each are counted without reading a pixel. They are the same ones each time, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..image import Tiling
from ..pretrained import find_model, resolve
from ..processor import MM15Processor, build_processor
from ..recipe import Batch, Recipe
from ..regions import Coordinates
from ..text import tokenizer as tokenizers
from .mixture import Mixture, Permutation
from .packing import too_large
from .sources import SourceData, open_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER_TEXTS = 4_000
"""How many texts of the recipe's sources a tokenizer from scratch is trained on."""
MEASURED = 256
"""How many samples of a source its mean number of target tokens is taken from."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A recipe and its opened sources. `sources` may lack some, when one looks for what is wrong with them."""

    recipe: Recipe
    sources: Mapping[str, SourceData]
    _processors: dict[str, MM15Processor] = field(default_factory=dict, repr=False)
    _mixtures: dict[str, Mixture] = field(default_factory=dict, repr=False)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The recipe's tokenizer, prepared."""
        tokenizer = base_tokenizer(self.recipe, self.sources)
        return tokenizers.prepare(tokenizer, coordinates=Coordinates(**self.recipe.coordinates.model_dump()))

    def processor_of(self, stage: str) -> MM15Processor:
        """The processor of a stage, always the same object."""
        if stage not in self._processors:
            self._processors[stage] = stage_processor(self.recipe, stage, self.tokenizer)
        return self._processors[stage]

    def mixture_of(self, stage: str) -> Mixture:
        """The mixture of a stage, always the same object. Raises UserError for one that cannot be drawn from."""
        if stage not in self._mixtures:
            means = self.means_of(stage) if self.recipe.stages[stage].unit == "target_tokens" else None
            self._mixtures[stage] = stage_mixture(self.recipe, stage, self.sources, means=means)
        return self._mixtures[stage]

    def means_of(self, stage: str) -> dict[str, Fraction]:
        """Target tokens a draw of each source that the stage's mixture gives a weight."""
        return mean_targets(self.recipe, stage, self.sources, self.processor_of(stage))


def open_recipe(recipe: Recipe) -> Opened:
    """All sources of a recipe opened. Raises UserError for the first that cannot be."""
    return Opened(recipe, {name: open_source(settings, name) for name, settings in recipe.sources.items()})


def base_tokenizer(recipe: Recipe, sources: Mapping[str, SourceData]) -> PreTrainedTokenizerFast:
    """The whole model's tokenizer, the decoder's, or one trained on the texts of the sources; not yet prepared."""
    from transformers import AutoTokenizer

    settings = recipe.model.tokenizer
    if recipe.model.weights is not None:
        name: Any = find_model(recipe.model.weights)
    elif settings.vocab_size is not None:
        return tokenizers.train(_texts(sources), vocab_size=settings.vocab_size)
    elif settings.weights or recipe.model.decoder.weights:
        name = resolve(str(settings.weights or recipe.model.decoder.weights))
    else:
        raise UserError("model.tokenizer needs `vocab_size` (train one) or `weights` (take one): the decoder has none")
    try:
        return AutoTokenizer.from_pretrained(name)  # type: ignore[return-value]
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: holds no tokenizer that can be read: {' '.join(str(error).split())}") from error


def _texts(sources: Mapping[str, SourceData]) -> Iterator[str]:
    """The words of an even sample of every source; what cannot be used is the loader's to tell of."""
    each = max(TOKENIZER_TEXTS // max(len(sources), 1), 1)
    for source in sources.values():
        for index in range(min(each, len(source))):
            try:
                sample = source[index]
            except UserError:
                continue
            yield " ".join(part.content for part in sample.parts if isinstance(part.content, str))


def stage_processor(recipe: Recipe, stage: str, tokenizer: PreTrainedTokenizerFast) -> MM15Processor:
    """The processor of a stage: the recipe's pictures with the stage's overrides."""
    return build_processor(
        tokenizer,
        tiling=Tiling(**recipe.stage_picture(stage).model_dump()),
        coordinates=Coordinates(**recipe.coordinates.model_dump()),
        tokens_per_tile=recipe.model.connector.tokens,
    )


def stage_seed(recipe: Recipe, stage: str) -> int:
    """The seed of a stage's data: stages that share a source shall not start with the same samples of it."""
    return recipe.seed + 1_000_003 * list(recipe.stages).index(stage)


def stage_mixture(
    recipe: Recipe, stage: str, sources: Mapping[str, SourceData], *, means: Mapping[str, Fraction] | None = None
) -> Mixture:
    """The mixture of a stage; `means` are those of `mean_targets` where the stage mixes by target tokens."""
    lengths = {name: len(source) for name, source in sources.items()}
    return Mixture.of_stage(recipe.stages[stage], lengths, seed=stage_seed(recipe, stage), means=means)


def mean_targets(
    recipe: Recipe, stage: str, sources: Mapping[str, SourceData], processor: MM15Processor
) -> dict[str, Fraction]:
    """Target tokens a draw of each source of a stage's mixture with a weight, from `MEASURED` of its samples (or all).

    Exact sums over exact counts. A sample that training would skip (unusable, or larger than a row) counts as zero
    tokens, because its draw gives none.
    """
    names = {
        name
        for group in recipe.stages[stage].mixture.values()
        for category in group.categories.values()
        for name, weight in category.sources.items()
        if group.weight and category.alpha and weight
    }
    batch = recipe.stages[stage].batch
    return {name: _mean(sources[name], processor, batch) for name in sorted(names & set(sources))}


def _mean(source: SourceData, processor: MM15Processor, batch: Batch) -> Fraction:
    count = min(MEASURED, len(source))
    if not count:
        return Fraction(0)
    order = Permutation(len(source), "target tokens", source.name)
    return Fraction(sum(_targets(source, order[i], processor, batch) for i in range(count)), count)


def _targets(source: SourceData, index: int, processor: MM15Processor, batch: Batch) -> int:
    try:
        found = processor.measure(source[index])
    except ValueError:
        return 0
    return 0 if too_large(found.tokens, found.tiles, row=(batch.tokens, batch.tiles)) else found.target_tokens
