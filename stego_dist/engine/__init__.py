"""Training, evaluation and baselines: what runs under `accelerate launch`."""
