"""``fastopt demo``: a model trained on real data, and a step over a large array is timed."""
