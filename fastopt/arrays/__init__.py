"""The caller's arrays: what they must be, and where they are."""
