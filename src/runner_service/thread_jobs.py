"""Gives the results of other threads to the event loop. A ThreadPoolExecutor takes twice as long for a round trip."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


def perform(job: Callable[[], T], done: "asyncio.Future[T]") -> None:
    """Runs `job` in this thread, and gives what it returns or raises to a future of the loop's."""
    try:
        outcome: tuple[Callable[..., None], object] = _succeed, job()
    except BaseException as error:  # noqa: BLE001  # raised where the future is awaited
        outcome = _fail, error
    resolve, value = outcome
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        done.get_loop().call_soon_threadsafe(resolve, done, value)


def _succeed(done: "asyncio.Future[Any]", result: object) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: "asyncio.Future[Any]", error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
