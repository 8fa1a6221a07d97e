"""Settings for all tests."""

import os

import pytest

# Threads of Numba are counted when it is imported: enough for the tests with 8 of them on any machine.
os.environ.setdefault("NUMBA_NUM_THREADS", "8")


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory):
    """Start with a cold cache, and leave the user's alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTOPT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_thread_settings(monkeypatch):
    """What a test says with `set_num_threads` ends with it."""
    monkeypatch.setattr("fastopt.executors.threads._chosen", None)
