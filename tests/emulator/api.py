"""The control plane's side of the interface."""

import json
from typing import Any

from aiohttp import web
from tests.emulator.cloud import CLOUD, Cloud, Sandbox
from tests.emulator.errors import Refused

_FIRST_WITH_KVM = (0, 200)


async def create(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    return web.json_response(described(cloud, cloud.create(await request.json())))


async def list_sandboxes(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    wanted = json.loads(request.query.get("labels", "{}"))
    found = [each for each in cloud.sandboxes.values() if wanted.items() <= each.labels.items()]
    return web.json_response({"items": [_item(cloud, each) for each in found], "nextCursor": None})


async def get(request: web.Request) -> web.Response:
    return _described(request, _sandbox(request))


async def delete(request: web.Request) -> web.Response:
    sandbox = _sandbox(request)
    await request.app[CLOUD].delete(sandbox)
    return _described(request, sandbox)


async def start(request: web.Request) -> web.Response:
    sandbox = _sandbox(request)
    await request.app[CLOUD].start(sandbox)
    return _described(request, sandbox)


async def stop(request: web.Request) -> web.Response:
    sandbox = _sandbox(request)
    await request.app[CLOUD].stop(sandbox)
    return _described(request, sandbox)


async def set_labels(request: web.Request) -> web.Response:
    sandbox = _sandbox(request)
    sandbox.labels = dict((await request.json())["labels"])
    return web.json_response({"labels": sandbox.labels})


async def set_interval(request: web.Request) -> web.Response:
    """Sets the one that the path names."""
    sandbox = _sandbox(request)
    names = {"autostop": "autoStopInterval", "autodelete": "autoDeleteInterval", "ttl": "ttlMinutes"}
    sandbox.parameters[names[request.match_info["which"]]] = int(request.match_info["minutes"])
    return _described(request, sandbox)


async def activity(request: web.Request) -> web.Response:
    _sandbox(request).activity += 1
    return web.Response(status=204)


async def proxy_url(request: web.Request) -> web.Response:
    return web.json_response({"url": f"{request.app[CLOUD].origin}/toolbox"})


async def configuration(request: web.Request) -> web.Response:
    """Says what anybody may know, without a key."""
    return web.json_response({"version": request.app[CLOUD].version, "environment": "emulated"})


async def volume(request: web.Request) -> web.Response:
    cloud, name = request.app[CLOUD], request.match_info["name"]
    if name not in cloud.volumes:
        raise Refused(404, f"Volume with name {name} not found")
    about = {"id": cloud.volumes[name], "name": name, "organizationId": "organisation", "state": "ready"}
    when = "2026-11-01T00:00:00Z"
    return web.json_response({**about, "createdAt": when, "updatedAt": when, "lastUsedAt": when, "errorReason": None})


def described(cloud: Cloud, sandbox: Sandbox) -> dict[str, Any]:
    """Returns a sandbox as this version of the server describes it."""
    about = {
        "id": sandbox.id,
        "organizationId": "organisation",
        "name": sandbox.name,
        "snapshot": sandbox.snapshot,
        "user": "daytona",
        "env": sandbox.parameters.get("env", {}),
        "labels": sandbox.labels,
        "public": False,
        "networkBlockAll": sandbox.parameters.get("networkBlockAll", False),
        "networkAllowList": sandbox.parameters.get("networkAllowList"),
        "kvm": False,
        "target": sandbox.parameters.get("target", "local"),
        "cpu": 1,
        "gpu": 0,
        "memory": 1,
        "disk": 3,
        "state": sandbox.state,
        "autoStopInterval": sandbox.parameters.get("autoStopInterval", 15),
        "autoDeleteInterval": sandbox.parameters.get("autoDeleteInterval", -1),
        "toolboxProxyUrl": f"{cloud.origin}/toolbox",
    }
    if _is_old(cloud):
        del about["kvm"]
    return about


def _item(cloud: Cloud, sandbox: Sandbox) -> dict[str, Any]:
    about = described(cloud, sandbox)
    if _is_old(cloud):
        del about["networkBlockAll"]
    return about


def _is_old(cloud: Cloud) -> bool:
    return tuple(map(int, cloud.version.removeprefix("v").split(".")))[:2] < _FIRST_WITH_KVM


def _described(request: web.Request, sandbox: Sandbox) -> web.Response:
    return web.json_response(described(request.app[CLOUD], sandbox))


def _sandbox(request: web.Request) -> Sandbox:
    return request.app[CLOUD].find(request.match_info["sandbox"])
