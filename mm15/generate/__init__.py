"""Generation: batched greedy replies, and conversations with pictures and places."""

from __future__ import annotations

from .conversation import Conversation, Reply, read_reply
from .greedy import continue_prompts
from .loading import load

__all__ = ["Conversation", "Reply", "continue_prompts", "load", "read_reply"]
