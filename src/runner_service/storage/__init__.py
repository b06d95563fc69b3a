"""Storage of events, command output and executions, behind Protocols."""
