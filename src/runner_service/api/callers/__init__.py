"""Who may call what: callers from metadata and certificates, and the role that each rpc needs."""
