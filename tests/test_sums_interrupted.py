"""Steps with sums that are interrupted at any line."""

import numpy as np
import pytest

from fastopt import chain
from fastopt import transforms as t
from tests.lines import interrupted_at
from tests.sums import blend, run, snapshot
from tests.support import problem


@pytest.mark.parametrize("executor", ["serial", "reference"])
def test_interrupted_anywhere_it_was_taken_or_not(executor):
    """Parameters, count and carried numbers agree; and the next step is right."""
    w, grads = problem(7, np.float32, 3)

    def after_one_step():
        return run(w, grads[:1], chain(blend(), t.scale_by_learning_rate(0.1)), executor=executor)

    plain = after_one_step()
    states = [snapshot(plain)]
    for g in grads[1:]:
        plain.step(g)
        states.append(snapshot(plain))
    line, counts, opt = 1, set(), after_one_step()
    while interrupted_at(line, lambda opt=opt: opt.step(grads[1])):
        taken = opt.step_count - 1
        counts.add(taken)
        assert snapshot(opt) == states[taken]
        for g in grads[1 + taken :]:
            opt.step(g)
        assert snapshot(opt) == states[2]
        line, opt = line + 1, after_one_step()
    assert counts == {0, 1}
