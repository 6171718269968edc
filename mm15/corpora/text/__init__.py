"""Rendered text: the RenderedText of the paper's stage 2 made from your own texts, fonts and backgrounds.

passages.py  which text          typeset.py  words to lines to blocks    layout.py    blocks into a picture
distort.py   geometry, pixels    ground.py   paper, and ink for it       ../fonts.py  which font may write what
builder.py   all of it into samples
"""

from .builder import TASKS, TextBuilder, TextSettings
from .distort import Distortion
from .ground import Ground
from .layout import Layout

__all__ = ["TASKS", "Distortion", "Ground", "Layout", "TextBuilder", "TextSettings"]
