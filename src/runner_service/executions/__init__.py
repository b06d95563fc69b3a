"""Executions from start to end: starting, attaching, queueing, running, resuming, cancelling."""
