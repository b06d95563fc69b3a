"""The gRPC interface: the servicer, interceptors, authentication, health and error details."""
