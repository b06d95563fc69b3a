"""Callers by tokens of issuers: only what an issuer signed, for the tenants that it speaks for, while it holds."""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.callers.files import CallersYaml, acting_for, bearer
from tests.callers.issuing import Issuer, issuing
from tests.callers.test_recognition import answer, endless, who
from tests.probe import failure_of, serving
from tests.running import StartProcess
from tests.scraping import Scrape, metrics_url

from runner_service.api.callers import issuers as issuers_module
from runner_service.api.callers import key_sets
from runner_service.api.callers.issuers import Issuers
from runner_service.api.callers.issuers_file import IssuerEntry
from runner_service.errors import CallError, UnauthenticatedError, UnavailableError

REFUSED = "UNAUTHENTICATED"


@pytest.fixture
async def issuer(callers: CallersYaml) -> AsyncIterator[Issuer]:
    async with issuing() as made:
        callers.content["issuers"] = [made.entry()]
        callers.write()
        yield made


async def test_a_signed_token_names_its_caller_and_a_tenant_that_the_issuer_speaks_for(
    callers: CallersYaml, issuer: Issuer
) -> None:
    issuer.add_key("rsa", "RSA")
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        assert await answer(probe.channel, *bearer(issuer.token())) == "robot of acme for acme"
        token = issuer.token("rsa", sub="robot2", tenant="globex", aud=["x", "runner-service"])
        assert await answer(probe.channel, *bearer(token)) == "robot2 of globex for globex"
        denied = await answer(probe.channel, *bearer(token), *acting_for("acme"))
        assert denied == "PERMISSION_DENIED: robot2 may not act for the tenant acme"


def _forged(issuer: Issuer) -> dict[str, str]:
    """Tokens that must not be accepted, by what is wrong with them."""
    now, private = int(time.time()), rsa.generate_private_key(65537, 2048)
    good = issuer.token()
    head, body, signature = good.split(".")
    public = issuer.key("k1").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    by_key = base64.urlsafe_b64encode(public).decode().rstrip("=")

    def with_header(**fields: Any) -> str:
        header = json.dumps({"alg": "ES256", "kid": "k1", **fields}).encode()
        return f"{base64.urlsafe_b64encode(header).decode().rstrip('=')}.{body}.{signature}"

    return {
        "another key": issuer.token(key=private),
        "no algorithm": f"{with_header(alg='none').rpartition('.')[0]}.",
        "algorithm none with a signature": with_header(alg="none"),
        "a symmetric algorithm": with_header(alg="HS256"),
        "signed by the public key": jwt.encode(
            {"iss": issuer.url, "sub": "robot", "aud": "runner-service", "exp": now + 60},
            by_key,
            "HS256",
            {"kid": "k1"},
        ),
        "crit": with_header(crit=["b64"]),
        "another typ": with_header(typ="dpop+jwt"),
        "an unknown key": issuer.token(key=private, headers={"kid": "nobody"}),
        "no kid": with_header(kid=None),
        "padding": f"{good}=",
        "cut": good[:-5],
        "another body": f"{head}.{issuer.token(sub='robot3').split('.')[1]}.{signature}",
        "no expiry": issuer.token(exp=None),
        "an expiry that is a text": issuer.token(exp=str(now + 60)),
        "an endless expiry": issuer.token(exp=10**400),
        "too long": issuer.token(exp=now + 48 * 3600),
        "expired": issuer.token(exp=now - 31),
        "not yet": issuer.token(nbf=now + 120),
        "no subject": issuer.token(sub=None),
        "an empty subject": issuer.token(sub=""),
        "a subject that is no text": f"{head}.{_body(issuer, sub=5)}.{signature}",
        "another audience": issuer.token(aud="other"),
        "no audience": issuer.token(aud=None),
        "another issuer": issuer.token(iss="https://other.example"),
        "no rule": issuer.token(sub="human"),
        "a tenant of somebody else": issuer.token(tenant="other"),
        "the tenant default": issuer.token(tenant="default"),
        "no tenant": issuer.token(tenant=None),
        "a tenant that is a list": issuer.token(tenant=["acme"]),
        "a glob across a slash": issuer.token(sub="robot/admin"),
        "a deep payload": f"{head}.{_encoded(b'[' * 3000 + b']' * 3000)}.{signature}",
        "a huge token": issuer.token(more="x" * 20_000),
    }


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _body(issuer: Issuer, **claims: Any) -> str:
    good = {"iss": issuer.url, "sub": "robot", "aud": "runner-service", "exp": int(time.time()) + 60}
    return _encoded(json.dumps(good | claims).encode())


async def test_no_forged_token_is_accepted_and_none_is_an_internal_error(callers: CallersYaml, issuer: Issuer) -> None:
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        for what, token in _forged(issuer).items():
            said = await answer(probe.channel, *bearer(token))
            if what == "a huge token":  # grpc itself may refuse it
                assert said.startswith((REFUSED, "RESOURCE_EXHAUSTED")), what
            else:
                assert said.startswith(REFUSED), f"{what}: {said}"


async def test_mutations_of_a_good_token_raise_call_errors_alone(issuer: Issuer) -> None:
    accepting = Issuers()
    accepting.configure([IssuerEntry.model_validate(issuer.entry())])
    good = issuer.token()
    await accepting.admit(good)
    chosen = random.Random(7)
    for _ in range(3000):
        text = list(good)
        for _ in range(chosen.randint(1, 3)):
            text[chosen.randrange(len(text))] = chosen.choice("abcXYZ019._-=\x7f{")
        token = "".join(text)
        if token != good:
            with pytest.raises(CallError):
                accepting.caller(token)


async def test_a_stream_ends_when_its_key_is_removed_and_a_new_key_is_found(
    callers: CallersYaml, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_sets, "REFRESH_INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(key_sets, "UNKNOWN_KEY_INTERVAL_SECONDS", 0.1)
    async with serving(unary=who, stream=endless, CALLERS_FILE=str(callers.path)) as probe:
        call = probe.watch("x", metadata=bearer(issuer.token()))
        await call.read()
        issuer.remove_key("k1")
        issuer.add_key("k2")
        async with asyncio.timeout(60):
            while await answer(probe.channel, *bearer(issuer.token("k2"))) != "robot of acme for acme":
                await asyncio.sleep(0.05)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "robot may no longer make this call" in (await call.details() or "")


async def _redirect() -> web.Response:
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


async def _huge() -> web.Response:
    return web.Response(body=b" " * 100_000)


async def _broken() -> web.Response:
    return web.Response(body=b"[" * 50_000)


async def _failing() -> web.Response:
    return web.Response(status=500)


@pytest.mark.parametrize("fault", [_redirect, _huge, _broken, _failing])
async def test_known_keys_outlive_an_issuer_that_fails_and_unknown_ones_cost_one_read(
    callers: CallersYaml, issuer: Issuer, fault: Any
) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        token = issuer.token()
        assert await answer(probe.channel, *bearer(token)) == "robot of acme for acme"
        issuer.answer, reads = fault, issuer.reads
        forged = [bearer(issuer.token(key=stranger, headers={"kid": f"{each}"})) for each in range(20)]
        said = await asyncio.gather(*(answer(probe.channel, *each) for each in forged))
        assert all(each.startswith((REFUSED, "UNAVAILABLE")) for each in said)
        assert issuer.reads - reads <= 1
        assert await answer(probe.channel, *bearer(issuer.token(sub="robot5"))) == "robot5 of acme for acme"


async def test_a_flood_of_forged_tokens_is_refused_at_once_and_known_ones_are_not(issuer: Issuer) -> None:
    accepting = Issuers()
    accepting.configure([IssuerEntry.model_validate(issuer.entry())])
    good, forged = issuer.token(), issuer.token(key=ec.generate_private_key(ec.SECP256R1()))
    await accepting.admit(good)

    async def said(token: str) -> type[CallError] | None:
        try:
            await accepting.admit(token)
        except CallError as error:
            return type(error)
        return None

    answers = asyncio.gather(*(said(forged) for _ in range(1000)))
    await asyncio.sleep(0)
    assert await said(good) is None
    assert accepting.caller(good).name == "robot"
    found = await answers
    assert found.count(UnavailableError) >= 1000 - issuers_module._MAX_WAITING - 1
    assert set(found) == {UnavailableError, UnauthenticatedError}


async def test_the_age_of_the_keys_and_a_wrong_file_are_metrics(
    callers: CallersYaml, issuer: Issuer, start_process: StartProcess, tmp_path: Path
) -> None:
    issuer.answer = _failing
    rule = {"match": {"sub": "robot"}, "tenant": "acme", "roles": ["run"]}
    callers.content["issuers"] = [issuer.entry(rules=[rule])]
    callers.write()
    operator = "an-operators-own-token"
    await start_process(CALLERS_FILE=str(callers.path), AUTH_TOKEN=operator, METRICS_ADDRESS="127.0.0.1:0")
    url = metrics_url(tmp_path / "state")

    async def read(name: str) -> float | None:
        headers = {"Authorization": f"Bearer {operator}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
            samples = Scrape(await response.text()).samples
        return next((each.value for each in samples if each.name == name), None)

    first = await read("runner_jwks_age_seconds")
    assert first is not None
    assert first < 60, "since the keys were first wanted"
    async with asyncio.timeout(60):
        while (await read("runner_jwks_age_seconds") or 0) <= first:
            await asyncio.sleep(0.05)
    assert await read("runner_callers_file_unusable") == 0
    callers.path.write_text("callers: [")
    async with asyncio.timeout(60):
        while await read("runner_callers_file_unusable") != 1:
            await asyncio.sleep(0.05)
    callers.write()
    async with asyncio.timeout(60):
        while await read("runner_callers_file_unusable") != 0:
            await asyncio.sleep(0.05)


async def test_an_issuer_that_is_away_at_the_start_is_unavailable_and_named_tokens_work(
    callers: CallersYaml, issuer: Issuer
) -> None:
    named = callers.add("ci")
    issuer.answer = _failing
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        assert (await answer(probe.channel, *bearer(issuer.token()))).startswith("UNAVAILABLE: the keys of")
        assert await answer(probe.channel, *bearer(named)) == "ci of default for default"


async def test_keys_come_from_a_file_too_and_for_spiffe_the_trust_domain_is_the_issuer(callers: CallersYaml) -> None:
    issuer = Issuer()
    issuer.add_key("k1")
    path = callers.path.with_name("keys.json")
    keys = issuer.key_set()
    keys["keys"][0]["use"] = "jwt-svid"
    path.write_text(json.dumps(keys))
    rule = {"match": {"sub": "spiffe://prod.example/ns/*/sa/*"}, "tenant": "acme", "roles": ["watch"]}
    callers.content["issuers"] = [
        {
            "trust_domain": "prod.example",
            "audience": "runner-service",
            "jwks_file": str(path),
            "algorithms": ["ES256"],
            "rules": [rule],
        }
    ]
    callers.write()
    async with serving(unary=who, CALLERS_FILE=str(callers.path)) as probe:
        token = issuer.token(iss=None, sub="spiffe://prod.example/ns/a/sa/b")
        assert await answer(probe.channel, *bearer(token)) == "spiffe://prod.example/ns/a/sa/b of acme for acme"
        other = issuer.token(iss=None, sub="spiffe://prod.example/ns/a/b/sa/c")
        assert (await answer(probe.channel, *bearer(other))).startswith(REFUSED)


async def test_verifying_unknown_tokens_leaves_time_for_known_ones(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers_module, "_MAX_WAIT_SECONDS", 0.0)
    accepting = Issuers()
    accepting.configure([IssuerEntry.model_validate(issuer.entry())])
    known, others = issuer.token(), [issuer.token(sub=f"robot{each}") for each in range(3)]
    await accepting.admit(known)

    async def admit_all() -> None:
        for each in others:
            await accepting.admit(each)

    with pytest.raises(CallError, match="too many tokens"):
        await admit_all()
    await accepting.admit(known)
    assert accepting.caller(known).name == "robot"


async def test_a_stream_ends_when_its_signed_token_expires(callers: CallersYaml, issuer: Issuer) -> None:
    async with serving(stream=endless, CALLERS_FILE=str(callers.path)) as probe:
        token = issuer.token(exp=int(time.time()) - 27)  # the leeway is 30 s

        async def whole(call: Any) -> None:
            async with asyncio.timeout(60):
                async for _ in call:
                    pass

        error = await failure_of(whole(probe.watch("x", metadata=bearer(token))))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (error.details() or "").endswith("has expired")
