"""What the transport allows callers, in options of grpc. Each was seen to have its effect: wrong names go unnoticed.

What is bounded without being named here: metadata (8 KiB; up to 16 KiB more and more calls are refused) and messages
(4 MiB, compressed ones as they are when unpacked).
"""

import resource

CONCURRENT_STREAMS = 2048
"""Calls at once on one connection. Further ones wait in the client until others end, without a word."""


def _connections() -> int:
    """Half of what this process may have open: however many call, the other half is there for files and commands."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 16_384 if descriptors == resource.RLIM_INFINITY else min(descriptors // 2, 16_384)


CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),  # by default a second server could bind the same port, and take half of the calls
    ("grpc.server.max_pending_requests", 20_000),  # by default a burst of some 1,000 calls is refused with CANCELLED
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
    ("grpc.server_max_unrequested_time_in_server", 3600),  # by default calls that a busy loop lets wait 30 s are lost
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # by default clients that ping often are cut off …
    ("grpc.keepalive_permit_without_calls", 1),  # … and those that ping between calls; and we may ping them
    ("grpc.keepalive_time_ms", 60_000),  # by default a peer that has vanished is noticed after two hours
    ("grpc.http2.ping_timeout_ms", 30_000),  # what counts here; `keepalive_timeout_ms` alone closes nothing
    ("grpc.max_concurrent_streams", CONCURRENT_STREAMS),  # by default any number
    ("grpc.max_allowed_incoming_connections", _connections()),  # for each address; by default any number
)
