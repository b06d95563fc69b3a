"""Lets a model client publish notices to the watchers of the current call."""

from collections.abc import Callable
from contextvars import ContextVar

current_notice_listener: ContextVar[Callable[[str, str], None] | None] = ContextVar("notice_listener", default=None)
"""Takes the code and the text of a notice. None: nobody watches the current call."""


def publish_model_notice(code: str, text: str) -> None:
    """Publishes a notice of the current model call."""
    if listener := current_notice_listener.get():
        listener(code, text)
