"""The event stream of an execution: number, log, then show."""
