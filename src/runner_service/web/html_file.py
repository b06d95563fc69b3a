"""One execution as an HTML file that needs no network: the modules of the page, the schema and the events in one."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2
from runner_service.web.schema import build_schema

_MODULES = ("wire", "colours", "ansi", "words", "run", "dom", "layout", "rows", "timeline", "changes", "view", "file")
"""Each after those that it imports."""
_EVENTS_PER_PAGE = 500
_IMPORT = re.compile(r"^import .*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def static_file(name: str) -> str:
    """Returns the text of a file of the page. Blocks on the file system."""
    return files("runner_service.web").joinpath("static", name).read_text(encoding="utf-8")


def html_file(execution_id: str, events: Sequence[event_pb2.ExecutionEvent]) -> str:
    """Returns an HTML page that shows these events. Nothing in it is fetched, and its policy allows nothing else."""
    script, style = f'"use strict";\n(() => {{\n{_bundle()}\nshowFile();\n}})();\n', static_file("style.css")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    run = {"title": f"Execution {execution_id}", "pages": list(_pages(events))}
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="content-security-policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(execution_id)}</title>\n<style>{style}</style>\n<body>\n"
        f'<script type="application/json" id="schema">{_data(build_schema())}</script>\n'
        f'<script type="application/json" id="run">{_data(run)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _bundle() -> str:
    """Joins the modules into one script, in which they share their names."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", static_file(f"{name}.js"))) for name in _MODULES)


def _pages(events: Sequence[event_pb2.ExecutionEvent]) -> Iterator[str]:
    for first in range(0, len(events), _EVENTS_PER_PAGE):
        page = runner_pb2.ExecuteAgentResponse(events=events[first : first + _EVENTS_PER_PAGE])
        yield base64.b64encode(page.SerializeToString()).decode()


def _data(value: Any) -> str:
    """Returns JSON that cannot end the element that it is in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
