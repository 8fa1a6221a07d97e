"""Settings for all tests."""

import os

import pytest

# Threads of Numba are counted when it is imported: enough for the tests with 8 of them on any machine.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")


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
