"""What an agent's tools do: run commands in the sandbox and work on its files."""
