"""Training: stages, the loop, optimisers, parallelism, checkpoints, metrics."""
