"""The attendant: a helper daemon inside a cloud sandbox that serves the local executor to the service.

It runs the code of `runner_service.executors`, uploaded as a bundle, so commands and files behave as in local mode. The
sandbox needs Python 3.11 and bash; this package imports only the standard library and what the bundle holds.

A request is one line of JSON; so is a response, followed by output in base64. Every request is idempotent: a command is
identified by its name and starts once, a chunk of its input by its offset, and any other request with an effect has a
number under which its response is cached.
"""
