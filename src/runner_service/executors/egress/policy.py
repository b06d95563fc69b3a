"""Decides whether a host may be reached, and looks its name up once: what was checked is what is connected to."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from runner_service.allowed_hosts import AllowedHost, parse_ip
from runner_service.executors.egress.addresses import AddressKind, kind_of, look_up, plain_host

logger = logging.getLogger(__name__)

_MAX_NAME_CHARACTERS = 253
_MAX_REPORTED_HOSTS = 100


class EgressDeniedError(Exception):
    """A host may not be reached; the text says why, for people and models."""


class EgressPolicy:
    """The allowed hosts of one execution. `on_denied` is called with host, port and reason, once for each host."""

    def __init__(self, allowed: Sequence[AllowedHost], on_denied: Callable[[str, int, str], None]) -> None:
        self._allowed = allowed
        self._on_denied = on_denied
        self._denials: Counter[str] = Counter()

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Returns the addresses to connect to.

        Raises:
            EgressDeniedError: the host may not be reached.
            OSError: its name cannot be looked up.
        """
        name = plain_host(host)[: _MAX_NAME_CHARACTERS + 1]
        address = parse_ip(name)
        if not any(each.matches(str(address or name), port) for each in self._allowed):
            raise self._denied(name, port, "not among the allowed hosts of this execution")
        if address:
            return [str(address)]
        found = await look_up(name, port)
        public = [str(each) for each in found if kind_of(each) is AddressKind.PUBLIC]
        if not public:
            raise self._denied(name, port, "its name leads to a private address, which must be allowed as an address")
        return public

    def repeated_denials(self) -> str:
        """Returns the hosts that were refused more than once, with how often; empty if there are none."""
        repeated = [f"{host} {count} times" for host, count in self._denials.most_common(10) if count > 1]
        return ", ".join(repeated)

    def _denied(self, host: str, port: int, reason: str) -> EgressDeniedError:
        is_known = host in self._denials
        if is_known or len(self._denials) < _MAX_REPORTED_HOSTS:
            self._denials[host] += 1
            if not is_known:
                logger.info("network_denied host=%s port=%d reason=%s", host, port, reason)
                self._on_denied(host, port, reason)
        return EgressDeniedError(f"{host}:{port} cannot be reached: {reason}")
