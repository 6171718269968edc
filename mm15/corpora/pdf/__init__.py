"""PDFs to training data: page pictures, their text in reading order, and boxes of words, lines and paragraphs.

document.py  a page as a picture and its words       layout.py   their reading order, lines, paragraphs
figures.py   the pictures inside a page              tasks.py    the samples of a page
builder.py   a folder of PDFs as items for the engine
"""

from .builder import PdfBuilder, look_through
from .tasks import TASKS, Choice

__all__ = ["TASKS", "Choice", "PdfBuilder", "look_through"]
