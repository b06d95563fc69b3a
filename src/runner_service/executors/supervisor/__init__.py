"""The small process that starts, owns and ends the commands of one executor, and outlives the service to clean up.

It runs as `python -I -S` with nothing but the standard library, so it is up in some 30 ms and stays near 12 MB. The
service speaks to it over a Unix socket (`wire`); `runner_service.executors.local.supervisor_client` is the other side.

Why a process of its own: it is the child subreaper of commands and of nothing else, so all its children are ours and
waiting for any of them steals from nobody; it is small, so starting a command costs the same whatever the service has
grown to, and blocks no event loop; and when the service is killed, it is still there.
"""
