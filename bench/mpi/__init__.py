"""Sharded steps: their parts measured, and a model of them."""
