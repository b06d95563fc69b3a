"""Content of messages as plain text and images, whatever library or provider wrote it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""What every provider that takes images takes."""

_UNSENT = frozenset({"tool_use", "tool_call", "thinking", "redacted_thinking", "reasoning", "signature"})
"""Blocks that other fields of the message hold, or that only their own provider understands."""


@dataclass(frozen=True)
class Image:
    """An image in base64."""

    media_type: str
    data: str

    @property
    def url(self) -> str:
        """The image as a data URL."""
        return f"data:{self.media_type};base64,{self.data}"

    @property
    def description(self) -> str:
        """What it is, for a model that is not given it."""
        return f"image, {self.media_type}, {len(self.data) * 3 // 4:,} bytes"


def plain_blocks(content: str | list[Any]) -> list[str | Image]:
    """Returns the text and the images of a content, in order; empty text is left out, other blocks are described."""
    if isinstance(content, str):
        return [content] if content else []
    blocks = [each if isinstance(each, str) else _plain(each) for each in content]
    return [each for each in blocks if each]


def _plain(block: Mapping[str, Any]) -> str | Image:
    kind = block.get("type")
    if kind in _UNSENT:
        return ""
    if kind == "text":
        return str(block.get("text") or "")
    if image := _image(block):
        return image if image.media_type in _IMAGE_TYPES else f"[{image.description}]"
    if kind in {"file", "audio", "video", "image", "document"}:
        where = block.get("url") or block.get("file_id") or block.get("mime_type") or ""
        return f"[{kind} {where}]".replace(" ]", "]")
    return json.dumps(block, ensure_ascii=False, default=str)


def _image(block: Mapping[str, Any]) -> Image | None:
    source = block.get("source")
    if block.get("type") == "image" and isinstance(source, Mapping) and source.get("data"):
        return Image(str(source.get("media_type") or ""), str(source["data"]))
    if block.get("type") == "image" and (data := block.get("base64") or block.get("data")):
        return Image(str(block.get("mime_type") or ""), str(data))
    url = block.get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    if isinstance(url, str) and url.startswith("data:"):
        head, _, data = url.removeprefix("data:").partition(",")
        return Image(head.removesuffix(";base64"), data)
    return None
