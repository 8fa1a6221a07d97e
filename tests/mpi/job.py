"""``python -m tests.mpi.job module.function arguments...``: what each rank of a test runs.

An exception on one rank ends all of them, as ``python -m mpi4py`` would see to.
"""

import importlib
import sys
import traceback

from mpi4py import MPI


def main() -> None:
    module, function = sys.argv[1].split(".")
    try:
        job = getattr(importlib.import_module(f"tests.mpi.{module}"), function)
        job(MPI.COMM_WORLD, *sys.argv[2:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)


if __name__ == "__main__":
    main()
