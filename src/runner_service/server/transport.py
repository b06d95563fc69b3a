"""gRPC channel options. Each has a test: grpc ignores unknown option names.

Bounded by default: metadata (8 KiB soft, 16 KiB hard limit) and messages (4 MiB, after decompression).
"""

import resource

CONCURRENT_STREAMS = 2048
"""Concurrent calls per connection. Further calls wait silently in the client."""


def _connections() -> int:
    """Returns half of the descriptor limit: the other half is reserved for files and commands."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 16_384 if descriptors == resource.RLIM_INFINITY else min(descriptors // 2, 16_384)


CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),  # by default a second server could bind the same port and receive half of the calls
    ("grpc.server.max_pending_requests", 20_000),  # by default a burst of some 1,000 calls is refused with CANCELLED
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
    ("grpc.server_max_unrequested_time_in_server", 3600),  # by default calls that wait 30 s for a busy loop are lost
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # by default clients that ping often are disconnected …
    ("grpc.keepalive_permit_without_calls", 1),  # … and those that ping between calls; also lets the server ping
    ("grpc.keepalive_time_ms", 60_000),  # by default a vanished peer is detected after two hours
    ("grpc.http2.ping_timeout_ms", 30_000),  # `keepalive_timeout_ms` alone closes nothing
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS),  # unlimited by default
    ("grpc.max_allowed_incoming_connections", _connections()),  # per address; unlimited by default
)
