"""The generated world: pictures and texts in which every answer and every box is known.

    make("ground", 7)                        the eighth training sample of the task `ground` at level 1
    make("ground", 7, split="heldout")       one that training never sees
    make("form_field", 0, level=3, size=512) harder, on a picture of up to 512 pixels

`make` is a pure function of its arguments: the same in every process and on every machine, up to how fonts are
rasterised. It costs 0.1-1 ms at 128 pixels. `TASKS` says what there is; `Sample.meta` holds task, group, category,
metric, level, answer, boxes (pixels) and objects (what was drawn).
"""

from __future__ import annotations

from .task import LEVELS, Task
from .tasks import GREY, TASKS, blank, make

__all__ = ["GREY", "LEVELS", "TASKS", "Task", "blank", "make"]
