"""The agent's tools for commands and files of the sandbox."""
