"""Fuzzing: cases drawn from seeds, played in several ways that must agree.

A *kind* draws a case, plain data, from a seed, and tries it: an exception is a finding, and so is the
death of the process. `kinds` lists them, ``python -m tests.fuzz`` runs them.
"""
