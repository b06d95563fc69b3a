"""Egress of confined executions: which hosts may be reached, and the proxy that holds commands to it."""
