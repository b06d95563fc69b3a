"""The paths of the interface, and the control plane's side of it."""

import json

from aiohttp import web
from tests.emulator import sessions, toolbox
from tests.emulator.cloud import API_KEY, CLOUD, Cloud, Refused
from tests.emulator.faults import Handler, faulty

_LARGEST = 256 * 1024 * 1024


def application(cloud: Cloud) -> web.Application:
    """Returns the whole interface of one cloud."""
    app = web.Application(middlewares=[_noted, _answered, faulty(cloud.faults)], client_max_size=_LARGEST)
    app[CLOUD] = cloud
    app.add_routes(
        [
            web.post("/api/sandbox", create),
            web.get("/api/sandbox", list_sandboxes),
            web.get("/api/sandbox/{sandbox}", get),
            web.delete("/api/sandbox/{sandbox}", delete),
            web.post("/api/sandbox/{sandbox}/start", start),
            web.post("/api/sandbox/{sandbox}/stop", stop),
            web.put("/api/sandbox/{sandbox}/labels", set_labels),
            web.post("/api/sandbox/{sandbox}/last-activity", activity),
            web.get("/api/sandbox/{sandbox}/toolbox-proxy-url", proxy_url),
        ]
    )
    box = "/toolbox/{sandbox}"
    app.add_routes(
        [
            web.get(f"{box}/work-dir", toolbox.work_dir),
            web.get(f"{box}/user-home-dir", toolbox.home_dir),
            web.get(f"{box}/version", toolbox.version),
            web.post(f"{box}/process/execute", toolbox.execute),
            web.post(f"{box}/files/bulk-upload", toolbox.bulk_upload),
            web.post(f"{box}/files/bulk-download", toolbox.bulk_download),
            web.get(f"{box}/files", toolbox.list_files),
            web.get(f"{box}/files/info", toolbox.file_info),
            web.delete(f"{box}/files", toolbox.delete_file),
            web.post(f"{box}/process/session", sessions.create),
            web.get(f"{box}/process/session/{{session}}", sessions.get),
            web.delete(f"{box}/process/session/{{session}}", sessions.delete),
            web.post(f"{box}/process/session/{{session}}/exec", sessions.execute),
            web.get(f"{box}/process/session/{{session}}/command/{{command}}", sessions.get_command),
            web.get(f"{box}/process/session/{{session}}/command/{{command}}/logs", sessions.logs),
        ]
    )
    return app


async def create(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    return web.json_response(cloud.described(cloud.create(await request.json())))


async def list_sandboxes(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    wanted = json.loads(request.query.get("labels", "{}"))
    found = [each for each in cloud.sandboxes.values() if wanted.items() <= each.labels.items()]
    return web.json_response({"items": [cloud.described(each) for each in found], "nextCursor": None})


async def get(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    return web.json_response(cloud.described(cloud.find(request.match_info["sandbox"])))


async def delete(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    sandbox = cloud.find(request.match_info["sandbox"])
    cloud.delete(sandbox)
    return web.json_response(cloud.described(sandbox))


async def start(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    sandbox = cloud.find(request.match_info["sandbox"])
    cloud.start(sandbox)
    return web.json_response(cloud.described(sandbox))


async def stop(request: web.Request) -> web.Response:
    cloud = request.app[CLOUD]
    sandbox = cloud.find(request.match_info["sandbox"])
    await cloud.stop(sandbox)
    return web.json_response(cloud.described(sandbox))


async def set_labels(request: web.Request) -> web.Response:
    sandbox = request.app[CLOUD].find(request.match_info["sandbox"])
    sandbox.labels = dict((await request.json())["labels"])
    return web.json_response({"labels": sandbox.labels})


async def activity(request: web.Request) -> web.Response:
    request.app[CLOUD].find(request.match_info["sandbox"]).activity += 1
    return web.Response(status=204)


async def proxy_url(request: web.Request) -> web.Response:
    return web.json_response({"url": f"{request.app[CLOUD].origin}/toolbox"})


@web.middleware
async def _noted(request: web.Request, handler: Handler) -> web.StreamResponse:
    request.app[CLOUD].requests.append(f"{request.method} {request.path}")
    if request.headers.get("Authorization") != f"Bearer {API_KEY}":
        return web.json_response({"statusCode": 401, "message": "Unauthorized"}, status=401)
    return await handler(request)


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        if refused.status == 502:
            return web.Response(status=502)
        body = {"statusCode": refused.status, "message": str(refused), "path": request.path}
        return web.json_response(body, status=refused.status)
