"""Why CALLERS_FILE cannot be used; by itself, since reading that file takes imports that few need."""


class CallersFileError(Exception):
    """CALLERS_FILE cannot be used. The message names the file, the line, and what is wrong."""
