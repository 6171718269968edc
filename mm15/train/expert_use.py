r"""Which tokens go to which experts: counted in training by layer, category and token kind, kept as experts.jsonl.

    Batch --kinds--> a label for each token: category of its document x (text, tile, overview)
    model --expert_counts [layers, kinds, experts]--> add, row by row --line--> numbers of the step for metrics.jsonl
                                                                  \--save--> a line beside each checkpoint

A line of experts.jsonl: {"step", "since" (first step counted), "layers" (numbers of the sparse layers), "kinds" (names
of those that came), "counts" [layers][kinds][experts] (chosen, before anything is dropped), "dropped" [layers]}.
Counts are of all ranks: one exchange a step. They are written whenever a checkpoint is saved, and the file is cut back
to the checkpoint on resume: so they add up to the same in a run that was killed and continued.
Cost: 0.06 ms a row of 512 tokens on a CPU core.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import recipe
from ..data.loader import Batch
from .metrics import Metrics
from .parallel import World

FORMS = ("text", "tile", "overview")
"""What a token can be, within its document's category."""


class ExpertUse:
    """Counts of one stage, on every rank; see the module.

    `layers` are the numbers of the sparse layers; `limited`: experts have a capacity, so that assignments may be
    dropped.
    """

    def __init__(
        self,
        path: Path,
        mixture: Mapping[str, recipe.Group],
        *,
        layers: list[int],
        experts: int,
        tokens_per_tile: int,
        world: World,
        limited: bool = False,
    ) -> None:
        self._category_of = _categories(mixture)
        names = list(dict.fromkeys(self._category_of.values()))
        self.names = [f"{name} {form}" for name in names for form in FORMS]
        self._number = {source: len(FORMS) * names.index(name) for source, name in self._category_of.items()}
        self._layers, self._each, self._world, self._limited = layers, tokens_per_tile, world, limited
        self._file = Metrics(path)
        shape = (len(layers), len(self.names), experts)
        self._step = torch.zeros(shape, dtype=torch.int64, device=world.device)
        self._step_dropped = torch.zeros(len(layers), dtype=torch.int64, device=world.device)
        self._sum = torch.zeros_like(self._step, device="cpu")
        self._sum_dropped = torch.zeros_like(self._step_dropped, device="cpu")
        self._steps = 0

    @classmethod
    def of(
        cls, model: Any, mixture: Mapping[str, recipe.Group], path: Path, *, world: World, done: int = 0
    ) -> ExpertUse | None:
        """For a stage of which `done` steps are trained; None when the model's decoder has no experts."""
        layers = [i for i, layer in enumerate(model.decoder.model.layers) if hasattr(layer.mlp, "experts")]
        if not layers:
            return None
        config = model.config
        use = cls(
            path,
            mixture,
            layers=layers,
            experts=config.text_config.num_experts,
            tokens_per_tile=config.tokens_per_tile,
            world=world,
            limited=config.router_capacity is not None,
        )
        if world.is_main:
            use.rewind(done)
        return use

    def kinds(self, row: Batch) -> Tensor:
        """int64 [1, T] on the host: for each token of a row its place in `names`."""
        kinds_1T = torch.zeros_like(row.input_ids)
        if row.refs:
            documents_1T = (row.position_ids == 0).cumsum(1) - 1
            kinds_1T = torch.tensor([self._number[ref.source] for ref in row.refs])[documents_1T]
        places_NQ = row.spans[:, None] + torch.arange(self._each)
        kinds_1T[0, places_NQ] += torch.where(row.overviews, 2, 1)[:, None]
        return kinds_1T

    def add(self, counts: Tensor, dropped: Tensor | None = None) -> None:
        """One row's `expert_counts` [layers, kinds up to the last that came, experts] and `router_dropped` [layers]."""
        self._step[:, : counts.shape[1]] += counts
        if dropped is not None:
            self._step_dropped += dropped

    def line(self) -> dict[str, float]:
        """Ends a step, on all ranks: the most and least used expert of any layer, as multiples of an even share, and
        with a capacity the share of assignments that were dropped."""
        both = torch.cat([self._step.flatten(), self._step_dropped])
        if self._world.mesh is not None:
            dist.all_reduce(both)
        flat, dropped = both.cpu().split([self._step.numel(), self._step_dropped.numel()])
        counts = flat.view_as(self._step)
        self._sum += counts
        self._sum_dropped += dropped
        self._steps += 1
        self._step.zero_()
        self._step_dropped.zero_()
        by_layer = counts.sum(1).double()
        shares = by_layer / by_layer.mean(1, keepdim=True).clamp(min=1e-9)
        found = {"expert_most": shares.max().item(), "expert_least": shares.min().item()}
        return {**found, "dropped": (dropped.sum() / by_layer.sum().clamp(min=1)).item()} if self._limited else found

    def save(self, step: int) -> None:
        """Writes what was counted since the last time, up to `step`; nothing when nothing was. On one rank."""
        if self._steps:
            seen = self._sum.sum((0, 2)).nonzero().flatten().tolist()
            self._file.add(
                {
                    "step": step,
                    "since": step - self._steps + 1,
                    "layers": self._layers,
                    "kinds": [self.names[kind] for kind in seen],
                    "counts": self._sum[:, seen].tolist(),
                    "dropped": self._sum_dropped.tolist(),
                }
            )
        self._sum.zero_()
        self._sum_dropped.zero_()
        self._steps = 0

    def rewind(self, step: int) -> None:
        """Keeps the lines up to and including `step`. On one rank."""
        self._file.rewind(step)


def _categories(mixture: Mapping[str, recipe.Group]) -> dict[str, str]:
    """Source -> name of its category, with the group's before it where several groups have one of that name.

    A source of several categories counts for the first.
    """
    names = [name for group in mixture.values() for name in group.categories]
    found: dict[str, str] = {}
    for group_name, group in mixture.items():
        for name, category in group.categories.items():
            shown = name if names.count(name) == 1 else f"{group_name}/{name}"
            for source in category.sources:
                found.setdefault(source, shown)
    return found
