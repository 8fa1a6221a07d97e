"""A load that is interrupted anywhere leaves the optimizer as it was, or one that refuses to step."""

import contextlib
import contextvars
import copy
import gc
import pickle

import numpy as np
import pytest

import fastopt
from fastopt.arrays import archive
from fastopt.optimizers import checkpoint
from tests.lines import Lines
from tests.runs import falling, snapshot
from tests.support import compiled_suite_only, parameters_of


def build(lr=0.1):
    params = {"a": np.ones(3), "b": np.ones(2, np.float32)}
    return fastopt.SGD(params, lr=lr, momentum=0.5, clip_norm=10.0, executor="reference")


def gradients(number):
    return {"a": np.full(3, 0.5 + number), "b": np.full(2, 0.25 * number, np.float32)}


@pytest.fixture
def saved(tmp_path):
    """A file, and the optimizer that it holds."""
    opt = build(lr=0.75)
    opt.step({**gradients(0), "b": None})
    for number in range(3):
        opt.step(gradients(number))
    opt.save(tmp_path / "state.npz", params=True)
    return opt, tmp_path / "state.npz"


def from_file(opt, saved, path):
    opt.load(path)


def from_dict(opt, saved, path):
    opt.load_state_dict(saved.state_dict())


def content(opt):
    """What `snapshot` has, of an optimizer that refuses to be read too."""
    leaves = parameters_of(opt).leaves
    return [leaf.tobytes() for leaf in leaves], [a.tobytes() for _, _, a in checkpoint.arrays(opt)]


def assert_refuses(opt, folder):
    previous = content(opt)
    calls = {
        "step": lambda: opt.step(gradients(1)),
        "save": lambda: opt.save(folder / "other.npz"),
        "save with params": lambda: opt.save(folder / "other.npz", params=True),
        "state_dict": opt.state_dict,
        "state": lambda: opt.state,
        "decoded": lambda: opt.decoded("momentum_buffer"),
        "catch_up": opt.catch_up,
        "copy": lambda: copy.copy(opt),
        "deepcopy": lambda: copy.deepcopy(opt),
        "pickle": lambda: pickle.dumps(opt),
    }
    for name, call in calls.items():
        assert refused(call), name
    assert content(opt) == previous
    assert not (folder / "other.npz").exists()


def refused(call):
    try:
        call()
    except RuntimeError as error:
        return "loading was interrupted" in str(error)
    return False


def is_unfinished(opt):
    return refused(opt.catch_up)


@compiled_suite_only  # where no coverage traces lines too
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("load", [from_file, from_dict])
def test_an_exception_at_any_line_of_a_load(load, error, saved, tmp_path):
    donor, path = saved
    opt = build()
    opt.step(gradients(5))
    start = copy.deepcopy(opt)
    load(copy.deepcopy(start), donor, path)  # fills what is cached, so that lines are the same ones
    after_load = copy.deepcopy(start)
    with Lines() as lines:
        load(after_load, donor, path)
    loaded, fresh = snapshot(after_load), snapshot(start)
    seen = {"as it was": 0, "refuses": 0, "loaded": 0}
    # Every line of the end, where arrays are put in place; of the rest a part.
    total = lines.count
    stops = sorted({*range(1, total, 7), *range(total - 150, total + 1)})
    for stop in stops:
        opt = copy.deepcopy(start)
        context = contextvars.copy_context()  # which values of schedules are remembered in
        with contextlib.suppress(error), Lines(stop, error(f"at line {stop}")) as lines:
            context.run(load, opt, donor, path)
        # How many lines the search for shared memory takes depends on the addresses of arrays.
        assert lines.place or stop > total - 50
        if is_unfinished(opt):
            seen["refuses"] += 1
            if seen["refuses"] % 10 == 1:
                assert_refuses(opt, tmp_path)
        else:
            now = snapshot(opt)
            assert now in (fresh, loaded), f"line {stop} of {total}"
            seen["as it was" if now == fresh else "loaded"] += 1
            opt.step(gradients(6))
            assert opt.step_count == (2 if now == fresh else 5)
        load(opt, donor, path)
        if load is from_file or now_is_start_params(opt, start):
            assert snapshot(opt) == loaded
        opt.step(gradients(6))
    gc.collect()  # files that were interrupted as they were opened warn here, not in another test
    assert seen["as it was"] > 30, seen
    assert seen["refuses"] > 15, seen


def now_is_start_params(opt, start):
    """Whether the parameters, which a state dict does not hold, were not stepped meanwhile."""
    return all(
        leaf.tobytes() == other.tobytes()
        for leaf, other in zip(parameters_of(opt).leaves, parameters_of(start).leaves, strict=True)
    )


def test_settings_that_are_refused_leave_an_unfinished_optimizer_unfinished(
    saved, tmp_path, monkeypatch
):
    """And a whole one whole."""
    donor, path = saved
    opt = build()
    with monkeypatch.context() as patch:
        patch.setattr(archive.Archive, "read_into", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opt.load(path)
    assert_refuses(opt, tmp_path)
    bad = copy.deepcopy(donor.state_dict())
    bad["settings"]["common"]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        opt.load_state_dict(bad)
    assert_refuses(opt, tmp_path)
    with pytest.raises(FileNotFoundError):
        opt.load(tmp_path / "none.npz")
    assert_refuses(opt, tmp_path)
    opt.load(path)
    assert snapshot(opt) == snapshot(donor)

    whole = build()
    previous = snapshot(whole)
    with pytest.raises(ValueError, match="lr"):
        whole.load_state_dict(bad)
    assert snapshot(whole) == previous
    whole.step(gradients(1))


def test_a_file_that_is_damaged_between_its_two_readings(tmp_path, monkeypatch):
    """The second reading compares checksums too."""
    path = tmp_path / "state.npz"
    opt = fastopt.SGD(np.ones(100_000), momentum=0.5, executor="reference")  # beyond what is buffered
    opt.save(path)
    start_loading = checkpoint.start_loading

    def damage(*arguments):
        start_loading(*arguments)
        with open(path, "r+b") as file:
            file.seek(400_000)
            file.write(b"damaged")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "start_loading", damage)
        with pytest.raises(ValueError, match="damaged"):
            opt.load(path)
    with pytest.raises(RuntimeError, match="loading was interrupted"):
        opt.step(np.ones(100_000))


def test_settings_can_be_read_and_assigned_meanwhile(saved, monkeypatch):
    _, path = saved
    opt = build(lr=falling)
    with monkeypatch.context() as patch:
        patch.setattr(archive.Archive, "read_into", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opt.load(path)
    opt.momentum = 0.25
    assert (opt.momentum, opt.step_count) == (0.25, 4)
    assert "SGD" in repr(opt)
    opt.load(path)
    assert (opt.momentum, opt.lr) == (0.5, falling)
    opt.step(gradients(1))


def test_parameters_that_became_read_only(saved):
    """Found before anything is put in place."""
    donor, path = saved
    params = {"a": np.ones(3), "b": np.ones(2, np.float32)}
    opt = fastopt.SGD(params, lr=0.1, momentum=0.5, clip_norm=10.0, executor="reference")
    previous = snapshot(opt)
    params["b"].flags.writeable = False
    with pytest.raises(ValueError, match="'params/1' must be writeable"):
        opt.load(path)
    assert snapshot(opt) == previous
    opt.load_state_dict(donor.state_dict())  # which holds no parameters
    params["b"].flags.writeable = True
    opt.load(path)
    assert snapshot(opt) == snapshot(donor)
