"""The paths of the interface, and what every request passes."""

from aiohttp import web
from tests.emulator import api, sessions, toolbox
from tests.emulator.cloud import API_KEY, CLOUD, Cloud
from tests.emulator.errors import Refused
from tests.emulator.faults import Handler, faulty, refusal

_MAX_REQUEST_BYTES = 256 * 1024 * 1024
_PUBLIC = "/api/config"


def application(cloud: Cloud) -> web.Application:
    """Returns the whole interface of one cloud."""
    app = web.Application(middlewares=[_noted, _answered, faulty(cloud.faults)], client_max_size=_MAX_REQUEST_BYTES)
    app[CLOUD] = cloud
    one = "/api/sandbox/{sandbox}"
    app.add_routes(
        [
            web.get(_PUBLIC, api.configuration),
            web.get("/api/volumes/by-name/{name}", api.volume),
            web.post("/api/sandbox", api.create),
            web.get("/api/sandbox", api.list_sandboxes),
            web.get(one, api.get),
            web.delete(one, api.delete),
            web.post(f"{one}/start", api.start),
            web.post(f"{one}/stop", api.stop),
            web.put(f"{one}/labels", api.set_labels),
            web.post(f"{one}/{{which:autostop|autodelete|ttl}}/{{minutes}}", api.set_interval),
            web.post(f"{one}/last-activity", api.activity),
            web.get(f"{one}/toolbox-proxy-url", api.proxy_url),
        ]
    )
    box = "/toolbox/{sandbox}"
    session = f"{box}/process/session/{{session}}"
    command = f"{session}/command/{{command}}"
    app.add_routes(
        [
            web.get(f"{box}/work-dir", toolbox.work_dir),
            web.get(f"{box}/user-home-dir", toolbox.work_dir),
            web.get(f"{box}/version", toolbox.version),
            web.post(f"{box}/process/execute", toolbox.execute),
            web.post(f"{box}/files/bulk-upload", toolbox.bulk_upload),
            web.post(f"{box}/files/bulk-download", toolbox.bulk_download),
            web.get(f"{box}/files", toolbox.list_files),
            web.get(f"{box}/files/info", toolbox.file_info),
            web.delete(f"{box}/files", toolbox.delete_file),
            web.post(f"{box}/process/session", sessions.create),
            web.get(f"{box}/process/session", sessions.list_sessions),
            web.get(session, sessions.get),
            web.delete(session, sessions.delete),
            web.post(f"{session}/exec", sessions.execute),
            web.get(command, sessions.get_command),
            web.get(f"{command}/logs", sessions.logs),
            web.post(f"{command}/input", sessions.send_input),
        ]
    )
    return app


@web.middleware
async def _noted(request: web.Request, handler: Handler) -> web.StreamResponse:
    cloud = request.app[CLOUD]
    cloud.requests.append(f"{request.method} {request.path}")
    cloud.connections.add(request.transport)
    if request.path != _PUBLIC and request.headers.get("Authorization") != f"Bearer {API_KEY}":
        return refusal(request, 401, "Unauthorized")
    cloud.in_flight.append(request.path)
    try:
        return await handler(request)
    finally:
        cloud.in_flight.remove(request.path)


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return refused.answer(request)
