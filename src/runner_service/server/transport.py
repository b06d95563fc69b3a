"""gRPC channel options. Each has a test: grpc ignores unknown option names.

Bounded by default: messages (4 MiB, after decompression).
"""

import resource
from collections.abc import Sequence

CONCURRENT_STREAMS = 2048
"""Concurrent calls per connection. Further calls wait silently in the client."""

HEALTH_CONNECTIONS = 64
"""Connections to HEALTH_ADDRESS, beside those to LISTEN_ADDRESS."""

HANDSHAKE_TIMEOUT_SECONDS = 10
IDLE_TIMEOUT_SECONDS = 300
"""A connection without a call is closed after it; clients reconnect by themselves with their next call."""


def _connections() -> int:
    """Returns half of the descriptor limit: the other half is reserved for files and commands."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 16_384 if descriptors == resource.RLIM_INFINITY else min(descriptors // 2, 16_384)


CHANNEL_OPTIONS = (
    ("grpc.max_metadata_size", 16_384),  # by default tokens of many groups are refused from 8 KiB on, some of them
    ("grpc.absolute_max_metadata_size", 32_768),
    ("grpc.so_reuseport", 0),  # by default a second server could bind the same port and receive half of the calls
    ("grpc.server.max_pending_requests", 20_000),  # by default a burst of some 1,000 calls is refused with CANCELLED
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
    ("grpc.server_max_unrequested_time_in_server", 3600),  # by default calls that wait 30 s for a busy loop are lost
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # by default clients that ping often are disconnected …
    ("grpc.keepalive_permit_without_calls", 1),  # … and those that ping between calls; also lets the server ping
    ("grpc.keepalive_time_ms", 60_000),  # by default a vanished peer is detected after two hours
    ("grpc.http2.ping_timeout_ms", 30_000),  # `keepalive_timeout_ms` alone closes nothing
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_SECONDS * 1000),  # for HTTP/2 settings; by default 2 min
    ("grpc.max_connection_idle_ms", IDLE_TIMEOUT_SECONDS * 1000),  # by default for ever
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS),  # unlimited by default
)


def channel_options(*, listeners: int) -> Sequence[tuple[str, int]]:
    """Returns the options of a server that listens on so many addresses, each of which has its share of connections."""
    return (*CHANNEL_OPTIONS, ("grpc.max_allowed_incoming_connections", _connections() // listeners))


def health_channel_options(*, listeners: int) -> Sequence[tuple[str, int]]:
    """Returns the options of the server at HEALTH_ADDRESS."""
    return (*CHANNEL_OPTIONS, ("grpc.max_allowed_incoming_connections", HEALTH_CONNECTIONS // listeners))
