"""Settings for all tests."""

import os

import pytest

# Threads of Numba are counted when it is imported: enough for the tests with 8 of them on any machine.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")


def pytest_addoption(parser):
    parser.addoption(
        "--share", help="'2/3': of the cases of each test every third, from the second on; one at least"
    )


def pytest_collection_modifyitems(config, items):
    """Every test runs, whose cases are many with fewer of them: for other versions of what is below."""
    if config.option.share is None:
        return
    first, step = map(int, config.option.share.split("/"))
    cases = {}
    for item in items:
        cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    chosen = {item for of_test in cases.values() for item in of_test[first - 1 :: step] or of_test[:1]}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory):
    """Leave the user's cache alone: a new one, or that which the suites of `make` share."""
    with pytest.MonkeyPatch.context() as patch:
        if "FASTOPT_CACHE_DIR" not in os.environ:
            patch.setenv("FASTOPT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_thread_settings(monkeypatch):
    """What a test says with `set_num_threads` ends with it."""
    monkeypatch.setattr("fastopt.executors.threads._chosen", None)
