"""From the weights of a recipe to each source's exact share of the draws.

    group weight x alpha of the category x weight of the source [x length^(1/T)]     each level divided by its sum
    by target tokens: share of the tokens / mean target tokens a draw                divided by the sum over sources

All numbers are fractions: 0.1 is one tenth. Shares of tokens become shares of draws by dividing each by what a draw of
the source brings, so that after many draws the tokens stand as asked, up to the error of the measured means.

Temperature is T5's (Raffel et al., arXiv 1910.10683, section 3.5.2): mixing rates n^(1/T), normalised. T = 1 is in
proportion to size, larger T is flatter, and small sources are then seen more often (`Mixture.epochs` says how often).
The power is irrational; it is taken to `_DIGITS` significant digits, by decimal arithmetic that is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Context
from fractions import Fraction

from ..errors import UserError
from ..recipe import Category, Group

Nested = dict[str, dict[str, dict[str, Fraction]]]
"""Group -> category -> source -> share of the whole."""

_DIGITS = 9


def nested_shares(
    groups: Mapping[str, Group], lengths: Mapping[str, int] | None = None, *, without: Collection[str] = ()
) -> Nested:
    """The exact shares, each a share of the whole; what has no weight is left out.

    A category none of whose sources has a weight counts as alpha 0. The sources `without` which the shares are asked
    leave theirs to the others of their category, then to the group's other categories, then to the other groups; empty
    when nothing is left. `lengths` (number of samples) are needed for categories with a temperature. Raises UserError
    when nothing has a weight.
    """
    weights = {name: exact(group.weight, name) for name, group in groups.items()}
    blocks: Nested = {}
    for name, group in groups.items():
        if weights[name]:
            block = _group_shares(name, group, lengths or {}, without)
            if block:
                blocks[name] = block
            elif not without:
                raise UserError(f"weights of group {name!r} sum to zero; give one of its sources a weight above 0")
    if not blocks and not without:
        raise UserError("weights of the mixture sum to zero; give one group a weight above 0")
    whole = sum(weights[name] for name in blocks)
    return {
        name: {
            label: {source: share * weights[name] / whole for source, share in sources.items()}
            for label, sources in block.items()
        }
        for name, block in blocks.items()
    }


def _group_shares(
    name: str, group: Group, lengths: Mapping[str, int], without: Collection[str]
) -> dict[str, dict[str, Fraction]]:
    """Category -> source -> share of the group; empty when nothing has a weight."""
    alphas, inside = {}, {}
    for label, category in group.categories.items():
        where = f"{name}.{label}"
        alpha = exact(category.alpha, where)
        weights = _source_weights(where, category, lengths)
        left = {source: weight for source, weight in weights.items() if weight and source not in without}
        if alpha and left:
            alphas[label], inside[label] = alpha, left
    whole = sum(alphas.values())
    return {
        label: {source: alphas[label] * weight / whole / sum(left.values()) for source, weight in left.items()}
        for label, left in inside.items()
    }


def _source_weights(where: str, category: Category, lengths: Mapping[str, int]) -> dict[str, Fraction]:
    weights = {source: exact(weight, f"{where}.{source}") for source, weight in category.sources.items()}
    if category.temperature is None:
        return weights
    return {
        source: weight * tempered(lengths.get(source, 0), category.temperature) for source, weight in weights.items()
    }


def tempered(length: int, temperature: float) -> Fraction:
    """length^(1/T) to nine significant digits; exactly the length for T = 1."""
    if temperature == 1 or length <= 1:
        return Fraction(length)
    context = Context(prec=40)
    power = context.power(context.create_decimal(length), context.divide(1, context.create_decimal(str(temperature))))
    return Fraction(Context(prec=_DIGITS).plus(power))


def exact(weight: float, where: str = "mixture") -> Fraction:
    """A weight as it was written: 0.1 is one tenth, not the nearest binary number. UserError unless finite and >= 0."""
    try:
        value = Fraction(str(weight))
    except ValueError:
        value = Fraction(-1)
    if value < 0:
        raise UserError(f"weight of {where} is {weight}; weights are numbers, 0 or more")
    return value


def by_source(nested: Nested) -> dict[str, Fraction]:
    """Shares by source, sorted by name: the order of a recipe's lines does not matter. Places of one source add up."""
    total: dict[str, Fraction] = {}
    for categories in nested.values():
        for sources in categories.values():
            for name, share in sources.items():
                total[name] = total.get(name, Fraction(0)) + share
    return dict(sorted(total.items()))


def of_draws(shares: Mapping[str, Fraction], means: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """Shares of the draws that give these shares of the tokens, when a draw of each source brings so many."""
    for name in shares:
        if not means.get(name):
            raise UserError(
                f"source {name!r} has no target tokens in its samples, so it cannot be mixed by target tokens; "
                "set its weight to 0, or unit to samples"
            )
    ratios = {name: share / means[name] for name, share in shares.items()}
    whole = sum(ratios.values())
    return {name: ratio / whole for name, ratio in ratios.items()}
