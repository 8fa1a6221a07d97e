"""What ranks run for `test_step`: sharded steps beside the plain optimizer over everything."""

import shutil
import tempfile
from unittest import mock

import numpy as np

import fastopt
from fastopt.codecs.floats import floats
from fastopt.interop.mpi import ShardedOptimizer, partition, shard_slice
from tests import cases
from tests.sums import scaled, square
from tests.support import COMPILED, DTYPES, assert_same_bits

# Shards begin at multiples of 256: small arrays are on one rank, the others have nothing.
SIZES = (0, 1, 2, 3, 17, 255, 256, 257, 511, 513, 1009, 1023, 1025, 1283)

CASES = [
    cases.BY_NAME[name]
    for name in (
        "rmsprop-plain",
        "rmsprop-all_assigned",
        "adam-everything-decay",
        "nadam-everything-decay",
    )
]


def start(size, dtype):
    return np.random.default_rng(size).normal(size=size).astype(dtype)


def exact_gradients(size, dtype, ranks, steps=3):
    """For each step and rank: small whole numbers over a power of two, whose sums are exact."""
    rng = np.random.default_rng(7)
    whole = rng.integers(-64, 65, (steps, ranks, size))
    return (whole / 32.0).astype(dtype)


def assert_same(sharded, plain, what):
    """Parameters and states, to the last bit, on every rank."""
    assert sharded.step_count == plain.step_count, what
    flat = plain.params.reshape(-1)
    if sharded.replicated:
        assert_same_bits(sharded.params, plain.params, what)
    assert_same_bits(sharded.shard, flat[sharded.slice], what)
    assert sharded.optimizer.state.keys() == plain.state.keys()
    for name, state in plain.state.items():
        assert_same_bits(sharded.gather(of=sharded.optimizer.state[name]), state.reshape(-1), name)


def compare(comm, make, size, dtype, step=None, reduction="mean", gradients=None, **options):
    """Step both ways with sums that are exact; both optimizers."""
    w, other = start(size, dtype), start(size, dtype)
    sharded, plain = ShardedOptimizer(comm, w, make, reduction=reduction, **options), make(other)
    step = step or (lambda opt, g, **scale: opt.step(g, **scale))
    if gradients is None:
        gradients = exact_gradients(size, dtype, comm.size)
    for by_rank in gradients:
        step(sharded, by_rank[comm.rank])
        with np.errstate(all="ignore"):
            total = by_rank.sum(axis=0, dtype=dtype)
        step(plain, total, grad_scale=float(comm.size if reduction == "mean" else 1))
    assert_same(sharded, plain, f"{make} {size} {dtype} {options}")
    return sharded, plain


def every_case(comm):
    for case in CASES:
        for dtype in DTYPES if case is CASES[0] else (np.float32,):

            def step(opt, g, case=case, **scale):
                plain = getattr(opt, "optimizer", opt)
                for name, value in case.assigned.get(plain.step_count, {}).items():
                    setattr(plain, name, value)
                opt.step(g, **scale)

            for size in SIZES if case is CASES[0] else (5, 1103):
                compare(comm, case.make, size, dtype, step)
    compare(comm, CASES[0].make, 1103, np.float32, reduction="sum")


def pieces(comm):
    """However a shard is cut, and whichever executor steps it."""
    runs = [("serial", size, count) for size in (1, 2100) for count in (1, 2, 7)]
    for executor, size, count in [*runs, ("serial", 700, 50), ("parallel", 2100, 3)]:

        def make(shard, executor=executor):
            return fastopt.RMSProp(shard, lr=0.1, executor=executor)

        compare(comm, make, size, np.float32, overlap_chunks=count)
    if COMPILED:  # more than one of the pieces that are usual, but for their number
        make = lambda shard: fastopt.RMSProp(shard, lr=0.1)  # noqa: E731
        with mock.patch.object(partition, "AT_ONCE", 1 << 20):
            sharded, _ = compare(comm, make, comm.size * 700_001, np.float32)
        assert sharded.overlap_chunks == 3
        sharded, _ = compare(comm, make, comm.size * 700_001, np.float32)
        assert sharded.overlap_chunks == 1


def shapes(comm):
    """Parameters of any shape, replicated from rank 0."""
    w = np.arange(12.0).reshape(3, 4) if comm.rank == 0 else np.full((3, 4), np.nan)
    opt = ShardedOptimizer(comm, w, lambda shard: fastopt.SGD(shard, lr=0.5, average_decay=0.5))
    assert_same_bits(w, np.arange(12.0).reshape(3, 4))
    assert_same_bits(opt.optimizer.state["average"], opt.shard)
    opt.step(np.full((3, 4), 2.0 * comm.rank))
    mean = comm.size - 1.0
    assert_same_bits(w, np.arange(12.0).reshape(3, 4) - 0.5 * mean)
    scalar = np.array(3.0)
    opt = ShardedOptimizer(comm, scalar, lambda shard: fastopt.SGD(shard, lr=1.0), reduction="sum")
    opt.step(np.array(0.5), grad_scale=0.25)
    assert scalar == 3.0 - 2.0 * comm.size


def rounding(comm):
    """Sums that are not exact: within the rounding of P - 1 additions; one rank: the same bits."""
    size, ranks = 1103, comm.size
    for dtype in DTYPES:
        gradients = np.random.default_rng(3).normal(size=(ranks, size)).astype(dtype)
        w = np.zeros(size, dtype)
        opt = ShardedOptimizer(comm, w, lambda s: fastopt.SGD(s, lr=1.0), reduction="sum")
        opt.step(gradients[comm.rank])
        exact = gradients.astype(np.longdouble).sum(axis=0)
        bound = (ranks - 1) * np.finfo(dtype).eps / 2 * np.abs(gradients).sum(axis=0, dtype=np.float64)
        assert (np.abs(-w - exact) <= bound * (1 + 1e-6)).all()
        every = np.concatenate(comm.allgather(w)).reshape(ranks, size)
        assert all(one.tobytes() == w.tobytes() for one in every)


def norms(comm):
    """The limit and the look for what is not finite see all ranks."""
    for dtype in DTYPES:
        for limit in (1e-3, 1e9):
            make = lambda s, limit=limit: fastopt.SGD(s, lr=0.1, momentum=0.9, clip_norm=limit)  # noqa: E731
            for size, count in ((1, 1), (1300, 1), (1300, 3)):
                sharded, plain = compare(comm, make, size, dtype, overlap_chunks=count)
                assert sharded.last == plain.last
    # Not a number on one rank, in one shard: with a limit it touches its own element alone.
    size = 1030
    gradients = exact_gradients(size, np.float32, comm.size)
    gradients[1, comm.size - 1, -1] = np.nan
    make = lambda s: fastopt.SGD(s, lr=0.1, clip_norm=0.5)  # noqa: E731
    sharded, _ = compare(comm, make, size, np.float32, gradients=gradients[:2])
    assert np.isnan(sharded.last.norm)
    assert np.isnan(sharded.params).tolist() == [False] * (size - 1) + [True]
    # The same step is left out everywhere where that is asked for.
    for value in (np.nan, np.inf):
        gradients[1, 0, 0] = value
        make = lambda s: fastopt.Adam(s, lr=0.1, skip_nonfinite=True)  # noqa: E731
        sharded, _ = compare(comm, make, size, np.float32, gradients=gradients[:2])
        assert sharded.last.skipped
        assert sharded.step_count == 1
        sharded.step(gradients[2, comm.rank])
        assert not sharded.last.skipped
    # Squares that overflow float64.
    huge = np.full((1, comm.size, 1024), 2.0**600)
    make = lambda s: fastopt.SGD(s, lr=1.0, clip_norm=1.0)  # noqa: E731
    sharded, plain = compare(comm, make, 1024, np.float64, gradients=huge)
    assert sharded.last == plain.last
    assert sharded.last.norm == 32 * 2.0**600


def _by_trend(hyper, sums, carried):
    """A factor from what sums of squares have been."""
    now, previous = sums
    trend = 0.5 * carried[0] + now + 0.25 * previous
    return (1.0 / (1.0 + trend),), (trend,)


def sums(comm):
    """The sums of transforms are over all ranks; what is carried is saved with the shards."""
    trend = fastopt.Transform(
        scaled,
        sums={"squares": square},
        sums_after={"squares_before": square},
        from_sums=_by_trend,
        carried={"trend": 0.25},
    )
    rate = fastopt.transforms.scale_by_learning_rate(0.5)

    def make(shard):
        clip = fastopt.transforms.clip_by_global_norm(2.0)
        return fastopt.Optimizer(shard, fastopt.chain(clip, rate), skip_nonfinite=True)

    def carrying(shard):
        return fastopt.Optimizer(shard, fastopt.chain(trend, rate), stats=["grad_norm"])

    for size, count in ((1, 1), (1300, 1), (1300, 3)):
        how = {"reduction": "sum", "overlap_chunks": count}  # so that all squares are exact
        compare(comm, make, size, np.float32, **how)
        sharded, plain = compare(comm, carrying, size, np.float32, **how)
        carried = plain.state_dict()["carried"]
        assert sharded.optimizer.state_dict()["carried"] == carried
        summed = plain.state_dict()["sums"]
        assert sharded.optimizer.state_dict()["sums"] == summed
        assert dict(sharded.optimizer.stats) == dict(plain.stats)
    folder = comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None)
    sharded.save(folder)
    other = ShardedOptimizer(comm, start(1300, np.float32), carrying)
    other.load(folder)
    assert other.optimizer.state_dict()["carried"] == carried
    assert other.optimizer.state_dict()["sums"] == summed
    assert other.optimizer.stats is None
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(folder)
    # Norms of an array are of all its shards.
    w, whole = start(1300, np.float64), start(1300, np.float64)
    sharded = ShardedOptimizer(comm, w, lambda s: fastopt.LAMB(s, lr=0.1, weight_decay=0.1))
    plain = fastopt.LAMB(whole, lr=0.1, weight_decay=0.1)
    for by_rank in exact_gradients(1300, np.float64, comm.size):
        sharded.step(by_rank[comm.rank])
        plain.step(by_rank.sum(axis=0), grad_scale=float(comm.size))
        np.testing.assert_allclose(w, whole, rtol=1e-13)


def owned(comm):
    """A rank has its shard and nothing else, until it asks."""
    for size in (0, 1, 700, 1300):
        part = shard_slice(size, comm.rank, comm.size)
        shard, whole = start(size, np.float32)[part].copy(), start(size, np.float32)
        make = lambda s: fastopt.AdamW(s, lr=0.1, clip_norm=1.0)  # noqa: E731
        opt = ShardedOptimizer(comm, shard, make, replicated=False, overlap_chunks=2)
        plain = make(whole)
        assert opt.shard is shard or opt.shard.base is shard
        assert (opt.length, opt.slice) == (size, part)
        for by_rank in exact_gradients(size, np.float32, comm.size):
            opt.step(by_rank[comm.rank])
            plain.step(by_rank.sum(axis=0), grad_scale=float(comm.size))
        assert_same(opt, plain, size)
        out = np.full(size, np.nan, np.float32)
        assert opt.gather(out) is out
        assert_same_bits(out, whole)
        assert_same_bits(opt.gather(), whole)


def options(comm):
    """What acts on arrays beside the shard: copies, bounds, averages, clearing."""
    size = 1103
    w, copy = start(size, np.float32), np.zeros(size, np.float32)
    part = shard_slice(size, comm.rank, comm.size)
    low = np.linspace(-0.5, 0.5, size).astype(np.float32)
    half, whole_half = np.zeros(part.stop - part.start, np.float16), np.zeros(size, np.float16)

    def make(shard, stretch=part, copy_to=half):
        return fastopt.RMSProp(
            shard,
            lr=fastopt.schedules.exponential(0.1, 0.5),
            bounds=(low[stretch], None),
            average_decay=0.75,
            copy_to=copy_to,
            zero_grad=True,
        )

    copy[:] = w
    opt = ShardedOptimizer(comm, w, make, overlap_chunks=3)
    plain = make(copy, slice(None), whole_half)
    for by_rank in exact_gradients(size, np.float32, comm.size):
        mine = by_rank[comm.rank].copy()
        plain.step(by_rank.sum(axis=0), grad_scale=float(comm.size))
        opt.step(mine)
        assert not mine.any()
    assert_same(opt, plain, "options")
    assert_same_bits(opt.gather(of=half), whole_half)
    # A step that is left out leaves its gradient too.
    opt = ShardedOptimizer(
        comm, w, lambda s: fastopt.SGD(s, skip_nonfinite=True, zero_grad=True), overlap_chunks=3
    )
    mine = np.full(size, np.inf if comm.rank == 0 else 1.0, np.float32)
    opt.step(mine)
    assert opt.last.skipped
    assert mine.all()
    chain = fastopt.chain(fastopt.transforms.trace(0.5), fastopt.transforms.scale_by_learning_rate(0.5))
    compare(comm, lambda s: fastopt.Optimizer(s, chain), size, np.float64)


def storage(comm):
    """16-bit numbers, 8-bit blocks and stochastic rounding: the same bits on any number of ranks."""
    size = 1103
    for name in ("float16", "bfloat16"):
        half = floats(name).dtype
        gradients = exact_gradients(size, np.float32, comm.size)
        dithered = {"stochastic_rounding": True, "seed": 5, "clip_norm": 1.0}
        for dtype, more in ((np.dtype(np.float32), {}), (half, {}), (half, dithered)):
            w, other = start(size, dtype), start(size, dtype)
            make = lambda s, more=more: fastopt.RMSProp(s, lr=0.1, **more)  # noqa: E731
            opt = ShardedOptimizer(comm, w, make, reduce_dtype=np.float32, overlap_chunks=2)
            plain = make(other)
            for step in gradients:
                opt.step(step[comm.rank].astype(half))  # they fit in 16 bits, their sums do not
                plain.step(step.sum(axis=0), grad_scale=float(comm.size))
            assert_same(opt, plain, (name, dtype, more))
    # Sums in float16 are MPI's, and are rounded to it each time.
    w, other = np.zeros(size, np.float16), np.zeros(size, np.float16)
    opt = ShardedOptimizer(comm, w, lambda s: fastopt.SGD(s, lr=1.0), reduction="sum")
    opt.step(np.full(size, 0.5, np.float16))
    assert (w == -0.5 * comm.size).all()
    if COMPILED:
        size = 4 * 4096 + 300

        def eight(shard):
            return fastopt.Adam(shard, lr=0.1, state_dtype="8bit", stochastic_rounding=True, seed=3)

        w, other = start(size, np.float32), start(size, np.float32)
        opt, plain = ShardedOptimizer(comm, w, eight, overlap_chunks=3), eight(other)
        for step in exact_gradients(size, np.float32, comm.size):
            opt.step(step[comm.rank])
            plain.step(step.sum(axis=0), grad_scale=float(comm.size))
        assert_same_bits(w, other)
        for name in plain.state:
            whole = opt.gather(of=opt.optimizer.decoded(name))
            assert_same_bits(whole, plain.decoded(name), name)

        def split(shard):
            return fastopt.Adam(shard, lr=1e-4, state_dtype="8bit", master_bits=24)

        half = floats("bfloat16").dtype
        w, other = start(size, half), start(size, half)
        opt = ShardedOptimizer(comm, w, split, reduce_dtype=np.float32, reduction="sum")
        plain = split(other)
        for step in exact_gradients(size, np.float32, comm.size):
            opt.step(step[comm.rank])
            plain.step(step.sum(axis=0))
        assert_same_bits(w.view(np.uint16), other.view(np.uint16))
        assert_same_bits(opt.gather(of=opt.optimizer.decoded_params()), plain.decoded_params())


def shown(comm):
    """What a user sees of an optimizer."""
    w = np.ones(4, np.float32)
    opt = ShardedOptimizer(comm, w, lambda s: fastopt.SGD(s, lr=0.5), reduction="sum")
    part = opt.slice
    head = f"ShardedOptimizer(<rank {comm.rank} of {comm.size}>, {part.start}:{part.stop} of 4 elements"
    assert repr(opt).startswith(f"{head}, replicated, SGD(<{part.stop - part.start} elements>, lr=0.5")
    assert (opt.comm, opt.reduction, opt.replicated) == (comm, "sum", True)
    assert opt.params is w
    assert opt.shard.base is w
    assert opt.last is None


JOBS = (every_case, pieces, shapes, rounding, norms, sums, owned, options, storage, shown)


def all_of_them(comm):
    """One start of Python for all: it takes longer than the jobs."""
    for job in JOBS:
        job(comm)
