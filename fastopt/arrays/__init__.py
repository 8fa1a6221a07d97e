"""The caller's arrays: nested structures, checks, and where they are."""
