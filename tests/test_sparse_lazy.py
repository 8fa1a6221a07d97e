"""Lazy sparse steps: an ordinary step of the touched rows, and nothing of the others."""

import numpy as np
import pytest

import fastopt
from tests.cases import BY_NAME, OTHERS, SOME
from tests.sparse_runs import FORMATS, dense, pair, scipy_array
from tests.support import assert_same_bits, in_dtypes

SHAPE = (40, 3)
MORE = [BY_NAME[name] for name in ("adam-everything-decoupled", "adamw-plain", "sgd-everything-decay")]


class Oracle:
    """The oracle of a case, on the rows that have a gradient."""

    def __init__(self, case, w):
        self.case, self.w, self.state, self.steps = case, w.copy(), {}, 0

    def step(self, rows, gradient):
        start = {n: np.array(state[rows]) for n, state in self.state.items()}
        new, states = self.case.expected_step(self.w[rows], gradient, start, self.steps)
        for name, array in states.items():
            self.state.setdefault(name, self.initial(name))[rows] = array
        self.w[rows] = new
        self.steps += 1

    def initial(self, name):
        start = self.case.settings.get("initial_accumulator", 0.0)
        return np.full_like(self.w, start if name in ("square_avg", "sum") else 0.0)

    def check(self, opt):
        assert_same_bits(opt.params, self.w)
        for name, state in opt.state.items():
            assert_same_bits(state, self.state[name], name)


@pytest.mark.parametrize(
    ("case", "dtype"),
    in_dtypes({case.name: case for case in (*SOME, *OTHERS, *MORE)}, [case.name for case in SOME]),
)
@pytest.mark.parametrize("executor", ["serial", "parallel", "reference"])
def test_touched_rows_step(case, dtype, executor):
    rng = np.random.default_rng(1)
    w = rng.normal(size=SHAPE).astype(dtype)
    oracle = Oracle(case, w)
    # All states of the oracle exist after a step of all rows.
    opt = case.make(w.copy(), sparse="lazy", executor=executor)
    for touched in (200, 1, 25, 0, 60):
        gradient = pair(rng, SHAPE, dtype, touched)
        if touched == 200:
            gradient = np.arange(len(w)), gradient[1][: len(w)]
        case.step(opt, gradient)
        rows = np.unique(gradient[0])
        oracle.step(rows, dense(gradient, SHAPE, dtype)[rows])
    oracle.check(opt)


@pytest.mark.parametrize("kind", FORMATS)
def test_scipy_arrays(kind):
    rng = np.random.default_rng(2)
    case = BY_NAME["rmsprop-everything-decay"]
    w = rng.normal(size=SHAPE)
    opt, oracle = case.make(w.copy(), sparse="lazy"), Oracle(case, w)
    for density in (1.0, 0.05, 0.0, 0.3):
        gradient = scipy_array(rng, SHAPE, float, kind, density)
        whole = dense(gradient, SHAPE, float)
        rows = np.unique(gradient.tocoo().row)
        opt.step(gradient)
        oracle.step(rows, whole[rows])
    oracle.check(opt)


def test_stored_zeros_touch_their_row():
    from scipy.sparse import csr_array

    opt = fastopt.SGD(np.zeros((3, 2)), lr=1.0, momentum=0.5, sparse="lazy")
    opt.step((np.array([0, 1]), np.ones((2, 2))))
    opt.step(csr_array((np.zeros(1), [1], [0, 1, 1, 1]), shape=(3, 2)))
    assert opt.state["momentum_buffer"].tolist() == [[0.5, 0.5], [1, 1], [0, 0]]


def test_duplicates_are_summed_from_left_to_right():
    from scipy.sparse import coo_array, csr_array

    numbers = np.array([1e8, 1.0, -1e8, 3.0], np.float32)
    expected = ((numbers[0] + numbers[1]) + numbers[2]) + numbers[3]
    assert expected == 3.0  # float32 forgets the 1
    several = np.array([2, 0, 2, 2, 2])
    values = np.array([numbers[0], 7, *numbers[1:]], np.float32)
    columns = np.zeros(5, int)
    for gradient in (
        (several, values.reshape(-1, 1)),
        coo_array((values, (several, columns)), shape=(4, 1)),
        csr_array((np.roll(values, -1)[[0, 4, 1, 2, 3]], columns, [0, 1, 1, 5, 5]), shape=(4, 1)),
    ):
        w = np.zeros((4, 1), np.float32)
        fastopt.SGD(w, lr=1.0, sparse="lazy").step(gradient)
        assert w.ravel().tolist() == [-7, 0, -3, 0]


def test_sparse_arrays_of_other_dimensions():
    from scipy.sparse import coo_array

    rng = np.random.default_rng(3)
    for shape in ((9,), (6, 2, 3)):
        whole = np.where(rng.random(shape) < 0.2, rng.normal(size=shape), 0.0)
        w = np.zeros(shape)
        fastopt.SGD(w, lr=1.0, sparse="lazy").step(coo_array(whole))
        assert_same_bits(w, 0.0 - whole)


def test_the_gradient_is_only_read():
    rng = np.random.default_rng(4)
    rows, values = pair(rng, SHAPE, np.float64, 30)
    csr = scipy_array(rng, SHAPE, float, "csr")
    previous = [array.copy() for array in (rows, values, csr.data, csr.indices, csr.indptr)]
    for array in (rows, values, csr.data, csr.indices, csr.indptr):
        array.flags.writeable = False
    opt = fastopt.RMSProp(np.zeros(SHAPE), sparse="lazy")
    opt.step((rows, values))
    opt.step(csr)
    for array, copy in zip((rows, values, csr.data, csr.indices, csr.indptr), previous, strict=True):
        assert_same_bits(array, copy)


def test_other_rows_stay():
    w = np.ones((5, 2))
    opt = fastopt.AdamW(w, lr=0.1, average_decay=0.5, bounds=(None, 0.5), sparse="lazy")
    opt.step((np.array([3]), np.ones((1, 2))))
    assert (np.delete(w, 3, 0) == 1).all()
    assert (w[3] == 0.5).all()
    assert opt.state["average"][:, 0].tolist() == [1, 1, 1, 0.75, 1]
    assert not opt.state["exp_avg"][:3].any()
    opt.catch_up()  # nothing is behind
    assert (np.delete(w, 3, 0) == 1).all()
