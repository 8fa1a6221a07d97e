"""How fast fastopt is on this machine, beside other ways to do the same."""
