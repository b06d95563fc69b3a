"""Tools of MCP servers. `connections` is heavy, and imported in a thread when an agent has such tools."""
