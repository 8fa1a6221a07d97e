"""``python -m bench.split_weights``: what split weights bring, for docs/split-weights.md."""
