"""Page tokens as callers get them: masked, so that nobody counts what others have, and bound to the tenant."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from runner_service.api.handlers import Context
from runner_service.identity import current_caller
from runner_service.storage.event_log import EventLog

_NONCE_BYTES, _MAC_BYTES, _MAX_BYTES = 8, 16, 64
_INVALID = "!"
"""What validation refuses."""

Method = Callable[[Any, Context], Awaitable[Any]]


class PageTokens:
    """Seals page tokens with the secret key of the log, which replicas share."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def sealed(self, method: Method) -> Method:
        """Wraps an rpc with pages: opens the `page_token` of requests, and seals the `next_page_token` of responses."""

        async def with_sealed_tokens(request: Any, context: Context) -> Any:
            tenant = current_caller.get().tenant
            request.page_token = self.open(request.page_token, tenant)
            response = await method(request, context)
            response.next_page_token = self.seal(response.next_page_token, tenant)
            return response

        return with_sealed_tokens

    def seal(self, text: str, tenant: str) -> str:
        """Returns a token of at most 64 bytes as a caller gets it; empty for none."""
        if not text:
            return ""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        masked = self._mask(text.encode(), nonce)
        return base64.urlsafe_b64encode(nonce + self._mac(nonce + masked, tenant) + masked).decode().rstrip("=")

    def open(self, token: str, tenant: str) -> str:
        """Returns what was sealed for this tenant; else what is no token, or empty for none."""
        if not token:
            return ""
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return _INVALID
        nonce, mac, masked = data[:_NONCE_BYTES], data[_NONCE_BYTES:][:_MAC_BYTES], data[_NONCE_BYTES + _MAC_BYTES :]
        is_ours = len(masked) <= _MAX_BYTES and hmac.compare_digest(mac, self._mac(nonce + masked, tenant))
        return self._mask(masked, nonce).decode() if is_ours else _INVALID

    def _mask(self, text: bytes, nonce: bytes) -> bytes:
        stream = hashlib.blake2b(
            nonce, key=self._log.fingerprint_key, digest_size=_MAX_BYTES, person=b"page-mask"
        ).digest()
        return bytes(a ^ b for a, b in zip(text, stream, strict=False))

    def _mac(self, text: bytes, tenant: str) -> bytes:
        data = tenant.encode() + b"\0" + text
        return hashlib.blake2b(data, key=self._log.fingerprint_key, digest_size=_MAC_BYTES, person=b"page-mac").digest()
