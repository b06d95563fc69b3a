"""`${NAME}` placeholders in the configuration of MCP servers."""

import re

PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""Refers to a variable of the request's environment; the group is its name."""
