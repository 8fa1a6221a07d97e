"""Steps with sparse gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fastopt.arrays.checks import Array
from fastopt.changes import Change
from fastopt.executors.cpu.columns import KERNEL
from fastopt.executors.dispatch import RowSums
from fastopt.executors.reference import StoredArray
from fastopt.steps.hyperparameters import Hyperparameters
from fastopt.steps.parameter_set import ParameterSet
from fastopt.steps.pass_sums import BlockSums
from fastopt.steps.sparse.entries import RowGradient, is_sparse
from fastopt.steps.sparse.lagging_rows import LaggingRows, check_rows_can_step
from fastopt.validation import choice

MODES = ("exact", "lazy")


def check_mode(sparse: object) -> str | None:
    """Check the option `sparse`: None or one of `MODES`."""
    return None if sparse is None else choice("sparse", sparse, MODES)


class RowStepper:
    """The parameters with sparse gradients, and their steps.

    Attributes
    ----------
    mode : str or None
    lagging : bool
        Whether any rows have to catch up.
    """

    def __init__(
        self,
        mode: str | None,
        work: ParameterSet,
        hyper: Hyperparameters,
        table: Array,
        executor: str,
        compiled: bool,
    ) -> None:
        self.mode, self.lagging = mode, False
        self._table, self._work = table, work
        self._how = mode == "exact", executor, compiled
        self._params: dict[int, LaggingRows] = {}
        if mode is not None:
            self._check_any(hyper)

    def _check_any(self, hyper: Hyperparameters) -> None:
        """Check that some parameter can have sparse gradients."""
        refusal = None
        for index in range(len(self._work.leaves)):
            try:
                check_rows_can_step(self._work, index, hyper.of(index), self.mode == "exact")
            except ValueError as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise refusal

    def prepare(self, gradients: Mapping[int, RowGradient], hyper: Hyperparameters) -> None:
        """Prepare steps with these gradients, or raise before anything is written."""
        for index in gradients:
            if index not in self._params:
                table, numbers = self._table[index], hyper.of(index)
                self._params[index] = LaggingRows(self._work, index, table, numbers, *self._how)
            self._params[index].prepare(hyper.of(index))

    def catch_up_touched(self, gradients: Mapping[int, RowGradient]) -> None:
        """Bring the rows with a gradient up to date, before sums are of them."""
        for index, gradient in gradients.items():
            self._params[index].catch_up(gradient.rows)

    def find_matrices(self, gradients: Mapping[int, RowGradient], hyper: Hyperparameters) -> None:
        """Find what a step without a gradient does, where that follows from sums; or raise."""
        for index in gradients:
            self._params[index].find_matrix(hyper.of(index))

    def summing(
        self, gradients: Mapping[int, RowGradient], hyper: Hyperparameters
    ) -> dict[int, RowSums]:
        """What adds up sums before the step over the rows with a gradient."""
        return {i: self._params[i].summing(gradient, hyper.of(i)) for i, gradient in gradients.items()}

    def views(
        self, gradients: Mapping[int, RowGradient], hyper: Hyperparameters
    ) -> dict[int, list[list[StoredArray]]]:
        """The rows with a gradient, for the reference."""
        return {i: list(self._params[i].views(gradient)) for i, gradient in gradients.items()}

    def sizes(self, gradients: Mapping[int, RowGradient]) -> list[int]:
        """The number of elements to step for each gradient."""
        return [gradient.positions.size * gradient.values.shape[1] for gradient in gradients.values()]

    def stepped(
        self,
        gradients: Mapping[int, RowGradient],
        hyper: Hyperparameters,
        clears: bool,
        threads: int,
        sums: BlockSums | None,
    ) -> list[Change]:
        """The changes that step the rows with a gradient, and write what is added up to `sums`."""
        changes: list[Change] = []
        for index, gradient in gradients.items():
            self.lagging = True  # perhaps: to catch up without need changes nothing
            code = int(self._table[index, KERNEL])
            rows_of_param = self._params[index]
            numbers = hyper.of(index)
            changes += rows_of_param.stepped(gradient, code, numbers, clears, threads, sums)
        return changes

    def note_lagging(self) -> None:
        """Note whether rows lag after a step."""
        self.lagging = any(rows.now for rows in self._params.values())

    def catch_up(self, grads: Sequence[object] | None = None) -> None:
        """Bring all rows up to date: of all parameters, or of those with dense ones among gradients."""
        dense = [
            index
            for index in self._params
            if grads is None or not (grads[index] is None or is_sparse(grads[index]))
        ]
        self._check_headers(dense)
        for index in dense:
            self._params[index].catch_up()
        self.note_lagging()

    def catch_up_rows(self, chosen: Mapping[int, Array]) -> None:
        """Bring some rows of some parameters up to date."""
        lagging = {index: some for index, some in chosen.items() if index in self._params}
        self._check_headers(lagging)
        for index, some in lagging.items():
            self._params[index].catch_up(some)

    def _check_headers(self, which: Iterable[int]) -> None:
        for index in which:
            self._work.check_headers(index)

    @property
    def params_behind(self) -> bool:
        """Whether parameters, not only states, lag behind those of dense steps."""
        return any(rows.now and rows.moves for rows in self._params.values())
