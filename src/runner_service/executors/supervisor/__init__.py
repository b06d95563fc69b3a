"""The process supervisor: starts, owns and ends the commands of one executor, and outlives the service to clean up.

It runs as `python -I -S` with the standard library only: ready in about 30 ms, about 12 MB. The service talks to it
over a Unix socket (`wire`); the client is `runner_service.executors.local.supervisor_client`.

Why a separate process: it is the child subreaper of commands and of nothing else, so it can wait for any child; it is
small, so starting a command costs the same however large the service is, and never blocks the event loop; and it
survives a killed service.
"""
