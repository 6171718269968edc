"""What a recipe will take, told before anything runs: parameters, operations, memory, time, and what to change.

    recipe --skeleton--> shapes --rows--> flops, memory --> fits or not --> advice

No weights, no data and no GPU are touched: the model is built without memory, everything else is arithmetic. `plan` is
the whole of it; the pieces (`row_flops`, `peak`) take the content of a real row too. 2 s for all stages of a 30B model.
"""

from .flops import Learns, Training, row_flops
from .memory import Memory, Process, peak
from .planning import Plan, StagePlan, plan
from .row import Row
from .shapes import Shapes

__all__ = [
    "Learns",
    "Memory",
    "Plan",
    "Process",
    "Row",
    "Shapes",
    "StagePlan",
    "Training",
    "peak",
    "plan",
    "row_flops",
]
