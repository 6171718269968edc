"""The schema of a recipe: every block a pydantic model, unknown keys refused, values never changed after reading.

The blocks read like the paper's tables: model, picture (section 3.5), sources, stages with their mixtures (3.2 to 3.4).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from .settings import Named, Settings, closest
from .sources import Source

Part = Literal["vision", "connector", "decoder"]
"""The parts of a model, as its attributes are called."""


class Backbone(Settings):
    """A transformers model: weights from a folder, hub id or shipped name (`weights`), or fresh ones of `shape`.

    With both, `shape` says what the checkpoint is, so that its size is known before it is fetched; where the checkpoint
    differs, building the model stops.
    """

    family: str
    weights: str | None = None
    shape: dict[str, Any] = {}


class Connector(Settings):
    """The C-Abstractor (arXiv 2312.06742): `tokens` out per tile (a square number)."""

    tokens: int = 144
    depth: int = 3
    hidden_size: int = 1024
    mlp_depth: int = 2


class Tokenizer(Settings):
    """Either the decoder's own (`weights`), or a byte-level BPE trained on the generated world (`vocab_size`)."""

    weights: str | None = None
    vocab_size: int | None = None


class Router(Settings):
    """The router of a mixture-of-experts decoder: weights of its two losses (paper section 4), and its capacity."""

    balance: float = 0.01
    z: float = 0.001
    capacity: float | None = Field(default=None, gt=0)
    """In training an expert takes at most `capacity` times its even share of a row's assignments; what is more is
    dropped. GShard's capacity of 2 T / E tokens at top-2 (arXiv 2006.16668) is 1.0 here. None: nothing is dropped."""


class Model(Settings):
    """The three parts of an MM1.5 model and its tokenizer.

    With `weights` a whole trained model is where the run starts: a run folder, what `mm15 export` or `mm15 upcycle`
    wrote, or a hub id. Its tokenizer is the run's, its weights take the place of those of the parts, which say only
    what it is; where it differs, building the model stops.
    """

    weights: str | None = None
    vision: Backbone
    connector: Connector = Connector()
    decoder: Backbone
    tokenizer: Tokenizer = Tokenizer()
    router: Router = Router()


class Picture(Settings):
    """How a picture becomes tiles (paper section 3.5); stages may override any of these."""

    tile: int = 672
    rule: Literal["mm15", "budget", "static", "none"] = "mm15"
    min_tiles: int = 4
    max_tiles: int = 9
    overview: Literal["after", "before"] = "after"
    indicators: Literal["none", "index", "seps"] = "none"
    split_below: int = 3
    """Pictures are split only in samples with fewer pictures than this."""

    @model_validator(mode="after")
    def _range(self) -> Picture:
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ValueError(
                f"min_tiles={self.min_tiles} and max_tiles={self.max_tiles} need 1 <= min_tiles <= max_tiles"
            )
        return self


class Contract(Settings):
    """The coordinate contract; see `mm15.regions.Coordinates`."""

    bins: int = 1000
    tokens: bool = False


class Category(Settings):
    """Sources that teach one thing. `alpha` is relative to the other categories of the group (paper section 3.2)."""

    alpha: float = 1.0
    sources: Named[float]
    """Source name -> weight inside the category."""
    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """T: a source of n samples has its weight times n^(1/T), as in T5 (arXiv 1910.10683, section 3.5.2). 1: in
    proportion to size; large: nearly the weights alone; None: the weights alone."""


class Group(Settings):
    """Categories under one group weight w (paper: 0.8 single, 0.1 multi, 0.1 text)."""

    weight: float = 1.0
    categories: Named[Category]


class Batch(Settings):
    """`rows` packed rows a step over all ranks; each row holds whole documents up to both budgets."""

    rows: int = 1
    tokens: int = 4096
    tiles: int = 16


class Optimizer(Settings):
    """AdamW or AdaFactor. `lr` is the peak and absolute."""

    name: Literal["adamw", "adafactor"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    rates: dict[Part, float] = {}
    """Part -> factor on `lr` (vision: 0.1); 1 where not named."""
    layer_decay: dict[Part, float] = {}
    """Part -> factor on the rate from each layer to the one before it, as in BEiT (arXiv 2106.08254); the last layer
    has the part's whole rate. 1 where not named."""

    @model_validator(mode="after")
    def _factors(self) -> Optimizer:
        for part, rate in self.rates.items():
            if not 0 < rate < float("inf"):
                raise ValueError(f"rates of {part} is {rate}; give a factor above 0, or name the part in freeze")
        for part, decay in self.layer_decay.items():
            if not 0 < decay <= 1:
                raise ValueError(f"layer_decay of {part} is {decay}; give a factor above 0, at most 1")
        return self


class Lora(Settings):
    """Low-rank adapters (arXiv 2106.09685) by peft, instead of training the weights of `parts`.

    At the end of the stage they are merged into the weights, so the next stage and the exported model are plain.
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    parts: tuple[Part, ...] = Field(default=("decoder",), min_length=1)
    """Parts whose linear layers get adapters and whose own weights stay as they are."""


class Schedule(Settings):
    """Linear warm-up, then constant or decay to `floor` times the peak at the last step."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 0
    floor: float = 0.0


class Stage(Settings):
    """One stage: it starts from the former stage's weights with a fresh optimiser."""

    steps: int
    batch: Batch = Batch()
    picture: dict[str, Any] = {}
    """Overrides of the recipe's `picture` block for this stage."""
    mixture: Named[Group]
    unit: Literal["samples", "target_tokens"] = "samples"
    """What the mixture's weights are shares of: samples (as in the paper), or tokens that are trained on."""
    epochs: Named[float] = {}
    """Source -> most passes over it in this stage (1.5: one and a half). Then its share goes to the others of its
    category, else to the group's other categories, else to the other groups."""
    freeze: tuple[Part, ...] = ()
    """Parts of the model that this stage leaves as they are."""
    lora: Lora | None = None
    """Adapters in place of whole weights; None: weights are trained."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _trains(self) -> Stage:
        if {"vision", "connector", "decoder"} <= set(self.freeze):
            raise ValueError("freeze names every part of the model; leave one out, or drop the stage")
        for part in self.freeze:
            if self.lora is not None and part in self.lora.parts:
                raise ValueError(f"freeze names {part}, which lora adapts; take it out of freeze, or of lora.parts")
            for name in ("rates", "layer_decay"):
                if part in getattr(self.optimizer, name):
                    raise ValueError(f"optimizer.{name} names {part}, which freeze names too; take it out of one")
        return self

    @model_validator(mode="after")
    def _weights(self) -> Stage:
        for name, group in self.mixture.items():
            for label, value in _weights(name, group):
                if not value >= 0:
                    raise ValueError(f"weight of {label} is {value}; weights are 0 or more")
            if group.weight and not any(c.alpha * sum(c.sources.values()) for c in group.categories.values()):
                raise ValueError(f"weights of group {name!r} sum to zero; give one of its sources a weight above 0")
        if not sum(group.weight for group in self.mixture.values()):
            raise ValueError("weights of the mixture sum to zero; give one group a weight above 0")
        return self

    @model_validator(mode="after")
    def _epochs(self) -> Stage:
        drawn = [s for group in self.mixture.values() for c in group.categories.values() for s in c.sources]
        for source, most in self.epochs.items():
            if source not in drawn:
                raise ValueError(f"epochs names {source!r}, which the mixture does not{closest(source, drawn)}")
            if not 0 < most < float("inf"):
                raise ValueError(f"epochs of {source!r} is {most}; give a number above 0, or leave it out for no limit")
        return self


def _weights(name: str, group: Group) -> list[tuple[str, float]]:
    found = [(name, group.weight)]
    for category, block in group.categories.items():
        found.append((f"{name}.{category}", block.alpha))
        found.extend((f"{name}.{category}.{source}", weight) for source, weight in block.sources.items())
    return found


class Checkpoint(Settings):
    """Save every `every` steps and at the end of a stage; keep the newest `keep`."""

    every: int = 100
    keep: int = 2
    keep_every: int | None = Field(default=None, ge=1)
    """Keep those of every so many steps too, for good."""
    asynchronous: bool = False
    """Write while training goes on; costs a copy of the state in host memory."""


class Parallel(Settings):
    """How a run is spread over processes and memory. It changes no result beyond rounding, and may change on resume."""

    replicate: int = Field(default=1, ge=1)
    """Copies of the sharded model (HSDP): within each the processes shard, between them gradients are summed."""
    experts: int = Field(default=1, ge=1)
    """Processes over which the experts of a layer are spread (expert parallelism)."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What of the forward is computed again in the backward: nothing; all but matrix products and attention; each
    layer whole."""
    compile: bool = False
    """Compile the layers with torch.compile; needs a C++ compiler on a CPU."""


class Evaluation(Settings):
    """Tasks by group, each a world source of held-out seeds, with `limit` samples a task, after each stage."""

    groups: Named[Named[Source]] = {}
    limit: int = 200
    batch: int = 50
    max_new_tokens: int = 24


class Recipe(Settings):
    """A whole run."""

    name: str
    seed: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute precision; auto takes bf16 where this machine multiplies it clearly faster, and a run keeps what it took.
    Parameters stay fp32."""
    threads: int | None = None
    """Compute threads on a CPU; None leaves torch's choice."""
    workers: int = 1
    """Loader worker processes; 0 loads in the training process. Any number gives the same stream."""
    worker_timeout: int = Field(default=600, ge=1)
    """Seconds after which a worker that gives nothing is held to hang, and the run ends naming its sample."""
    model: Model
    picture: Picture = Picture()
    coordinates: Contract = Contract()
    sources: Named[Source] = {}
    stages: Named[Stage]
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    parallel: Parallel = Parallel()

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        for stage_name, stage in self.stages.items():
            self.stage_picture(stage_name)
            for group_name, group in stage.mixture.items():
                for category in group.categories.values():
                    for source in category.sources:
                        if source not in self.sources:
                            hint = closest(source, list(self.sources))
                            raise ValueError(
                                f"stages.{stage_name}.mixture.{group_name} names unknown source {source!r}{hint}"
                            )
        return self

    def stage_picture(self, stage: str) -> Picture:
        """The picture settings of a stage: the recipe's, with the stage's overrides."""
        return Picture(**{**self.picture.model_dump(), **self.stages[stage].picture})
