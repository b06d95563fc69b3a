"""Imports gRPC without the log lines that it would write to stderr, unless GRPC_VERBOSITY is set."""

import os

_VERBOSITY = "GRPC_VERBOSITY"

# gRPC reads the variable when it is imported; a service that is started from here must not inherit it.
_is_set = _VERBOSITY in os.environ
os.environ.setdefault(_VERBOSITY, "NONE")

import grpc  # noqa: E402  # see above

if not _is_set:
    del os.environ[_VERBOSITY]

__all__ = ["grpc"]
