"""Error answers in the shapes of the API, and of the toolbox and its proxy."""

from datetime import UTC, datetime
from http import HTTPStatus

from aiohttp import web

_TOOLBOX_KINDS = {
    400: ("bad request", "BAD_REQUEST"),
    401: ("unauthorized", "UNAUTHORIZED"),
    404: ("not found", "NOT_FOUND"),
    408: ("request timeout", "REQUEST_TIMEOUT"),
    409: ("conflict", "CONFLICT"),
    410: ("gone", "GONE"),
}


class Refused(Exception):  # noqa: N818  # an answer, not a defect
    """A request that the API answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def answer(self, request: web.Request) -> web.Response:
        """Returns the answer in the shape of the API."""
        body = {"path": request.path, "timestamp": _now(), "statusCode": self.status, "message": str(self)}
        return web.json_response({**body, "error": HTTPStatus(self.status).phrase}, status=self.status)


class ToolboxRefused(Refused):
    """A request that the toolbox or its proxy answers with an error; `message` is without the kind's prefix."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(status, message)
        self.code = code

    def answer(self, request: web.Request) -> web.Response:
        """Returns the answer in the shape of the toolbox."""
        return web.json_response(self.body(request), status=self.status)

    def body(self, request: web.Request) -> dict[str, object]:
        """Returns the answer's content; the path is without what comes before the toolbox."""
        kind, code = _TOOLBOX_KINDS[self.status]
        path = "/" + "/".join(request.path.split("/")[3:])
        said = {"statusCode": self.status, "message": f"{kind}: {self}", "code": self.code or code}
        return {**said, "timestamp": _now(), "path": path, "method": request.method}


class EmptyRefused(Refused):
    """A request that is answered with a status and nothing else."""

    def __init__(self, status: int) -> None:
        super().__init__(status, "")

    def answer(self, request: web.Request) -> web.Response:
        """Returns the answer."""
        del request
        return web.Response(status=self.status)


def _now() -> str:
    return datetime.now(UTC).isoformat()
