"""Fuzzing: cases drawn from seeds, played in several ways that must agree.

A *kind* draws a case, plain data, from a seed, and tries it: an exception is a finding, and so is the
death of the process. `kinds` lists them, ``python -m tests.fuzz`` runs them.
"""

import os

# Numba counts threads when it is imported; cases ask for up to 8 on any machine.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")
