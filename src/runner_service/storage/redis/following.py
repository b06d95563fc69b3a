"""Follows what other replicas commit: one connection subscribes for all watchers of this replica."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import RedisError

from runner_service.states import is_final
from runner_service.storage.event_log import LogError, Notify
from runner_service.storage.owner_history import OwnerHistory
from runner_service.storage.redis.address import TIMEOUT_SECONDS
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import ExecutionKeys
from runner_service.storage.redis.link import FAILURES, Link, open_link, pack
from runner_service.storage.redis.reading import read_records
from runner_service.telemetry.failure_log import FailureLog

logger = logging.getLogger(__name__)

_RECONNECT_INTERVAL_SECONDS = 0.2
_PING_INTERVAL_SECONDS = 1.0
_CANCEL_INTERVAL_SECONDS = 0.1
_MAX_SILENCE_SECONDS = 3.0
_CHANNELS_PER_READ = 200


async def cancel(task: "asyncio.Task[None]") -> None:
    """Cancels a task and waits for its end. It is told again: redis-py swallows a cancellation while it sends."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_INTERVAL_SECONDS)
    if not task.cancelled() and (error := task.exception()):
        logger.debug("followed_until error=%s", error)  # the reader has met the same one


class Follower:
    """Calls watchers of an execution when another replica has committed. Belongs to the event loop; `run` it.

    What is announced is passed on as it comes. Where it may be about an owner that is not known here, and after each
    subscription, since what was committed before is not announced, the record is read first.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._watchers: dict[str, list[Notify]] = {}
        self._wanted = asyncio.Event()
        self._link: Link | None = None
        self._ids: dict[str, str] = {}
        self._owners: dict[str, OwnerHistory] = {}
        self._heard: dict[str, float] = {}
        self._unread: dict[str, None] = {}
        self._has_unread = asyncio.Event()
        self._listeners: dict[str, Callable[[bytes], None]] = {}
        self._failures = FailureLog(logger, "following_interrupted", "following_resumed")
        self._read_failures = FailureLog(logger, "followed_not_read", "followed_read_again")

    @contextmanager
    def listening(self, channel: str, receive: Callable[[bytes], None]) -> Iterator[None]:
        """Calls `receive` with each message of a channel until the context ends; with b"" when some may be missing."""
        self._listeners[channel] = receive
        self._send("SUBSCRIBE", channel)
        self._wanted.set()
        try:
            yield
        finally:
            del self._listeners[channel]
            self._send("UNSUBSCRIBE", channel)

    @contextmanager
    def subscribed(self, execution_id: str, notify: Notify) -> Iterator[None]:
        """Calls `notify`, as `EventLog.subscribe` says, until the context ends."""
        channel = ExecutionKeys(execution_id).channel
        watchers = self._watchers.setdefault(channel, [])
        watchers.append(notify)
        self._ids[channel] = execution_id
        self._send("SUBSCRIBE", channel)
        self._wanted.set()
        try:
            yield
        finally:
            watchers.remove(notify)
            if not watchers and self._watchers.get(channel) is watchers:
                del self._watchers[channel], self._ids[channel]
                self._owners.pop(channel, None)
                self._heard.pop(channel, None)
                self._send("UNSUBSCRIBE", channel)

    async def run(self) -> None:
        """Follows until cancelled, across failures of Redis."""
        reading = asyncio.create_task(self._read_records(), name="redis-follower-records")
        try:
            while True:
                await self._wanted.wait()
                try:
                    await self._follow()
                except (*FAILURES, RedisError) as error:
                    self._connection.topology.doubt()
                    self._failures.failed(error)
                except Exception:  # without the follower, watchers at this replica would wait forever
                    logger.exception("following_failed")
                await asyncio.sleep(_RECONNECT_INTERVAL_SECONDS)
        finally:
            await cancel(reading)

    async def _follow(self) -> None:
        primaries = await self._connection.topology.primaries()
        self._link = link = await open_link(self._connection.address, random.choice(primaries.nodes))  # noqa: S311  # any of them
        ended = link.listen(self._receive)
        try:
            if channels := [*self._listeners, *self._watchers]:
                link.send(pack("SUBSCRIBE", *channels))
            while True:
                link.send(pack("PING"))
                await asyncio.wait([ended], timeout=_PING_INTERVAL_SECONDS)
                if ended.done():
                    ended.result()
                if link.has_answered:  # a Redis that hangs takes connections as well
                    self._failures.succeeded()
                if self._connection.address.cluster:
                    self._read_records_of_silent()
                if link.silent_seconds > TIMEOUT_SECONDS:
                    raise TimeoutError(f"no reply within {TIMEOUT_SECONDS:g} s")
        finally:
            self._link = None
            ended.cancel()  # or asyncio would log how it ended, which nobody asks any more
            link.abort()

    def _read_records_of_silent(self) -> None:
        """Between the nodes of a cluster messages may be lost, without a connection to this one that breaks."""
        now = time.monotonic()
        for channel in self._watchers:
            if now - self._heard.setdefault(channel, now) > _MAX_SILENCE_SECONDS:
                self._heard[channel] = now
                self._read_record_of(channel)

    def _send(self, command: str, channel: str) -> None:
        if self._link:
            self._link.send(pack(command, channel))

    def _receive(self, reply: Any) -> None:
        match reply:
            case [b"message", bytes() as name, bytes() as news]:
                channel = name.decode()
                if receive := self._listeners.get(channel):
                    receive(news)
                    return
                self._heard[channel] = time.monotonic()
                last, finished, token, *_ = news.split(b":")
                if channel in self._owners and self._owners[channel].token == int(token):
                    self._notify(channel, int(last), finished=finished == b"1")
                else:
                    self._read_record_of(channel)
            case [b"subscribe", bytes() as name, _]:
                if receive := self._listeners.get(name.decode()):
                    receive(b"")
                else:
                    self._read_record_of(name.decode())

    def _read_record_of(self, channel: str) -> None:
        self._unread[channel] = None
        self._has_unread.set()

    async def _read_records(self) -> None:
        while True:
            await self._has_unread.wait()
            self._has_unread.clear()
            while self._unread:
                channels = list(self._unread)[:_CHANNELS_PER_READ]
                for channel in channels:
                    del self._unread[channel]
                try:
                    await self._notify_of_records([each for each in channels if each in self._watchers])
                    self._read_failures.succeeded()
                except LogError as error:
                    self._read_failures.failed(error)
                    self._unread |= dict.fromkeys(channels)
                    await asyncio.sleep(_RECONNECT_INTERVAL_SECONDS)

    async def _notify_of_records(self, channels: list[str]) -> None:
        records = await read_records(self._connection, [self._ids[each] for each in channels])
        for channel, stored in zip(channels, records, strict=True):
            if stored and channel in self._watchers:
                execution = stored.execution.execution
                self._owners[channel] = stored.execution.owners
                self._notify(channel, execution.last_sequence, finished=is_final(execution.state))

    def _notify(self, channel: str, last: int, *, finished: bool) -> None:
        owners = self._owners.get(channel, OwnerHistory())
        for notify in list(self._watchers.get(channel, ())):
            notify(last, finished, owners)
