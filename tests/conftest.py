import pytest
from tests.forking import fork_server
from tests.ports import free_port
from tests.running import start, start_process

__all__ = ["fork_server", "start", "start_process"]


@pytest.fixture
def unused_tcp_port() -> int:
    """That of pytest-asyncio is from the range of ports that the kernel gives to clients."""
    return free_port()
