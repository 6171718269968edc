"""The processor: the only way from a sample or a conversation to model input, for training and for use.

    Sample --encode--> Encoded (ids, shifted labels, uint8 tiles, spans)          training
    Sample --measure--> Measured: the same ids and tiles, counted only            checking, mixing by tokens
    Sample --prompt--> Encoded up to the answer                                   conversation, evaluation
    messages --apply_chat_template--> text --__call__--> BatchFeature             any transformers program

All place pictures with `image.plan`, cut them with `image.cut` and write their tokens with `text.render`. Tiles
stay uint8; the model normalises. The coordinate contract and the tiling travel in processor_config.json.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from .errors import UserError
from .image import Layout, Tiling, cut, indicator_text, open_picture, picture_size, plan
from .regions import Coordinates
from .sample import Image, Sample
from .text.chat import IMAGE, SPECIAL_TOKENS, Segment, prompt_segments, segments
from .text.render import IGNORE, Encoded, PieceText, Renderer


@dataclass(frozen=True)
class Measured:
    """What `encode` would give for a sample, in numbers: tokens, those trained on, tiles, and pictures' sizes in
    pixels."""

    tokens: int
    target_tokens: int
    tiles: int
    sizes: tuple[tuple[int, int], ...] = ()


class MM15ImageProcessor(BaseImageProcessor):
    """Pictures to uint8 tiles by a `Tiling`; its fields are this class's arguments and are saved with it."""

    model_input_names = ["pixel_values"]  # noqa: RUF012 - transformers reads it as a list

    def __init__(self, **kwargs: Any) -> None:
        names = Tiling.__dataclass_fields__
        tiling = Tiling(**{key: kwargs.pop(key) for key in list(kwargs) if key in names})
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        for key, value in asdict(tiling).items():
            setattr(self, key, value.value if hasattr(value, "value") else value)

    @property
    def tiling(self) -> Tiling:
        """The settings as the `image` room takes them."""
        return Tiling(**{key: getattr(self, key) for key in Tiling.__dataclass_fields__})

    def layouts(self, pictures: Sequence[Image], *, where: str) -> list[Layout]:
        """How each picture of one sample is split, from their headers alone."""
        tiling = self.tiling
        sizes = [picture_size(picture, where=where) for picture in pictures]
        return [plan(width, height, tiling, images=len(sizes)) for width, height in sizes]

    def tiles(self, pictures: Sequence[Image], *, where: str) -> tuple[np.ndarray, list[Layout]]:
        """(tiles uint8 [N, 3, tile, tile] of all pictures in order, their layouts); `where` names them in errors."""
        tiling, layouts = self.tiling, self.layouts(pictures, where=where)
        cuts = [
            cut(open_picture(picture, where=where, at_least=layout.resized), layout)
            for picture, layout in zip(pictures, layouts, strict=True)
        ]
        empty = np.zeros((0, 3, tiling.tile, tiling.tile), np.uint8)
        return np.concatenate(cuts) if cuts else empty, layouts

    def __call__(  # type: ignore[override]
        self, images: Any, *_: Any, return_tensors: Any = None, **__: Any
    ) -> BatchFeature:
        """`pixel_values` uint8 [N, 3, tile, tile] of one sample's pictures, in order."""
        tiles, _layouts = self.tiles([Image(picture) for picture in _flat(images)], where="picture")
        return BatchFeature({"pixel_values": tiles}, tensor_type=return_tensors)


class MM15Processor(ProcessorMixin):
    """Pictures, text and regions to model input and back. See the module docstring.

    `tokens_per_tile` is the connector's; `bins` and `bin_tokens` are the coordinate contract; `trained_min_tiles` is
    what the model was trained with (going below it breaks grounding: paper Table 2, 74.0 -> 24.5).
    """

    def __init__(
        self,
        image_processor: MM15ImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        tokens_per_tile: int = 144,
        bins: int = 1000,
        bin_tokens: bool = False,
        trained_min_tiles: int | None = None,
        chat_template: str | None = None,
        **_: Any,
    ) -> None:
        if tokenizer is None:
            raise ValueError("MM15Processor needs a tokenizer")
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.tokens_per_tile = tokens_per_tile
        self.bins = bins
        self.bin_tokens = bin_tokens
        self.trained_min_tiles = trained_min_tiles
        self.image_token = IMAGE
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE)  # type: ignore[assignment]
        self._renderer: Renderer | None = None

    @property
    def renderer(self) -> Renderer:
        """Made when first needed, so that adding a token before use is seen."""
        if self._renderer is None:
            self._renderer = Renderer(
                self.tokenizer.backend_tokenizer,
                image_token_id=self.image_token_id,
                tokens_per_tile=self.tokens_per_tile,
            )
        return self._renderer

    @property
    def coordinates(self) -> Coordinates:
        """The contract between pixels and text."""
        return Coordinates(bins=self.bins, tokens=self.bin_tokens)

    @property
    def tiling(self) -> Tiling:
        """How pictures are split."""
        return self.image_processor.tiling

    def with_tiling(self, **changes: Any) -> MM15Processor:
        """A processor with other tiling settings; warns when `min_tiles` falls below the trained value."""
        tiling = replace(self.tiling, **changes)
        if self.trained_min_tiles is not None and tiling.min_tiles < self.trained_min_tiles:
            warnings.warn(
                f"min_tiles={tiling.min_tiles} is below the trained {self.trained_min_tiles}: grounding breaks "
                "(paper Table 2: 74.0 -> 24.5)",
                stacklevel=2,
            )
        return MM15Processor(
            MM15ImageProcessor(**asdict(tiling)),
            self.tokenizer,
            tokens_per_tile=self.tokens_per_tile,
            bins=self.bins,
            bin_tokens=self.bin_tokens,
            trained_min_tiles=self.trained_min_tiles,
            chat_template=self.chat_template,  # type: ignore[arg-type]
        )

    # ------------------------------------------------------------------------------------------------- samples

    def encode(self, sample: Sample) -> Encoded:
        """A whole sample for training. Raises UserError naming the sample for what cannot be encoded."""
        return self._encode(sample, segments)

    def prompt(self, sample: Sample) -> Encoded:
        """The sample up to its last answer, for `generate` to continue; the same path as `encode`."""
        return self._encode(sample, prompt_segments)

    def measure(self, sample: Sample) -> Measured:
        """What `encode` would give, without reading a pixel; so pictures whose pixels are damaged go unnoticed."""
        layouts = self.image_processor.layouts(sample.images, where=_place(sample))
        written = self._write(sample, segments, layouts)
        ids, labels, _ = self.renderer.render(written, [_piece_texts(x, i) for i, x in enumerate(layouts)])
        tiles = sum(layout.n_tiles for layout in layouts)
        sizes = tuple((layout.width, layout.height) for layout in layouts)
        return Measured(len(ids), int((labels != IGNORE).sum()), tiles, sizes)

    def _write(self, sample: Sample, write: Any, layouts: Sequence[Layout]) -> list[Segment]:
        sizes = tuple((layout.width, layout.height) for layout in layouts)
        try:
            return write(sample.parts, coordinates=self.coordinates, sizes=sizes)
        except ValueError as error:
            raise UserError(f"{_place(sample)}: {error}") from None

    def _encode(self, sample: Sample, write: Any) -> Encoded:
        tiles, layouts = self.image_processor.tiles(sample.images, where=_place(sample))
        sizes = tuple((layout.width, layout.height) for layout in layouts)
        written = self._write(sample, write, layouts)
        shown = sum(segment.image is not None for segment in written)
        if shown < len(layouts):  # a prompt may stop before the last pictures
            layouts = layouts[:shown]
            tiles = tiles[: sum(layout.n_tiles for layout in layouts)]
        ids, labels, spans = self.renderer.render(written, [_piece_texts(x, i) for i, x in enumerate(layouts)])
        overviews = [piece == layout.overview_piece for layout in layouts for piece in range(layout.n_tiles)]
        return Encoded(ids, labels, tiles, spans, sizes, overviews=np.array(overviews, dtype=bool))

    # ---------------------------------------------------------------------------------------- transformers' way

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """input_ids, attention_mask int64 [B, T] (padded left) and pixel_values uint8 [N, 3, tile, tile].

        `text` holds one ``<image>`` per picture; `images` is one picture, a flat list, or a list of lists per text.
        Raises ValueError with both numbers when placeholders and pictures do not match.
        """
        if videos is not None or audio is not None:
            raise ValueError("mm15 takes pictures and text; give a video as a list of its frames")
        if text is None:
            raise ValueError("text is missing: a prompt with one <image> per picture")
        texts = [text] if isinstance(text, str) else list(text)
        return_tensors = kwargs.get("return_tensors")
        rows, all_tiles = [], []
        for i, (one, pictures) in enumerate(zip(texts, _per_text(images, texts), strict=True)):
            tiles, layouts = self.image_processor.tiles([Image(p) for p in pictures], where=f"picture of text {i}")
            written = _split(one)
            ids, _, _ = self.renderer.render(written, [_piece_texts(x, k) for k, x in enumerate(layouts)])
            rows.append({"input_ids": ids.tolist()})
            all_tiles.append(tiles)
        padded = self.tokenizer.pad(rows, padding=kwargs.get("padding") or True, padding_side="left")
        data: dict[str, Any] = {key: padded[key] for key in ("input_ids", "attention_mask")}
        if any(len(tiles) for tiles in all_tiles):
            data["pixel_values"] = np.concatenate(all_tiles)
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` returns."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def answer_text(self, ids: Any) -> str:
        """The text of generated ids, without special tokens and outer spaces."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def _place(sample: Sample) -> str:
    return f"sample {sample.id!r} of {sample.source!r}"


def _piece_texts(layout: Layout, image: int) -> list[PieceText]:
    return [PieceText(*indicator_text(layout, piece, image)) for piece in range(layout.n_tiles)]


def _split(text: str) -> list[Segment]:
    """A template's text as segments: special tokens where they are spelled, pictures at ``<image>``."""
    found: list[Segment] = []
    seen = 0
    for piece in re.split("(" + "|".join(re.escape(token) for token in SPECIAL_TOKENS) + ")", text):
        if piece == IMAGE:
            found.append(Segment("", image=seen))
            seen += 1
        elif piece:
            found.append(Segment(piece, special=piece in SPECIAL_TOKENS))
    return found


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if not isinstance(images, list | tuple):
        images = [images]
    return [_fetch(picture) for item in images for picture in (item if isinstance(item, list | tuple) else [item])]


def _fetch(picture: Any) -> Any:
    """Pictures by http address or base64 text, as transformers' programs may pass them."""
    if isinstance(picture, str) and picture.startswith(("http://", "https://", "data:")):
        from transformers.image_utils import load_image

        return load_image(picture)
    return picture


def _per_text(images: Any, texts: list[str]) -> list[list[Any]]:
    """The pictures of each text; flat lists are dealt out by the number of placeholders."""
    counts = [text.count(IMAGE) for text in texts]
    flat = _flat(images)
    if sum(counts) != len(flat):
        raise ValueError(f"the text has {sum(counts)} {IMAGE} placeholders and there are {len(flat)} pictures")
    ends = np.cumsum([0, *counts])
    return [flat[a:b] for a, b in itertools.pairwise(ends)]


def build_processor(
    tokenizer: PreTrainedTokenizerBase, *, tiling: Tiling, coordinates: Coordinates, tokens_per_tile: int
) -> MM15Processor:
    """A processor for a prepared tokenizer (`text.tokenizer.prepare`) and a stage's tiling."""
    return MM15Processor(
        MM15ImageProcessor(**asdict(tiling)),
        tokenizer,
        tokens_per_tile=tokens_per_tile,
        bins=coordinates.bins,
        bin_tokens=coordinates.tokens,
        trained_min_tiles=tiling.min_tiles,
    )
