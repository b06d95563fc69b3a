"""An issuer of JSON Web Tokens on loopback, whose keys and faults a test chooses."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "runner-service"


class Issuer:
    """Signs tokens, and serves its keys at `url`. `answer` replaces the answer, for faults."""

    def __init__(self) -> None:
        self.url = ""
        self.reads = 0
        self.answer: Any = None
        self._keys: dict[str, Any] = {}

    def add_key(self, kid: str, kind: str = "EC") -> None:
        """Makes a key, which is served from now on."""
        self._keys[kid] = (
            ec.generate_private_key(ec.SECP256R1()) if kind == "EC" else rsa.generate_private_key(65537, 2048)
        )

    def remove_key(self, kid: str) -> Any:
        """Serves a key no longer."""
        return self._keys.pop(kid)

    def key(self, kid: str) -> Any:
        """Returns a private key."""
        return self._keys[kid]

    def token(self, kid: str = "k1", key: Any = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Signs a token with good claims, but for those that are given; None leaves one out."""
        now = int(time.time())
        good = {"iss": self.url, "sub": "robot", "aud": AUDIENCE, "exp": now + 600, "tenant": "acme"}
        payload = {name: value for name, value in (good | claims).items() if value is not None}
        key = key or self._keys[kid]
        algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        return jwt.encode(payload, key, algorithm, {"kid": kid, **(headers or {})})

    def key_set(self) -> dict[str, Any]:
        """Returns what is served."""
        keys = []
        for kid, key in self._keys.items():
            algorithm: Any = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
            keys.append(json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"})
        return {"keys": keys}

    def entry(self, **more: Any) -> dict[str, Any]:
        """Returns the entry for CALLERS_FILE."""
        rule = {"match": {"sub": "robot*"}, "tenant_claim": ["tenant"], "tenants": ["acme", "globex"], "roles": ["run"]}
        return {
            "issuer": self.url,
            "audience": AUDIENCE,
            "jwks_url": f"{self.url}/keys",
            "algorithms": ["ES256", "RS256"],
            "rules": [rule],
            **more,
        }

    async def serve_keys(self, _: web.Request) -> web.StreamResponse:
        """Answers a read of the keys."""
        self.reads += 1
        if self.answer is not None:
            answered: web.StreamResponse = await self.answer()
            return answered
        return web.json_response(self.key_set())


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """Serves an issuer with the key `k1`."""
    issuer = Issuer()
    issuer.add_key("k1")
    app = web.Application()
    app.router.add_get("/keys", issuer.serve_keys)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()
