import asyncio
from collections.abc import Callable, Mapping

import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Names lead where a test says: uvloop's look-up cannot be replaced."""
    return {"asyncio": asyncio.new_event_loop}
