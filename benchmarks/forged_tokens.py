"""What forged tokens cost everybody else: `python -m benchmarks.forged_tokens [rate]`.

The service runs as a process of its own, which measures how late its event loop is. Forged tokens name a known key, so
that each signature has to be verified; a caller with a named token calls meanwhile.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from prometheus_client.parser import text_string_to_metric_families

from runner_service.api.callers.tokens import new_token

_METHOD = "/runner_service.v1.AgentRunnerService/WhoAmI"
_SECONDS = 10.0
_TICK_SECONDS = 0.01
_TOKENS = 4000


class Service(NamedTuple):
    """A running service, the metadata of somebody it knows, and forged tokens."""

    address: str
    metrics_address: str
    known: Any
    forged: list[Any]


@asynccontextmanager
async def _serving(directory: Path) -> AsyncIterator[Service]:
    key, stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    public = {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k1"}
    (directory / "jwks.json").write_text(json.dumps({"keys": [public]}))
    token = new_token()
    rule = {"match": {"sub": "*"}, "tenant": "acme", "roles": ["run"]}
    issuer: dict[str, Any] = {"issuer": "https://i", "audience": "a", "jwks_file": str(directory / "jwks.json")}
    issuer |= {"algorithms": ["ES256"], "rules": [rule]}
    caller: dict[str, Any] = {"name": "known", "tenant": "acme", "roles": ["operate"]}
    caller["tokens"] = [{"id": token.id, "sha256": token.sha256}]
    (directory / "callers.yaml").write_text(yaml.safe_dump({"callers": [caller], "issuers": [issuer]}))
    claims = {"iss": "https://i", "aud": "a", "exp": int(time.time()) + 3600}
    forged = [jwt.encode({**claims, "sub": f"s{n}"}, stranger, "ES256", {"kid": "k1"}) for n in range(_TOKENS)]
    ready, announce = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runner_service", "serve", "--ready-fd", str(announce)),
        env={
            "PATH": os.environ["PATH"],
            "MODE": "local",
            "STIGMER_LLM_PROVIDER": "scripted",
            "LISTEN_ADDRESS": "127.0.0.1:0",
            "METRICS_ADDRESS": "127.0.0.1:0",
            "STATE_DIR": str(directory / "state"),
            "SANDBOX_ROOT_DIR": str(directory),
            "CALLERS_FILE": str(directory / "callers.yaml"),
        },
        pass_fds=[announce],
    )
    os.close(announce)
    with os.fdopen(ready) as file:
        about = json.loads(await asyncio.to_thread(file.readline))
    try:
        yield Service(
            about["address"], about["metrics_address"], _bearer(token.token), [_bearer(each) for each in forged]
        )
    finally:
        process.kill()
        await process.wait()


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def _lags(service: Service) -> dict[float, float]:
    """Returns how many measurements of the loop's lag there were up to each bound, in seconds."""
    request = urllib.request.Request(
        f"http://{service.metrics_address}/metrics", headers={service.known[0][0]: service.known[0][1]}
    )

    def read() -> str:
        with urllib.request.urlopen(request, timeout=20) as page:
            return str(page.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    samples = [sample for family in families for sample in family.samples]
    found = [each for each in samples if each.name == "runner_loop_lag_seconds_bucket"]
    return {float(each.labels["le"]): each.value for each in found}


async def _flood(service: Service, tokens: list[Any], rate: int, answers: Counter[str]) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        call: Any = channel.unary_unary(_METHOD)

        async def send(number: int) -> None:
            try:
                await call(b"", metadata=tokens[number % len(tokens)], timeout=10)
            except grpc.aio.AioRpcError as error:
                answers[error.code().name] += 1

        end, number = time.monotonic() + _SECONDS, 0
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() < end:
                while number < (time.monotonic() - began) * rate:
                    tasks.create_task(send(number))
                    number += 1
                await asyncio.sleep(_TICK_SECONDS)


async def _known(service: Service, seconds: list[float]) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        call: Any = channel.unary_unary(_METHOD)
        while True:
            began = time.perf_counter()
            await call(b"", metadata=service.known, timeout=30)
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)


async def measure(rate: int) -> None:
    """Prints what is measured."""
    with tempfile.TemporaryDirectory() as directory:
        async with _serving(Path(directory)) as service:
            await asyncio.sleep(4)  # for slow imports of the start
            wrong = [_bearer(new_token().token)]
            for what, tokens in (("nobody else", []), ("unknown tokens", wrong), ("forged tokens", service.forged)):
                answers, seconds = Counter[str](), list[float]()
                before = await _lags(service)
                knowing = asyncio.create_task(_known(service, seconds))
                if tokens:
                    await _flood(service, tokens, rate, answers)
                else:
                    await asyncio.sleep(_SECONDS)
                knowing.cancel()
                after = await _lags(service)
                lags = {bound: after[bound] - before.get(bound, 0) for bound in after}
                total = lags[float("inf")]
                highest = next(bound for bound, count in lags.items() if count == total)
                p99 = next(bound for bound, count in lags.items() if count >= 0.99 * total)
                seconds.sort()
                print(
                    f"{what}: {sum(answers.values()) / _SECONDS:.0f}/s {dict(answers)}: loop lag p99 <= {p99:g} s, "
                    f"max <= {highest:g} s; a known caller: median {seconds[len(seconds) // 2] * 1000:.1f} ms, "
                    f"99th percentile {seconds[int(len(seconds) * 0.99)] * 1000:.1f} ms"
                )


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
