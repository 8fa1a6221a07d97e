"""``fastopt demo``: a model trained on real data, and a large buffer updated at the speed of memory."""
