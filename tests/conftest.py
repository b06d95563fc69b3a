import gc
from collections.abc import Iterator

import pytest
from tests.forking import fork_server
from tests.ports import free_port
from tests.running import start, start_process

__all__ = ["fork_server", "start", "start_process"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays: the garbage collector need not look at it, now or between the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def unused_tcp_port() -> int:
    """That of pytest-asyncio is from the range of ports that the kernel gives to clients."""
    return free_port()
