"""The source blocks of a recipe: one declaration a dataset, whatever format it is stored in.

    sources:
      mine:   {format: llava, path: train.json, images: pictures/, regions: internvl}
      pages:  {format: webdataset, path: "corpus/pages/*.tar"}
      screens: {format: parquet, path: someone/screens, split: train}

`path` is a file, a pattern, or any address fsspec knows (s3://, gs://, memory://, ...). Nothing about a dataset is
guessed: `regions` declares the convention its texts write points and boxes in; without it, text stays text.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..regions import convention
from .settings import Settings


class RegionFormat(Settings):
    """A convention of `mm15.regions.conventions` by name, and what it leaves open. `regions: qwen2.5-vl` is short for
    `regions: {convention: qwen2.5-vl}`."""

    convention: str
    min_pixels: int | None = None
    """Where numbers are pixels of a resized picture (qwen2.5-vl): its smallest area; None: the model release's."""
    max_pixels: int | None = None
    """Its largest area; None: the model release's."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"convention": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exists(self) -> RegionFormat:
        convention(self.convention, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        return self


class WorldSource(Settings):
    """The generated world: `kind` names a task of mm15.world; `split` chooses its seed range."""

    format: Literal["world"]
    kind: str
    level: int = 1
    size: int = 128
    """Longer side of a picture in pixels."""
    samples: int = 1_000_000
    seed: int = 0
    split: Literal["train", "heldout"] = "train"
    blank: int = 0
    """Every so many samples one with blank pictures (0: none), so that a model knows what it can say without seeing;
    the blank-picture baseline of the evaluation would be too easy to beat otherwise."""


class FileSource(Settings):
    """What the blocks of stored datasets have in common."""

    path: str
    """A file, a pattern or an fsspec address."""
    images: str | None = None
    """The folder (or address) below which pictures lie; None: beside the file."""
    regions: RegionFormat | None = None
    """The convention in which the texts write points and boxes; None: they are text like any other."""


class LlavaSource(FileSource):
    """LLaVA JSON or JSONL: `conversations` with `<image>` markers."""

    format: Literal["llava"]


class ShareGPTSource(FileSource):
    """ShareGPT rows under any column names, as LLaMA-Factory's dataset_info.json declares them (`columns`, `tags`)."""

    format: Literal["sharegpt"]
    columns: dict[Literal["messages", "images", "system"], str] = {}
    """Our name -> the file's; default conversations, images, system."""
    tags: dict[Literal["role", "content", "user", "assistant", "system"], str] = {}
    """Keys and speakers inside a message; default from, value, human, gpt, system."""


class OpenAISource(FileSource):
    """OpenAI messages; `image_url` parts hold paths or data: URLs."""

    format: Literal["openai"]


class AnthropicSource(FileSource):
    """Anthropic messages: content blocks `text` and `image` with a base64 or path source, `system` beside them."""

    format: Literal["anthropic"]


class SwiftSource(FileSource):
    """ms-swift rows: `messages`, `images` and `objects` {ref, bbox, bbox_type, image_id} that fill `<ref-object>` and
    `<bbox>`. Boxes are in `objects`, so `regions` is only for what else the texts write."""

    format: Literal["swift"]


class FerretSource(FileSource):
    """Ferret rows: LLaVA's, with `image_w`, `image_h` and `box_x1y1x2y2` of each turn filling `<bbox_location0>`."""

    format: Literal["ferret"]


class CocoSource(FileSource):
    """A COCO annotation file (`images`, `annotations` with `bbox` [x, y, w, h], `categories`): one sample a picture, or
    a caption."""

    format: Literal["coco"]
    task: Literal["detect", "find", "caption"] = "detect"
    """detect: every object with its box. find: a question for each category. caption: the picture and one caption."""


class ParquetSource(FileSource):
    """Parquet through Hugging Face `datasets`: local files, a folder, or a hub id as `path`."""

    format: Literal["parquet"]
    layout: Literal["chat", "mm15"] = "chat"
    """chat: columns of pictures and of [{user, assistant}] turns. mm15: what `mm15 data build --to parquet` writes."""
    split: str = "train"
    config: str | None = None
    columns: dict[Literal["images", "texts"], str] = {}
    """Our name -> the file's; default images, texts."""


class WebDatasetSource(FileSource):
    """WebDataset tars (`path` is a file, a folder, a pattern, or shard-{000..123}.tar), read in place by an index."""

    format: Literal["webdataset"]
    layout: Literal["pairs", "interleaved", "mm15"] = "mm15"
    """pairs: KEY.jpg + KEY.txt (or `caption` in KEY.json). interleaved: KEY.json with `texts` and `images` lists, as
    OBELICS and MMC4 have them. mm15: what `mm15 data build` writes."""


class TextSource(FileSource):
    """Plain text to continue: each file, each line, or a key of each JSONL row is one document."""

    format: Literal["text"]
    unit: Literal["file", "line", "jsonl"] = "file"
    key: str = "text"
    """Key of a JSONL row's text."""


class MM15Source(FileSource):
    """Our own JSONL: `mm15.data.native` rows, everything a Sample is, places in pixels."""

    format: Literal["mm15"]


Source = Annotated[
    WorldSource
    | LlavaSource
    | ShareGPTSource
    | OpenAISource
    | AnthropicSource
    | SwiftSource
    | FerretSource
    | CocoSource
    | ParquetSource
    | WebDatasetSource
    | TextSource
    | MM15Source,
    Field(discriminator="format"),
]
