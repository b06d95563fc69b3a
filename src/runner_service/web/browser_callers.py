"""Who sends a request of a browser: by the token that its cookie keeps, else by its client certificate."""

import hmac
import ssl
from collections.abc import Mapping, Sequence

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from runner_service.api.callers.sources import CertificateSource
from runner_service.api.callers.watching import KnownCallers
from runner_service.errors import UnauthenticatedError
from runner_service.identity import OPERATOR, Caller
from runner_service.web.cookies import MAX_AGE_SECONDS, CookieSeal

_ALTERNATIVE_NAMES = {"URI": "peer_uri", "DNS": "peer_dns", "email": "peer_email", "IP Address": "peer_ip"}


class BrowserCallers:
    """Recognises the callers of the page, as `KnownCallers` does those of the rpcs. Belongs to the event loop."""

    def __init__(self, callers: KnownCallers, cookie_key: bytes, page_token: bytes | None, *, is_secure: bool) -> None:
        self._callers = callers
        self._certificates = CertificateSource(callers)
        self._seal = CookieSeal(cookie_key)
        self._page_token = page_token
        self._is_secure = is_secure
        self.port = 0
        """That of the page, once it is known: cookies are shared by all ports of a host."""

    async def prepare(self, request: web.Request) -> None:
        """Does what takes time, before `caller`. Raises CallError."""
        with self._callers.calls.counting_unknown():
            await self._callers.prepare(_metadata(self._token_in(request)))

    def caller(self, request: web.Request) -> Caller:
        """Returns who sends a request. A token that is no longer good never falls back to the certificate.

        Raises:
            UnauthenticatedError: nobody who is known.
        """
        token, shown = self._token_in(request), self._certificate_of(request)
        try:
            if token is None and shown:
                return self._certificates.from_certificate(shown)
            return self._by_token(token, shown)
        except UnauthenticatedError:
            raise UnauthenticatedError("sign in with a token of the service") from None

    async def sign_in(self, token: bytes, request: web.Request, response: web.StreamResponse) -> None:
        """Sets the cookie for a token. Raises CallError: the token is nobody's."""
        with self._callers.calls.counting_unknown():
            await self._callers.prepare(_metadata(token))
            self._by_token(token, self._certificate_of(request))
        response.set_cookie(
            self._cookie_name,
            self._seal.seal(token),
            max_age=MAX_AGE_SECONDS,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._is_secure,
        )

    def _by_token(self, token: bytes | None, shown: Mapping[str, Sequence[bytes]]) -> Caller:
        if self._page_token is None and shown:
            return self._callers.confirm(self._callers.by_token_with_certificate(_metadata(token)), shown)
        if self._page_token is None:
            return self._callers.by_token(_metadata(token))
        if token is None or not hmac.compare_digest(token, self._page_token):
            raise UnauthenticatedError("wrong token")
        return OPERATOR

    def _token_in(self, request: web.Request) -> bytes | None:
        cookie = request.cookies.get(self._cookie_name)
        return self._seal.open(cookie) if cookie else None

    def _certificate_of(self, request: web.Request) -> Mapping[str, Sequence[bytes]]:
        """Returns the names in the certificate that TLS has verified; nothing where certificates name nobody."""
        connection = request.transport.get_extra_info("ssl_object") if request.transport else None
        if self._page_token is not None or self._callers.directory is None or connection is None:
            return {}
        return _names_of(connection)

    @property
    def _cookie_name(self) -> str:
        return f"runner-service-{self.port}"


def _names_of(connection: ssl.SSLObject) -> Mapping[str, Sequence[bytes]]:
    """Returns the names of a client certificate in the form of gRPC; empty without one."""
    der, parsed = connection.getpeercert(binary_form=True), connection.getpeercert()
    if not der or not parsed:
        return {}
    certificate = x509.load_der_x509_certificate(der)
    names: dict[str, list[bytes]] = {
        "x509_subject": [certificate.subject.rfc4514_string().encode()],
        "x509_pem_cert": [certificate.public_bytes(Encoding.PEM)],
    }
    for entry in parsed.get("subjectAltName", ()):
        kind, value = entry[0], entry[1]
        if isinstance(value, str) and kind in _ALTERNATIVE_NAMES:
            names.setdefault(_ALTERNATIVE_NAMES[kind], []).append(value.encode())
    return names


def _metadata(token: bytes | None) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token.decode()}")] if token else []
