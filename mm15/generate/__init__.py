"""Generation: batched greedy replies, and conversations with pictures and places, and a fast decoder for CPUs."""

from __future__ import annotations

from .conversation import Conversation, Reply, read_reply
from .fast import FastDecoder, Weights
from .greedy import continue_prompts
from .loading import load

__all__ = ["Conversation", "FastDecoder", "Reply", "Weights", "continue_prompts", "load", "read_reply"]
