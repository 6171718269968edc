"""Charts and tables: drawn from data that is known, so that every answer and every box is.

tables.py   the data, made up       looks.py    sizes, fonts, colours     questions.py  what is asked of a chart
csvs.py     the data, the user's    drawing.py  figure, boxes, checks     builder.py    all of it into samples
                                    shapes.py   the kinds of charts
"""

from .builder import ChartBuilder, ChartSettings
from .drawing import Kind
from .questions import TASKS

__all__ = ["TASKS", "ChartBuilder", "ChartSettings", "Kind"]
