"""A step with gradients that are known: checked, launched and counted in one compiled call."""

import gc
import itertools
import weakref
from functools import partial

import numba
import numpy as np
import pytest

import fastopt
from fastopt import chain
from fastopt import transforms as t
from fastopt.codecs.base import BLOCK
from fastopt.executors import launching
from fastopt.executors.cpu.columns import COUNT, GRAD
from fastopt.executors.exchange import ID
from fastopt.steps.stepper import Stepper, stepper_of
from tests.device import EMULATED, misaligned, needs_driver, needs_emulator, to_device, to_host
from tests.lines import interrupted_at
from tests.test_sums_after import late

pytestmark = needs_driver


@pytest.fixture
def opt():
    w = to_device(np.ones(50, np.float32))
    return fastopt.RMSProp(w, lr=0.1)


def expected(steps):
    w, g = np.ones(50, np.float32), np.full(50, 2.0, np.float32)
    twin = fastopt.RMSProp(w, lr=0.1)
    for _ in range(steps):
        twin.step(g)
    return w


def known(opt):
    """A gradient that the optimizer has seen, and no other way to step than the compiled one."""
    g = to_device(np.full(50, 2.0, np.float32))
    opt.step(g)
    return g


def alone(opt, monkeypatch):
    for name in ("begin", "run", "end"):
        monkeypatch.setattr(stepper_of(opt)(), name, lambda *_, name=name: pytest.fail(name))


def test_the_same_gradient_again(opt, monkeypatch):
    g = known(opt)
    alone(opt, monkeypatch)
    for _ in range(2):
        opt.step(g)
    assert opt.step_count == 3
    np.testing.assert_array_equal(to_host(opt.params), expected(3))


def test_other_arrays_in_each_step(opt, monkeypatch):
    """Compiled code binds each of them, also those that an earlier step had."""
    grads = [to_device(np.full(50, 2.0, np.float32)) for _ in range(3)]
    opt.step(grads[0])
    alone(opt, monkeypatch)
    for i in (1, 1, 0, 2, 0):
        opt.step(grads[i])
    opt.step(to_device(np.full(50, 2.0, np.float32)))
    monkeypatch.undo()
    opt.step(grads[0], grad_scale=1)  # by way of Python, with one that was bound in between
    np.testing.assert_array_equal(to_host(opt.params), expected(8))
    opt.step(grads[1])
    for refused in (opt.params, to_device(np.zeros(51, np.float32))):
        with pytest.raises(ValueError, match="grads"):
            opt.step(refused)
    opt.step(misaligned(np.full(50, 2.0, np.float32)))
    assert opt.step_count == 10
    np.testing.assert_array_equal(to_host(opt.params), expected(10))


def test_settings_and_schedules(monkeypatch):
    """What depends on the step is written before the call, and what was assigned holds."""
    w, twin = to_device(np.ones(50, np.float32)), np.ones(50, np.float32)
    on_device, here = (fastopt.Adam(p, lr=lambda t: 0.1 / (1 + t)) for p in (w, twin))
    g = known(on_device)
    here.step(np.full(50, 2.0, np.float32))
    for step in range(4):
        if step == 2:
            on_device.weight_decay = here.weight_decay = 0.0
            on_device.eps = here.eps = 1e-3
        on_device.step(g)
        here.step(np.full(50, 2.0, np.float32))
    np.testing.assert_array_equal(to_host(w), twin)


def test_many_arrays(monkeypatch):
    params = [to_device(np.ones(n, np.float32)) for n in (3, 50, 0)]
    opt = fastopt.RMSProp(params, lr=0.1)
    grads = [to_device(np.full(n, 2.0, np.float32)) for n in (3, 50, 0)]
    opt.step(grads)
    alone(opt, monkeypatch)
    opt.step(list(grads))
    assert opt.step_count == 2
    np.testing.assert_array_equal(to_host(params[1]), expected(2))
    with pytest.raises(ValueError, match="grads"):
        opt.step(grads[:2])
    assert opt.step_count == 2


@pytest.mark.parametrize("grad_scale", [2.0, 1])
def test_another_scale(opt, grad_scale):
    g = known(opt)
    opt.step(to_device(np.full(50, 2.0 * grad_scale, np.float32)), grad_scale=grad_scale)
    opt.step(g)
    np.testing.assert_array_equal(to_host(opt.params), expected(3))


def test_another_context(opt):
    """Functions belong to a context: in another one Python launches."""
    g = known(opt)
    driver = stepper_of(opt)().driver
    driver[launching.CONTEXT] += 8
    try:
        opt.step(g)
    finally:
        driver[launching.CONTEXT] -= 8
    assert opt.step_count == 2
    np.testing.assert_array_equal(to_host(opt.params), expected(2))


@needs_emulator  # whose device has not that many threads in a block
def test_a_launch_that_fails_is_not_counted(opt):
    g = known(opt)
    launches = stepper_of(opt)().launches.table
    launches[0, launching.THREADS] += 4096
    with pytest.raises(RuntimeError, match="cuLaunchKernel failed"):
        opt.step(g)
    assert opt.step_count == 1
    launches[0, launching.THREADS] -= 4096
    opt.step(g)
    np.testing.assert_array_equal(to_host(opt.params), expected(2))


@pytest.mark.parametrize("name", ["COPY", "WAIT", "RECORD"])
def test_a_copy_that_fails_is_made_again(name):
    """Of the table with the addresses of gradients: the next step must not go by the old ones."""
    params = [to_device(np.zeros(n, np.float32)) for n in (3, 50)]
    opt = fastopt.SGD(params, lr=1.0)
    grads = [[to_device(np.full(n, g, np.float32)) for n in (3, 50)] for g in (1.0, 10.0)]
    for _ in range(2):
        opt.step(grads[0])
    driver, which = stepper_of(opt)().driver, getattr(launching, name)
    fails = numba.cfunc("int32(int64, int64, int64, int64)")(lambda a, b, c, d: 900)
    works = driver[which]
    driver[which] = fails.address
    try:
        with pytest.raises(RuntimeError, match=r"cuMemcpyHtoDAsync .* CUDA_ERROR_STREAM_CAPTURE"):
            opt.step(grads[1])
    finally:
        driver[which] = works
    assert opt.step_count == 2
    opt.step(grads[1])
    for param in params:
        np.testing.assert_array_equal(to_host(param), -12.0)


def test_an_interrupt_while_gradients_are_bound(monkeypatch):
    """The launches of some are not those of all."""
    from fastopt.executors.cuda.one_array import OneArray

    params = [to_device(np.ones(50, np.float32)) for _ in range(2)]
    opt = fastopt.RMSProp([{"params": [p]} for p in params], lr=0.1)
    grads = [[to_device(np.full(50, 2.0, np.float32))] for _ in range(2)]
    for step_grads in (grads, [[None], grads[1]]):
        opt.step(step_grads)

    def interrupt(batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OneArray, "launch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opt.step(grads)
    opt.step(grads)
    assert opt.step_count == 3
    np.testing.assert_array_equal(to_host(params[0]), expected(2))
    np.testing.assert_array_equal(to_host(params[1]), expected(3))


@pytest.fixture
def _older_objects_left_alone():
    """By the collector of garbage, which takes most of the time of a test that calls it often."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_older_objects_left_alone")
@pytest.mark.parametrize("method", ["take", "note_alike"])
def test_an_interrupt_anywhere_leaves_no_number_of_an_object_that_is_not_held(opt, method):
    memory = [to_device(np.full(50, value, np.float32)) for value in (2.0, 3.0)]
    grads = [memory[0][:]]
    seen = [weakref.ref(grads[0])]
    opt.step(grads.pop())
    stepper = stepper_of(opt)()
    gradients, twin = stepper.gradients, fastopt.RMSProp(np.ones(50, np.float32), lr=0.1)
    twin.step(np.full(50, 2.0, np.float32))
    function = getattr(type(gradients), method)
    step = partial(Stepper.step, stepper) if method == "take" else stepper.step
    for line in range(1, 99):
        grads.append(memory[line % 2][:])
        seen.append(weakref.ref(grads[0]))
        if not interrupted_at(line, lambda: step(grads.pop(), 1.0, None), functions=[function]):
            twin.step(np.full(50, 2.0 + line % 2, np.float32))
            assert line > 9
            break
        gc.collect()
        held = {id(ref()) for ref in seen if ref() is not None}
        expected = gradients.expected
        assert expected is None or set(expected.table[:, ID].tolist()) <= {0, *held}
    else:
        pytest.fail("the last line was not reached")
    for value in (3.0, 2.0, 2.0):
        opt.step(memory[value == 3.0])
        twin.step(np.full(50, value, np.float32))
    np.testing.assert_array_equal(to_host(opt.params), twin.params)


def _address(array):
    return array.__cuda_array_interface__["data"][0]


@pytest.mark.parametrize("without", [(), (0,)], ids=["all", "some"])
def test_an_interrupt_between_gradients_that_compiled_code_notes(without):
    """As torch's are. What was bound before the interrupt does not count as bound any more."""
    from fastopt.steps.cuda_launches import StepLaunches
    from fastopt.steps.device_gradients import DeviceGradients

    sizes, reached = (40, 50), False
    methods = "take", "_take_anew", "_take_alike", "_bind", "_note_which"
    functions = [getattr(DeviceGradients, name) for name in methods] + [StepLaunches.bind]
    for line in range(1, 99):
        params = [to_device(np.zeros(n, np.float32)) for n in sizes]
        opt = fastopt.SGD(params, lr=1.0)
        stepper, noted = stepper_of(opt)(), [to_device(np.full(n, 1.0, np.float32)) for n in sizes]
        others = [to_device(np.full(n, 99.0, np.float32)) for n in sizes]
        grads = [None if i in without else g for i, g in enumerate(others)]
        stepper.gradients.noted = np.zeros(2, np.int64)

        def step(stepper=stepper, noted=noted):
            stepper.rows[:, GRAD], stepper.rows[:, COUNT] = list(map(_address, noted)), sizes
            stepper.gradients.is_noted = True
            stepper.step_also([], 1.0, [])

        step()
        other = partial(stepper.step, grads, 1.0, None)
        if not interrupted_at(line, other, functions=functions):
            reached = True
            break
        step()
        assert stepper.count == 2
        assert stepper.lags == [0, 0]
        for param in params:
            np.testing.assert_array_equal(to_host(param), -2.0)
    assert reached
    assert line > 20


def test_an_interrupt_in_a_part_of_a_step():
    """The launches of whole steps stay as they are."""
    from fastopt.executors.cuda.one_array import OneArray

    g = to_device(np.ones(3 * BLOCK, np.float32))
    for line in range(1, 99):
        w = to_device(np.zeros(3 * BLOCK, np.float32))
        stepper = stepper_of(fastopt.SGD(w, lr=1.0))()
        stepper.step(g, 1.0, None)
        stepper.begin(g, 1.0)
        assert stepper.decide()

        def part(stepper=stepper):
            stepper.run(BLOCK, 2 * BLOCK)

        interrupted = interrupted_at(line, part, functions=[OneArray.start_part])
        previous = to_host(w)
        stepper.step(g, 1.0, None)
        np.testing.assert_array_equal(to_host(w), previous - 1.0)
        if not interrupted:
            assert line > 8
            return
    pytest.fail("the last line was not reached")


def test_gradients_that_are_left_out_and_come_back(opt):
    params = [to_device(np.ones(n, np.float32)) for n in (3, 50)]
    opt = fastopt.RMSProp(params, lr=0.1)
    grads = [to_device(np.full(n, 2.0, np.float32)) for n in (3, 50)]
    for step_grads in (grads, grads, [None, grads[1]], [None, grads[1]], grads, grads):
        opt.step(step_grads)
    assert opt.step_count == 6
    np.testing.assert_array_equal(to_host(params[1]), expected(6))
    np.testing.assert_array_equal(to_host(params[0]), expected(4)[:3])


def _objects():
    if EMULATED:
        import gpu_emulator

        gpu_emulator.launches.clear()
    gc.collect()
    return len(gc.get_objects())


def _aligned_and_not():
    """Arrays whose gradients are aligned and not, in turns."""
    opt = fastopt.SGD([to_device(np.ones(5000, np.float32)) for _ in range(2)], lr=0.1)
    places = itertools.cycle([to_device, misaligned])
    return lambda: opt.step([place(np.ones(5000, np.float32)) for place in [next(places)] * 2])


def _left_out():
    """Arrays that add up sums, and have no gradient in turns."""
    parts = chain(late(), t.scale_by_learning_rate(0.1))
    opt = fastopt.Optimizer([to_device(np.ones(2, np.float32)) for _ in range(2)], parts)
    g, turns = to_device(np.ones(2, np.float32)), itertools.cycle([(1, 0), (0, 1)])
    return lambda: opt.step([g if has else None for has in next(turns)])


@pytest.mark.usefixtures("_older_objects_left_alone")
@pytest.mark.parametrize("make", [_aligned_and_not, _left_out])
def test_nothing_is_kept_of_steps_that_are_over(make):
    step, counts = make(), []
    for _ in range(5):
        for _ in range(16):
            step()
        counts.append(_objects())
    # What each step kept would show in every round; buffers are made as they are needed.
    assert min(later - earlier for earlier, later in itertools.pairwise(counts)) < 16


def test_no_interrupt_comes_between_a_copy_and_its_event(monkeypatch):
    """Memory that is still copied would count as free."""
    from fastopt.executors.cuda import device

    pinned, target, kept, calls = device.Pinned(2), device.allocate((2,), np.int64), [], []
    pinned.event()

    def noted(name, function):
        def call(*arguments):
            calls.append(name)
            return function(*arguments)

        return call

    names = "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventRecord"
    for name in names:
        monkeypatch.setattr(device.binding, name, noted(name, getattr(device.binding, name)))
    actions = {
        names[0]: lambda: pinned.send(target.address, 2, 0),
        names[1]: lambda: pinned.receive(target.address, 0, kept),
    }
    for name, action in actions.items():
        line = 1
        while interrupted_at(line, action):
            assert calls in ([], [name, "cuEventRecord"])
            assert len(kept) == (name == names[1] and bool(calls))
            calls.clear()
            kept.clear()
            line += 1
        assert line > 3
        assert calls == [name, "cuEventRecord"]
        assert kept == [pinned] * (name == names[1])
        calls.clear()
