"""Gradients of some rows: touched rows step, and the others catch up when they are needed."""
