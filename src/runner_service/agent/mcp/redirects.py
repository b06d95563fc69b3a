"""Redirects of HTTP MCP servers: followed on the same host alone, since requests carry the caller's headers."""

import httpx


async def require_same_host(response: httpx.Response) -> None:
    """Lets a redirect be followed, without its body, if it leads to the same host and not to plain text.

    The address is looked up and checked again for the connection that follows.

    Raises:
        httpx.ConnectError: it leads elsewhere.
    """
    if not response.has_redirect_location:
        return
    if isinstance(response.stream, httpx.AsyncByteStream):
        await response.stream.aclose()
    response.stream = httpx.ByteStream(b"")
    source = response.request.url
    target = source.join(response.headers["location"])
    is_upgrade = (source.scheme, target.scheme) == ("http", "https")
    if target.host != source.host or not (is_upgrade or (target.scheme, target.port) == (source.scheme, source.port)):
        raise httpx.ConnectError(f"it redirects to {str(target)[:200]}, and redirects to another host are not followed")
