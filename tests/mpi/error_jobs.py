"""What ranks run for `test_errors`: one of them is at fault, and all of them notice and go on."""

import copy
import os
import pickle
import signal
import sys

import numpy as np

import fastopt
from fastopt.codecs.floats import floats
from fastopt.interop.mpi import RankError, ShardedOptimizer
from fastopt.steps.stepper import stepper_of
from tests.mpi.step_jobs import exact_gradients, start

SIZE = 1100


class Rate:
    """A schedule that one rank can spoil."""

    def __init__(self):
        self.value = 0.1

    def __call__(self, step):
        if self.value is None:
            raise ZeroDivisionError("spoilt")
        return self.value


def make(comm):
    w = start(SIZE, np.float32)
    schedule = Rate()
    opt = ShardedOptimizer(
        comm,
        w,
        lambda s: fastopt.Adam(s, lr=schedule, clip_norm=2.0),
        overlap_chunks=2,
    )
    return opt, schedule


def raised(call):
    try:
        call()
    except Exception as error:
        return error
    return None


def assert_all_raise(comm, culprit, kind, words, call):
    """The culprit gets the error itself, the others are told of it."""
    error = raised(call)
    expected = kind if comm.rank == culprit else RankError
    assert type(error) is expected, (comm.rank, repr(error))
    assert all(word in str(error) for word in words), str(error)
    if comm.rank != culprit:
        assert error.ranks == (culprit,)
        assert f"rank {culprit} failed: {kind.__name__}" in str(error)


def assert_all_raise_alike(kind, words, call):
    """It cannot be said who is at fault."""
    error = raised(call)
    assert type(error) is kind, repr(error)
    assert all(word in str(error) for word in words), str(error)


def gradients(comm):
    """A gradient that is not acceptable on one rank."""
    good = exact_gradients(SIZE, np.float32, comm.size)
    control, _ = make(comm)
    opt, _ = make(comm)
    read_only = good[0, comm.rank].copy()
    read_only.flags.writeable = False
    bad = [
        (None, TypeError, ["local_grad", "NumPy array", "NoneType"]),
        ([1.0] * SIZE, TypeError, ["local_grad", "list"]),
        (np.zeros(SIZE + 1, np.float32), ValueError, ["local_grad", "(1100,)", "(1101,)"]),
        (np.zeros((1, SIZE), np.float32), ValueError, ["local_grad", "(1, 1100)"]),
        (np.zeros(SIZE), TypeError, ["local_grad", "float32", "float64"]),
        (np.zeros(2 * SIZE, np.float32)[::2], ValueError, ["local_grad", "contiguous"]),
        (np.zeros(SIZE, ">f4"), ValueError, ["local_grad", "byte order"]),
        (opt.params, ValueError, ["local_grad", "share memory", "params"]),
    ]
    for number, (grad, kind, words) in enumerate(bad):
        culprit = number % comm.size
        mine = grad if comm.rank == culprit else good[0, comm.rank]
        assert_all_raise(comm, culprit, kind, words, lambda mine=mine: opt.step(mine))
    for number, (scale, kind) in enumerate([(0.0, ValueError), (-1.0, ValueError), ("2", TypeError)]):
        culprit = number % comm.size
        mine = scale if comm.rank == culprit else 1.0
        assert_all_raise(
            comm,
            culprit,
            kind,
            ["grad_scale"],
            lambda mine=mine: opt.step(good[0, comm.rank], grad_scale=mine),
        )
    clearing = ShardedOptimizer(
        comm, np.zeros(SIZE, np.float32), lambda s: fastopt.SGD(s, zero_grad=True)
    )
    culprit = comm.size - 1
    mine = read_only if comm.rank == culprit else good[0, comm.rank].copy()
    assert_all_raise(
        comm, culprit, ValueError, ["local_grad", "writeable"], lambda: clearing.step(mine)
    )
    # Nothing was changed, and further steps work.
    assert opt.params.tobytes() == control.params.tobytes()
    for by_rank in good:
        opt.step(by_rank[comm.rank])
        control.step(by_rank[comm.rank])
    assert opt.params.tobytes() == control.params.tobytes()
    assert opt.step_count == 3


def parameters(comm):
    """Parameters that are not what they were, on one rank."""
    good = exact_gradients(SIZE, np.float32, comm.size)[0, comm.rank]
    changes = {
        "writeable": lambda w: w.setflags(write=False),
        "resized": lambda w: w.resize(1000 * SIZE, refcheck=False),
    }
    for word, change in changes.items():
        w = start(SIZE, np.float32).copy()
        opt = ShardedOptimizer(comm, w, lambda s: fastopt.Adam(s, lr=0.1), overlap_chunks=2)
        culprit = comm.size - 1
        if comm.rank == culprit:
            change(w)
        previous = w.tobytes()
        words = ["params", word]
        assert_all_raise(comm, culprit, ValueError, words, lambda opt=opt: opt.step(good))
        assert w.tobytes() == previous
        assert opt.step_count == 0


def settings(comm):
    """Ranks that are not at the same step, or have other settings, do not step."""
    good = exact_gradients(SIZE, np.float32, comm.size)[0, comm.rank]
    opt, schedule = make(comm)
    culprit = comm.size - 1
    schedule.value = None if comm.rank == culprit else 0.1
    assert_all_raise(comm, culprit, ZeroDivisionError, ["spoilt"], lambda: opt.step(good))
    schedule.value = float("nan") if comm.rank == culprit else 0.1
    assert_all_raise(comm, culprit, ValueError, ["lr", "nan"], lambda: opt.step(good))
    schedule.value = 0.1
    previous = opt.params.tobytes()
    if comm.size > 1:  # one alone is always of one mind
        schedule.value = 0.2 if comm.rank == culprit else 0.1
        words = ["all ranks must do the same", "rank 0", f"rank {culprit}", "hyperparameters", "0.2"]
        assert_all_raise_alike(ValueError, words, lambda: opt.step(good))
        schedule.value = 0.1
        scale = 2.0 if comm.rank == culprit else 1.0
        words = ["grad_scale", "rank 0", f"rank {culprit}"]
        assert_all_raise_alike(ValueError, words, lambda: opt.step(good, grad_scale=scale))
        opt.optimizer.clip_norm = 3.0 if comm.rank == culprit else 2.0
        assert_all_raise_alike(ValueError, ["limit of the norm", "3.0"], lambda: opt.step(good))
        opt.optimizer.clip_norm = 2.0
        opt.optimizer.beta1 = 0.5 if comm.rank == culprit else 0.9
        assert_all_raise_alike(ValueError, ["'beta1': 0.5"], lambda: opt.step(good))
        opt.optimizer.beta1 = 0.9
        if comm.rank == culprit:
            stepper_of(opt.optimizer)().go_to(7)
        assert_all_raise_alike(ValueError, ["number of the step", "7"], lambda: opt.step(good))
        stepper_of(opt.optimizer)().go_to(0)
        call = opt.gather if comm.rank == culprit else lambda: opt.step(good)
        assert_all_raise_alike(ValueError, ["the call is 'step'", "'gather'"], call)
    assert opt.params.tobytes() == previous
    opt.step(good)
    assert opt.step_count == 1


def arguments(comm):
    """Optimizers that cannot be made, or not by all ranks."""
    ranks, culprit = comm.size, comm.size - 1
    w = start(SIZE, np.float32)

    def sgd(shard):
        return fastopt.SGD(shard)

    def refused(kind, words, params=w, make_optimizer=sgd, **options):
        """With these on the culprit, and good ones elsewhere."""
        arguments = (params, make_optimizer) if comm.rank == culprit else (w.copy(), sgd)
        settings = options if comm.rank == culprit else {}
        assert_all_raise(
            comm, culprit, kind, words, lambda: ShardedOptimizer(comm, *arguments, **settings)
        )

    refused(TypeError, ["params", "list"], [w])
    refused(ValueError, ["reduce_dtype", "float64"], reduce_dtype=np.float64)
    refused(ValueError, ["reduce_dtype", "int32"], reduce_dtype=np.int32)
    refused(TypeError, ["reduce_dtype", "'many'"], reduce_dtype="many")
    refused(TypeError, ["params", "int32"], np.zeros(SIZE, np.int32))
    refused(ValueError, ["params", "contiguous"], np.zeros(2 * SIZE, np.float32)[::2])
    refused(TypeError, ["reduction", "'mean' or 'sum'", "True"], reduction=True)
    refused(ValueError, ["reduction", "'max'"], reduction="max")
    refused(TypeError, ["replicated", "'no'"], replicated="no")
    refused(TypeError, ["overlap_chunks", "2.0"], overlap_chunks=2.0)
    refused(ValueError, ["overlap_chunks", ">= 1", "0"], overlap_chunks=0)
    refused(TypeError, ["make_optimizer", "callable"], make_optimizer=sgd(w))
    refused(ValueError, ["params must be flat"], np.zeros((2, 2), np.float32), replicated=False)
    refused(ValueError, ["lr", "-1"], make_optimizer=lambda s: fastopt.SGD(s, lr=-1))
    refused(TypeError, ["make_optimizer", "list"], make_optimizer=lambda s: [s])
    refused(ValueError, ["the shard itself"], make_optimizer=lambda s: fastopt.SGD([s]))
    refused(ValueError, ["the shard itself"], make_optimizer=lambda s: fastopt.SGD(s.copy()))
    refused(ValueError, ["sparse", "'lazy'"], make_optimizer=lambda s: fastopt.SGD(s, sparse="lazy"))
    for comm_like in (None, 0, "world"):
        assert_all_raise_alike(
            TypeError, ["comm", "intracommunicator"], lambda c=comm_like: ShardedOptimizer(c, w, sgd)
        )
    if ranks == 1:
        return

    def differ(words, params=w, make_optimizer=sgd, **options):
        arguments = (params, make_optimizer) if comm.rank == culprit else (w.copy(), sgd)
        settings = options if comm.rank == culprit else {}
        words = [f"rank {culprit}", *words]
        assert_all_raise_alike(
            ValueError, words, lambda: ShardedOptimizer(comm, *arguments, **settings)
        )

    differ(["shape", "(1100,)", "(1101,)"], np.zeros(SIZE + 1, np.float32))
    differ(["dtype", "float32", "float64"], np.zeros(SIZE))
    differ(["reduction", "'mean'", "'sum'"], reduction="sum")
    differ(["replicated"], replicated=False)
    differ(["overlap_chunks", "3"], overlap_chunks=3)
    differ(["reduce_dtype", "float16"], reduce_dtype=np.float16)
    half = np.zeros(SIZE, floats("bfloat16").dtype)
    error = raised(lambda: ShardedOptimizer(comm, half, sgd))
    assert type(error) is ValueError
    assert "this MPI cannot sum bfloat16: give reduce_dtype" in str(error)
    differ(["optimizer", "SGD", "RMSProp"], make_optimizer=fastopt.RMSProp)
    differ(["settings", "0.25"], make_optimizer=lambda s: fastopt.SGD(s, lr=0.25))
    differ(["transforms", "trace"], make_optimizer=lambda s: fastopt.SGD(s, momentum=0.5))
    differ(["clip_norm"], make_optimizer=lambda s: fastopt.SGD(s, clip_norm=0.5))
    differ(["zero_grad"], make_optimizer=lambda s: fastopt.SGD(s, zero_grad=True))
    # Shards that are not as long as their owners think: of 2 in all on each rank but the last.
    lengths = [2] * (ranks - 1) + [5]
    error = raised(lambda: ShardedOptimizer(comm, np.zeros(lengths[comm.rank]), sgd, replicated=False))
    assert type(error) in (ValueError, RankError), repr(error)
    assert "shard_slice" in str(error)


def gathering(comm):
    """Arrays that do not fit, in `gather`."""
    opt, _ = make(comm)
    culprit = comm.size - 1
    length = opt.shard.size
    bad = [
        ({"of": [1.0]}, TypeError, ["of", "list"]),
        ({"of": np.zeros(length + 1, np.float32)}, ValueError, ["of", "shape"]),
        ({"of": np.zeros(2 * length, np.float32)[::2]}, ValueError, ["of", "contiguous"]),
        ({"out": [1.0]}, TypeError, ["out", "list"]),
        ({"out": np.zeros(SIZE + 1, np.float32)}, ValueError, ["out", "(1100,)"]),
        ({"out": np.zeros(SIZE)}, TypeError, ["out", "float32"]),
        ({"out": opt.params}, ValueError, ["out", "share memory"]),
    ]
    for arguments_, kind, words in bad:
        chosen = dict(arguments_) if comm.rank == culprit else {}
        out, of = chosen.get("out"), chosen.get("of")
        assert_all_raise(comm, culprit, kind, words, lambda out=out, of=of: opt.gather(out, of=of))
    if comm.size > 1:
        of = np.zeros(length) if comm.rank == culprit else None
        assert_all_raise_alike(ValueError, ["dtype", "float64"], lambda: opt.gather(of=of))
    assert opt.gather().tobytes() == opt.params.tobytes()


def copies(comm):
    """A part of something larger cannot be copied."""
    opt, _ = make(comm)
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        assert_all_raise_alike(TypeError, ["cannot be copied", "save"], lambda call=call: call(opt))


JOBS = (gradients, parameters, settings, arguments, gathering, copies)


def all_of_them(comm):
    for job in JOBS:
        job(comm)


def killed_in_a_step(comm, folder):
    """The last rank dies between its pieces; the others must not wait for ever."""
    w = start(SIZE, np.float32)
    opt = ShardedOptimizer(comm, w, lambda s: fastopt.Adam(s, lr=0.1), overlap_chunks=3)
    opt.step(exact_gradients(SIZE, np.float32, comm.size)[0, comm.rank])
    opt.save(folder)
    stepper = stepper_of(opt.optimizer)()
    run = stepper.run

    def die(first, last):
        if comm.rank == comm.size - 1 and first > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        run(first, last)

    stepper.run = die
    opt.step(exact_gradients(SIZE, np.float32, comm.size)[1, comm.rank])
    opt.save(folder)
    sys.stdout.write("not reached")
