"""What ranks run for `test_device`: arrays on a CUDA device beside the plain optimizer in memory."""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
from numba import cuda

import fastopt
from fastopt.interop.mpi import ShardedOptimizer, device_exchange, load_checkpoint, shard_slice
from tests import cases
from tests.device import EMULATED, to_device, to_host
from tests.mpi.error_jobs import assert_all_raise, assert_all_raise_alike
from tests.mpi.step_jobs import exact_gradients, start
from tests.support import assert_same_bits

CASES = [
    cases.BY_NAME["rmsprop-all_assigned"],
    cases.BY_NAME["adam-everything-decay"],
]


def ways(comm):
    """Those that this MPI can: on an emulated GPU it is memory of the host that it is given."""
    return ("direct", "host") if EMULATED or device_exchange.reads_devices(comm) else ("host",)


def assert_same(sharded, plain, what):
    """Parameters and states, to the last bit, on every rank."""
    assert sharded.step_count == plain.step_count, what
    flat = plain.params.reshape(-1)
    if sharded.replicated:
        assert_same_bits(to_host(sharded.params).reshape(-1), flat, what)
    assert_same_bits(to_host(sharded.shard), flat[sharded.slice], what)
    assert sharded.optimizer.state.keys() == plain.state.keys()
    for name, state in plain.state.items():
        whole = sharded.gather(of=sharded.optimizer.state[name])
        assert_same_bits(to_host(whole), state.reshape(-1), name)


def compare(comm, make, size, dtype=np.float32, assigned=None, gradients=None, **options):
    """Step both ways with sums that are exact; both optimizers."""
    w = start(size, dtype)
    sharded, plain = ShardedOptimizer(comm, to_device(w), make, **options), make(w)
    if gradients is None:
        gradients = exact_gradients(size, dtype, comm.size)
    for number, by_rank in enumerate(gradients):
        for name, value in (assigned or {}).get(number, {}).items():
            setattr(sharded.optimizer, name, value)
            setattr(plain, name, value)
        sharded.step(to_device(by_rank[comm.rank]))
        with np.errstate(all="ignore"):
            plain.step(by_rank.sum(axis=0, dtype=dtype), grad_scale=float(comm.size))
    assert_same(sharded, plain, f"{make} {size} {dtype} {options}")
    return sharded, plain


def steps(comm):
    """Every way and size: fewer elements than ranks, no wide accesses at the end, several pieces."""
    for way in ways(comm):
        for case in CASES:
            for size in (1, 1103):
                compare(comm, case.make, size, assigned=case.assigned, device_exchange=way)
        for size in (0, 3, 257, 1283):
            compare(comm, CASES[0].make, size, device_exchange=way)
        for dtype in (np.float16, np.float64):
            compare(comm, CASES[0].make, 513, dtype, device_exchange=way)
        compare(comm, CASES[1].make, 1283, overlap_chunks=2, device_exchange=way)
        # What was stepped is not stepped or counted again: of a rank without elements, and of one that
        # steps its shard at once because of sums.
        compare(comm, CASES[0].make, 100, overlap_chunks=3, device_exchange=way)
        make = lambda s: fastopt.SGD(s, lr=0.5, stats=("grad_norm",))  # noqa: E731
        compare(comm, make, 2000, overlap_chunks=3, device_exchange=way)


def norms(comm):
    """The limit and the look for what is not finite see all ranks."""
    for way in ways(comm):
        for limit in (1e-3, 1e9):
            make = lambda s, limit=limit: fastopt.SGD(s, lr=0.1, momentum=0.9, clip_norm=limit)  # noqa: E731
            for size in (1, 1300):
                sharded, plain = compare(comm, make, size, device_exchange=way)
                assert sharded.last == plain.last
        size = 1030
        gradients = exact_gradients(size, np.float32, comm.size)
        for value in (np.nan, np.inf):
            gradients[1, 0, 0] = value
            make = lambda s: fastopt.Adam(s, lr=lambda t: 0.1 / (1 + t), skip_nonfinite=True)  # noqa: E731
            sharded, plain = compare(
                comm, make, size, gradients=gradients[:2], device_exchange=way, overlap_chunks=2
            )
            assert sharded.last.skipped
            assert np.isnan(sharded.last.norm)
            assert sharded.step_count == 1
            sharded.step(to_device(gradients[2, comm.rank]))
            plain.step(gradients[2].sum(axis=0), grad_scale=float(comm.size))
            assert_same(sharded, plain, "after a step that was left out")
            assert sharded.last == plain.last
        make = lambda s: fastopt.SGD(s, lr=0.1, clip_norm=0.5)  # noqa: E731
        sharded = ShardedOptimizer(comm, to_device(start(size, np.float32)), make, device_exchange=way)
        sharded.step(to_device(gradients[1, comm.rank]))  # a limit alone lets them through
        assert np.isnan(sharded.last.norm)
        assert not sharded.last.skipped
        huge = np.full((1, comm.size, 1024), 2.0**600)
        make = lambda s: fastopt.SGD(s, lr=1.0, clip_norm=1.0)  # noqa: E731
        sharded, plain = compare(comm, make, 1024, np.float64, gradients=huge, device_exchange=way)
        assert sharded.last.norm == plain.last.norm == 32 * 2.0**600


def storage(comm):
    """Gradients of 16 bits, and stochastic rounding, which depends on an element's index."""
    size = 1103
    for way in ways(comm):
        for count in (1, 2):
            dithered = {"stochastic_rounding": True, "seed": 5}
            for dtype, more in ((np.float32, {}), (np.float16, dithered)):
                make = lambda s, more=more: fastopt.RMSProp(s, lr=0.1, **more)  # noqa: E731
                w = start(size, dtype)
                opt = ShardedOptimizer(
                    comm,
                    to_device(w),
                    make,
                    reduce_dtype=np.float32,
                    overlap_chunks=count,
                    device_exchange=way,
                )
                plain = make(w)
                for step in exact_gradients(size, np.float32, comm.size):
                    opt.step(to_device(step[comm.rank].astype(np.float16)))
                    plain.step(step.sum(axis=0), grad_scale=float(comm.size))
                assert_same(opt, plain, (dtype, count))


def blocks(comm, folder):
    """States of 8 bits, in several pieces, saved and loaded."""
    size = comm.size * 4096 + 300
    make = lambda s: fastopt.Adam(s, lr=0.1, state_dtype="8bit", stochastic_rounding=True)  # noqa: E731
    w, way = start(size, np.float32), {"device_exchange": ways(comm)[0], "overlap_chunks": 2}
    opt, plain = ShardedOptimizer(comm, to_device(w), make, **way), make(w)
    for step in exact_gradients(size, np.float32, comm.size, steps=2):
        opt.step(to_device(step[comm.rank]))
        plain.step(step.sum(axis=0), grad_scale=float(comm.size))
    opt.save(folder)
    other = ShardedOptimizer(comm, to_device(np.zeros(size, np.float32)), make, **way)
    other.load(folder)
    for trained in (opt, other):
        assert_same_bits(to_host(trained.params), plain.params)
        for name in plain.state:
            state = trained.optimizer.decoded(name).reshape(-1)
            assert_same_bits(state, plain.decoded(name)[trained.slice], name)


def options(comm):
    """Shapes, owned shards, clearing, streams, what is gathered and shown."""
    for way in ways(comm):
        w = np.arange(12.0).reshape(3, 4) if comm.rank == 0 else np.full((3, 4), np.nan)
        on_it = to_device(w)
        opt = ShardedOptimizer(
            comm, on_it, lambda s: fastopt.SGD(s, lr=0.5, zero_grad=True), device_exchange=way
        )
        assert_same_bits(to_host(on_it), np.arange(12.0).reshape(3, 4))
        g = to_device(np.full((3, 4), 2.0 * comm.rank))
        stream = cuda.stream()
        opt.step(g, stream=stream)
        assert_same_bits(to_host(on_it), np.arange(12.0).reshape(3, 4) - 0.5 * (comm.size - 1.0))
        assert not to_host(g).any()
        assert opt.params is on_it
        for size in (0, 1, 1300):
            part = shard_slice(size, comm.rank, comm.size)
            whole = start(size, np.float32)
            make = lambda s: fastopt.AdamW(s, lr=0.1, clip_norm=1.0)  # noqa: E731
            opt = ShardedOptimizer(
                comm, to_device(whole[part].copy()), make, replicated=False, device_exchange=way
            )
            plain = make(whole)
            for by_rank in exact_gradients(size, np.float32, comm.size):
                opt.step(to_device(by_rank[comm.rank]))
                plain.step(by_rank.sum(axis=0), grad_scale=float(comm.size))
            assert_same(opt, plain, size)
            out = to_device(np.full(size, np.nan, np.float32))
            assert opt.gather(out) is out
            assert_same_bits(to_host(out), whole)
            assert repr(opt).startswith("ShardedOptimizer(<rank ")


def order(comm):
    """MPI knows no streams: what it reads was waited for, and it is given the device's own memory."""
    if comm.size == 1 or "direct" not in ways(comm):
        return
    from fastopt.executors.cuda import device, programs
    from fastopt.interop.mpi.exchange import Exchange

    seen = []

    def noting(kind, name, what):
        function = getattr(kind, name)

        def noted(*arguments):
            seen.append(what(*arguments))
            return function(*arguments)

        return mock.patch.object(kind, name, noted)

    w, g = (to_device(np.ones(1300, np.float32)) for _ in range(2))
    opt = ShardedOptimizer(
        comm, w, lambda s: fastopt.SGD(s, lr=0.5), overlap_chunks=2, device_exchange="direct"
    )
    stream = cuda.stream()
    with (
        noting(device, "synchronize", lambda stream=None: int(stream)),
        noting(programs.Program, "launch", lambda program, blocks, threads, stream, pointers: "launch"),
        noting(Exchange, "_reduce", lambda *_: "reduce"),
        noting(device_exchange.DirectExchange, "_fill", lambda *_: "pack"),
        noting(
            device_exchange.DirectExchange, "_buffer", lambda exchange, array: ("buffer", array.address)
        ),
    ):
        opt.step(g, stream=stream)
    handle = int(stream.handle)
    kinds = [note if isinstance(note, (str, int)) else note[0] for note in seen]
    launches = [note for note in kinds if note in ("launch", "reduce", "pack", handle)]
    # Wait for the gradient; two chunks are packed, a launch for each rank, and waited for.
    packed = ["reduce", "pack", "launch", "launch", handle]
    assert launches == [handle, *packed, *packed, "launch", handle, "launch", handle], launches
    first = w.__cuda_array_interface__["data"][0]
    assert ("buffer", first) in seen
    # In one piece nothing is packed: MPI reads the gradient where it is.
    seen.clear()
    opt = ShardedOptimizer(comm, w, lambda s: fastopt.SGD(s), device_exchange="direct")
    with noting(device_exchange.DirectExchange, "_buffer", lambda exchange, array: array.address):
        opt.step(g)
    assert seen[0] == g.__cuda_array_interface__["data"][0]


def adam(params):
    return fastopt.Adam(params, lr=fastopt.schedules.exponential(0.1, 0.5), amsgrad=True)


def checkpoints(comm, folder):
    """Saved on a device, resumed there and in memory; and the reverse."""
    size = 1100
    gradients = exact_gradients(size, np.float32, comm.size, steps=4)
    plain = adam(start(size, np.float32))
    for by_rank in gradients:
        plain.step(by_rank.sum(axis=0), grad_scale=float(comm.size))
    places = {"device": to_device, "memory": lambda array: array}
    for first, second in (("device", "device"), ("device", "memory"), ("memory", "device")):
        path = f"{folder}/{first}-{second}"

        def build(place):
            more = {"device_exchange": ways(comm)[0]} if place == "device" else {}
            w = places[place](start(size, np.float32))
            return ShardedOptimizer(comm, w, adam, **more)

        def train(opt, place, steps):
            for number in steps:
                opt.step(places[place](gradients[number, comm.rank]))

        opt = build(first)
        train(opt, first, range(2))
        opt.save(path)
        other = build(second)
        train(other, second, range(1))
        other.load(path)
        train(other, second, range(2, 4))
        assert other.step_count == 4
        flat = other.params if second == "memory" else to_host(other.params)
        assert_same_bits(flat, plain.params)
        # In one process, without MPI.
        alone = adam(to_device(np.zeros(size, np.float32)))
        load_checkpoint(path, alone)
        assert alone.step_count == 2
        opt.load(path)
        flat = opt.params if first == "memory" else to_host(opt.params)
        assert_same_bits(to_host(alone.params), flat)


def errors(comm):
    """What is not acceptable is an error on all ranks, before anything is sent."""
    size = 600
    w, g = to_device(np.ones(size, np.float32)), to_device(np.ones(size, np.float32))
    make = lambda s: fastopt.SGD(s, lr=0.1)  # noqa: E731

    def refused(kind, words, params=w, make=make, **options):
        assert_all_raise_alike(kind, words, lambda: ShardedOptimizer(comm, params, make, **options))

    with mock.patch.object(device_exchange, "reads_devices", return_value=False):
        if comm.size > 1:
            refused(ValueError, ["CUDA-aware", "device_exchange='host'"])
        else:
            opt = ShardedOptimizer(comm, w, make)
            opt.step(g)
            assert to_host(opt.gather()).tolist() == to_host(w).tolist()
    with mock.patch.object(device_exchange, "reads_devices", return_value=True):
        ShardedOptimizer(comm, to_device(np.zeros(0, np.float32)), make)
    assert device_exchange.reads_devices(comm) in (True, False)
    refused(
        ValueError, ["device_exchange", "'auto', 'direct' or 'host'", "'fast'"], device_exchange="fast"
    )
    refused(ValueError, ["device_exchange", "in memory"], np.ones(3), device_exchange="host")
    way = {"device_exchange": ways(comm)[0]}
    refused(ValueError, ["capturable"], make=lambda s: fastopt.SGD(s, capturable=True), **way)
    mixed = w if comm.rank == 0 else np.ones(size, np.float32)
    if comm.size > 1:
        refused(ValueError, ["place", "a device", "memory"], mixed)
    opt = ShardedOptimizer(comm, to_device(np.ones(size, np.float32)), make, **way)
    previous = to_host(opt.params).tobytes()
    bad = [
        (np.ones(size, np.float32), ValueError, ["local_grad", "in memory", "on CUDA device 0"]),
        (to_device(np.ones(size + 1, np.float32)), ValueError, ["local_grad", "(600,)", "(601,)"]),
        (to_device(np.ones(size)), TypeError, ["local_grad", "float32", "float64"]),
        (opt.params, ValueError, ["local_grad", "share memory", "params"]),
        (None, TypeError, ["local_grad", "NoneType"]),
    ]
    for number, (grad, kind, words) in enumerate(bad):
        culprit = number % comm.size
        mine = grad if comm.rank == culprit else g
        assert_all_raise(comm, culprit, kind, words, lambda mine=mine: opt.step(mine))
    culprit = comm.size - 1
    mine = "first" if comm.rank == culprit else None
    assert_all_raise(comm, culprit, TypeError, ["stream must be"], lambda: opt.step(g, stream=mine))
    wrong = np.ones(size, np.float32)
    mine = wrong if comm.rank == culprit else None
    assert_all_raise(comm, culprit, ValueError, ["out", "in memory"], lambda: opt.gather(mine))
    host = ShardedOptimizer(comm, np.ones(size, np.float32), make)
    assert_all_raise_alike(ValueError, ["stream must be None"], lambda: host.step(wrong * 2, stream=0))
    assert to_host(opt.params).tobytes() == previous
    opt.step(g)
    assert opt.step_count == 1


def all_of_them(comm, folder):
    """One start of Python for all."""
    Path(folder).mkdir(exist_ok=True)
    for job in (steps, norms, storage, options, order, errors):
        job(comm)
    checkpoints(comm, folder)
    blocks(comm, f"{folder}/blocks")
    sys.stdout.flush()
