"""Sources: `open_source(settings, name)[i]` is Sample i, whatever format it is stored in.

    world   the generated world        llava   LLaVA JSON or JSONL        openai   JSONL of OpenAI messages

A source is opened once: its files are looked through (1-2 seconds a GB), which gives its length, the place of every
row and its fingerprint; rows are read when they are asked for. Sources can be pickled and forked. Errors in a row
name the file, the line and the row's id; while training they make the loader skip the sample and say so.
"""

from __future__ import annotations

from typing import Protocol

from ...recipe import LlavaSource, OpenAISource, Source, WorldSource
from ...sample import Sample


class SourceData(Protocol):
    """What every source is. `fingerprint` reads ``name:length:digest`` and changes with the content of its file.

    Picture files are not part of the fingerprint: reading them all would cost as much as training on them.
    """

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, the same each time. Raises UserError when the row cannot be used."""
        ...


def open_source(settings: Source, name: str) -> SourceData:
    """The source of a recipe's block. Raises UserError when its file is missing, empty or not of the format."""
    if isinstance(settings, WorldSource):
        from .world import WorldData

        return WorldData(settings, name)
    if isinstance(settings, LlavaSource):
        from .llava import LlavaData

        return LlavaData(settings.path, name, images=settings.images)
    assert isinstance(settings, OpenAISource)
    from .openai import OpenAIData

    return OpenAIData(settings.path, name, images=settings.images)
