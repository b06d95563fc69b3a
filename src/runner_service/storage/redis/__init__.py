"""Storage in Redis, shared by replicas; see docs/scale-out.md."""
