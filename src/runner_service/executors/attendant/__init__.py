"""The local executor at work inside of a cloud sandbox, and how it is spoken to from outside.

What runs in the sandbox is the code of `runner_service.executors` itself, sent there as a bundle: one process, the
attendant, which opens the same local sandboxes, runs commands under the same supervisor and touches files in the same
way. It needs Python 3.11 and bash there and nothing else; nothing in this package imports more than the standard
library and what the bundle holds.

A request is one line of JSON, an answer is another, with output behind it in base64. Each may be sent any number of
times: a command is known by its name and starts once, a piece of its input by its offset, and every other request with
an effect carries a number by which its answer is remembered.
"""
