"""The command ``fastopt``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import fastopt

DESCRIPTION = "Fast optimizers that update NumPy arrays, PyTorch tensors and CUDA arrays in place."

# Import name -> the name that pip knows, for what fastopt does not depend on.
DIGITS = {"sklearn": "scikit-learn", "tqdm": "tqdm"}
THROUGHPUT = {"tqdm": "tqdm"}
SAVE = {"matplotlib": "matplotlib"}
MPI = {"mpi4py": "mpi4py"}


def _count(text: str) -> int:
    """A whole number of at least one; 1e8 will do."""
    try:
        number = float(text)
        count = int(number)
    except (ValueError, OverflowError):
        number, count = 0.5, 0
    if count != number or count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return count


def _seed(text: str) -> int:
    # The split of the data takes 32 bits.
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastopt", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"fastopt {fastopt.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    about = "what fastopt finds on this machine: CPU, threads, versions, cache folder"
    commands.add_parser("info", help=about, description=f"Show {about}.")
    about = "train a small network, and time a step over a large buffer"
    demo = commands.add_parser(
        "demo",
        help=about,
        description=f"{about[0].upper()}{about[1:]}. Takes less than a minute on two cores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument(
        "--part", choices=["digits", "throughput", "both"], default="both", help="what to run"
    )
    demo.add_argument(
        "--save",
        type=_png,
        metavar="PNG",
        default=argparse.SUPPRESS,
        help="draw the loss curves into this file (needs matplotlib)",
    )
    demo.add_argument(
        "--mpi",
        action="store_true",
        default=argparse.SUPPRESS,
        help="let the ranks of an MPI job learn together: mpiexec -n 2 fastopt demo --mpi",
    )
    demo.add_argument("--seed", type=_seed, metavar="N", default=0, help="seed of all random numbers")
    demo.add_argument("--epochs", type=_count, metavar="N", default=30, help="passes over the digits")
    demo.add_argument("--hidden", type=_count, metavar="N", default=128, help="hidden units")
    demo.add_argument(
        "--elements",
        type=_count,
        metavar="N",
        default=100_000_000,
        help="size of the large buffer, at 32 bytes of memory each; less where memory is short",
    )
    demo.add_argument("--rounds", type=_count, metavar="N", default=7, help="timed rounds")
    return parser


def _missing(packages: dict[str, str]) -> list[str]:
    return [package for name, package in packages.items() if find_spec(name) is None]


def _info() -> None:
    from fastopt.demo.output import pairs
    from fastopt.system import facts

    print(pairs(facts()))


def _demo(options: argparse.Namespace) -> None:
    # Here and not above: these modules import what may be missing.
    if options.mpi:
        from fastopt.demo import ranks

        ranks.show(options.hidden, options.epochs, options.seed)
        return
    if options.part != "throughput":
        from fastopt.demo import digits

        digits.show(options.hidden, options.epochs, options.seed, options.save)
    if options.part == "both":
        print()
    if options.part != "digits":
        from fastopt.demo import throughput

        throughput.show(options.elements, options.rounds, options.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "info":
        _info()
        return 0
    options.save, options.mpi = getattr(options, "save", None), getattr(options, "mpi", False)
    if options.mpi and (options.save or options.part == "throughput"):
        parser.error("--mpi trains on the digits and draws nothing: leave out --part and --save")
    if options.save and options.part == "throughput":
        parser.error("--save draws the loss curves of the digits: leave out --part throughput")
    packages = THROUGHPUT if options.part == "throughput" else DIGITS
    missing = _missing(packages | (SAVE if options.save else {}) | (MPI if options.mpi else {}))
    if missing:
        names = " ".join(missing)
        print(f"fastopt demo needs more packages: {_pip()} install {names}", file=sys.stderr)
        return 2
    try:
        _demo(options)
    except KeyboardInterrupt:
        return 130  # what a shell reports for Ctrl-C
    return 0


def _pip() -> str:
    """The pip of the Python that runs this, whatever stands first in PATH."""
    return f"{Path(sys.executable).name or 'python'} -m pip"
