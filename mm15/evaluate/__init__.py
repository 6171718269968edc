"""Evaluation: metrics, tasks, the runner over a recipe's groups, and the report of a run.

`metrics`, `task` and `report` need no torch; `runner` does.
"""
