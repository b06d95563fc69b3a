"""`${NAME}` in the settings of an MCP server: a variable of the request's environment."""

import re

PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""What stands, in some values, for a variable of the request's environment; its group is the name."""
