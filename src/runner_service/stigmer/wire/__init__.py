"""Generated: the subset of the daemon's messages and fields that we use."""
