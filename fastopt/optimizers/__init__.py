"""Optimizers: chains of transforms over the user's arrays."""
