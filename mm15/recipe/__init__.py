"""A recipe is a whole run in one YAML file: model, pictures, sources, stages with their mixtures, evaluation.

    extends: pico                     another recipe (a shipped name or a path beside this file), merged key by key
    stages: {sft: {steps: 100}}       stages run in the order of the file and are addressed by name

`load("pico", ["stages.sft.steps=100"])` reads, merges, overrides and validates; `dump` writes the resolved copy that is
kept with every run and checkpoint; `fingerprint` names it in 16 characters; `diff` says how two differ. Unknown keys
are refused with the closest known one. `schema()` is the JSON schema for editors.
"""

from .reading import SHIPPED, diff, dump, fingerprint, load, schema, shipped, validate
from .schema import (
    Backbone,
    Batch,
    Category,
    Checkpoint,
    Connector,
    Contract,
    Evaluation,
    Group,
    Lora,
    Model,
    Optimizer,
    Parallel,
    Part,
    Picture,
    Recipe,
    Router,
    Schedule,
    Stage,
    Tokenizer,
)
from .settings import Settings
from .sources import (
    AnthropicSource,
    CocoSource,
    FerretSource,
    FileSource,
    LlavaSource,
    MM15Source,
    OpenAISource,
    ParquetSource,
    RegionFormat,
    ShareGPTSource,
    Source,
    SwiftSource,
    TextSource,
    WebDatasetSource,
    WorldSource,
)

__all__ = [
    "AnthropicSource",
    "Backbone",
    "Batch",
    "Category",
    "Checkpoint",
    "CocoSource",
    "Connector",
    "Contract",
    "Evaluation",
    "FerretSource",
    "FileSource",
    "Group",
    "Lora",
    "LlavaSource",
    "MM15Source",
    "Model",
    "OpenAISource",
    "Optimizer",
    "Parallel",
    "Part",
    "ParquetSource",
    "Picture",
    "Recipe",
    "RegionFormat",
    "Router",
    "SHIPPED",
    "Schedule",
    "Settings",
    "ShareGPTSource",
    "Source",
    "Stage",
    "SwiftSource",
    "TextSource",
    "Tokenizer",
    "WebDatasetSource",
    "WorldSource",
    "diff",
    "dump",
    "fingerprint",
    "load",
    "schema",
    "shipped",
    "validate",
]
