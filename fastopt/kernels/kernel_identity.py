"""What a kernel is known by on disk: the name of its file, and the content it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastopt.codecs.formats import FORMATS
from fastopt.codecs.operations import Formula
from fastopt.kernels.identity import content, digest, origin, package
from fastopt.kernels.job import Job


class Identity(NamedTuple):
    """What the machine code of a kernel is known by on disk."""

    name: str  # of the file
    key: str
    lasts: bool  # whether another process may use it

    @property
    def content(self) -> str | None:
        """All that machine code depends on but compiler and target; None if it must not be kept."""
        return f"{package()} {self.key}" if self.lasts else None


def identified(
    job: Job, texts: Sequence[str], functions: Sequence[object], prefix: str = ""
) -> Identity:
    """The identity of a kernel with these texts as source, which call the functions of a job."""
    formats = [storage.codec for storage in job.storage]
    how = *texts, str(job.arrays), _sizes(formats), job.compute.name, str(job.fast)
    name = f"{prefix}{origin(functions, *texts, str(job.fast))}-{job.compute.name}"
    return _of_contents(name, how, [*functions, *_formulas(formats)])


def identified_by_functions(
    texts: Sequence[str], functions: Sequence[object], prefix: str, *how: str
) -> Identity:
    """The identity of a kernel with these texts as source, which calls no functions but these."""
    return _of_contents(f"{prefix}{origin(functions, *texts, *how)}", (*texts, *how), functions)


def identified_by_package(name: str, formats: Iterable[str] = ()) -> Identity:
    """The identity of one of fastopt's own kernels, named with all that it is compiled for."""
    formats = list(formats)
    return _of_contents(name, (name, _sizes(formats)), _formulas(formats))


def _of_contents(name: str, how: Iterable[str], functions: Iterable[object]) -> Identity:
    contents = [content(function) for function in functions]
    lasts = package() is not None and all(each.lasts for each in contents)
    return Identity(name, digest(*how, *(each.digest for each in contents)), lasts)


def _formulas(names: Iterable[str]) -> list[Formula]:
    """What the code of these formats is made of."""
    return [formula for name in names if name in FORMATS for formula in FORMATS[name].formulas]


def _sizes(names: Iterable[str]) -> str:
    """The numbers of these formats that are in their code, as text."""
    return str([(FORMATS[name].itemsize, FORMATS[name].cut) for name in names if name in FORMATS])
