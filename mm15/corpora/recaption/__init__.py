"""Recaptioning: a model captions pictures, filters keep what is good, the rest is named with its reason.

The self-training captions of the paper's appendix A.1: caption pictures with your own model, filter, train on them.

    captioners.py  our own models       endpoint.py  any OpenAI-compatible server     answers.py  what was said, kept
    filters.py     what is no caption   alike.py     near duplicates                  pipeline.py all of it
"""

from .captioners import Captioner, ModelCaptioner
from .endpoint import Endpoint, EndpointCaptioner
from .filters import Filters
from .pipeline import Form, recaption

__all__ = ["Captioner", "Endpoint", "EndpointCaptioner", "Filters", "Form", "ModelCaptioner", "recaption"]
