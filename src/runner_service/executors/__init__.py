"""Executors: where the tools of an agent run. `protocol` defines the interface; `local` and `daytona` implement it."""
