"""Follows what other replicas commit: one connection subscribes for all watchers of this replica."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio.client import PubSub

from runner_service.states import is_final
from runner_service.storage.event_log import LogError, Notify
from runner_service.storage.owner_history import OwnerHistory
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import ExecutionKeys
from runner_service.storage.redis.reading import read_records

logger = logging.getLogger(__name__)

_RECONNECT_INTERVAL_SECONDS = 0.2
_POLL_SECONDS = 1.0
_SUBSCRIBE_POLL_SECONDS = 0.02
_CANCEL_INTERVAL_SECONDS = 0.1


async def cancel(task: "asyncio.Task[None]") -> None:
    """Cancels a task and waits for its end. It is told again: redis-py swallows a cancellation while it sends."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_INTERVAL_SECONDS)
    if not task.cancelled() and (error := task.exception()):
        logger.debug("followed_until error=%s", error)  # the reader has met the same one


class Follower:
    """Calls watchers of an execution when another replica has committed. Belongs to the event loop; `run` it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._watchers: dict[str, list[Notify]] = {}
        self._wanted = asyncio.Event()
        self._changes: asyncio.Queue[str] = asyncio.Queue()
        self._ids: dict[str, str] = {}
        self._owners: dict[str, OwnerHistory] = {}

    @contextmanager
    def subscribed(self, execution_id: str, notify: Notify) -> Iterator[None]:
        """Calls `notify`, as `EventLog.subscribe` says, until the context ends."""
        channel = ExecutionKeys(execution_id).channel
        watchers = self._watchers.setdefault(channel, [])
        watchers.append(notify)
        self._ids[channel] = execution_id
        self._changes.put_nowait(channel)
        self._wanted.set()
        try:
            yield
        finally:
            watchers.remove(notify)
            if not watchers and self._watchers.get(channel) is watchers:
                del self._watchers[channel]
                self._changes.put_nowait(channel)

    async def run(self) -> None:
        """Follows until cancelled, across failures of Redis."""
        while True:
            await self._wanted.wait()
            try:
                with self._connection.as_log_error():
                    async with self._connection.subscription() as subscription:
                        await self._follow(subscription)
            except LogError as error:
                logger.warning("following_interrupted error=%s", error)
            except Exception:  # without the follower, watchers at this replica would wait forever
                logger.exception("following_failed")
            await asyncio.sleep(_RECONNECT_INTERVAL_SECONDS)

    async def _follow(self, subscription: PubSub) -> None:
        while not self._changes.empty():
            self._changes.get_nowait()
        for channel in list(self._watchers):
            await subscription.subscribe(channel)
        changing = asyncio.create_task(self._apply_changes(subscription), name="redis-subscriptions")
        try:
            await self._receive(subscription)
        finally:
            await cancel(changing)

    async def _apply_changes(self, subscription: PubSub) -> None:
        while True:
            channel = await self._changes.get()
            if channel in self._watchers:
                await subscription.subscribe(channel)
            elif channel in self._ids:
                del self._ids[channel]
                self._owners.pop(channel, None)
                await subscription.unsubscribe(channel)

    async def _receive(self, subscription: PubSub) -> None:
        while True:
            if not subscription.subscribed:  # redis-py has no connection before the first, and refuses to read
                await asyncio.sleep(_SUBSCRIBE_POLL_SECONDS)
                continue
            message = await subscription.get_message(timeout=_POLL_SECONDS)
            if message is None:
                continue
            channel = message["channel"].decode()
            if message["type"] == "subscribe":  # what was committed before is not announced
                await self._notify_of_record(channel)
            elif message["type"] == "message":
                last, finished, token, *_ = message["data"].split(b":")
                if channel in self._owners and self._owners[channel].token == int(token):
                    self._notify(channel, int(last), finished=finished == b"1")
                else:
                    await self._notify_of_record(channel)

    async def _notify_of_record(self, channel: str) -> None:
        if channel not in self._watchers:
            return
        if stored := (await read_records(self._connection, [self._ids[channel]]))[0]:
            execution = stored.execution.execution
            self._owners[channel] = stored.execution.owners
            self._notify(channel, execution.last_sequence, finished=is_final(execution.state))

    def _notify(self, channel: str, last: int, *, finished: bool) -> None:
        owners = self._owners.get(channel, OwnerHistory())
        for notify in list(self._watchers.get(channel, ())):
            notify(last, finished, owners)
