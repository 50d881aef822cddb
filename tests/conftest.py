"""The fixtures of shared_fixtures.py, in the processes that run tests."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Under xdist the main process runs no test, and need not wait for the import of torch.
    if not config.getoption("numprocesses", default=None):
        config.pluginmanager.import_plugin("shared_fixtures")
