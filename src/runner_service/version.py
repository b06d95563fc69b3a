"""The version of the service."""

VERSION = "0.1.0"
"""That of pyproject.toml, set with it by `make release`: to read it there, `importlib.metadata` takes 2 MB."""
