"""Generation: batched greedy replies, conversations with pictures and places, and drawing what a reply points at."""

from __future__ import annotations

from .conversation import Conversation, Reply, read_reply
from .draw import draw_regions
from .greedy import continue_prompts
from .loading import load

__all__ = ["Conversation", "Reply", "continue_prompts", "draw_regions", "load", "read_reply"]
