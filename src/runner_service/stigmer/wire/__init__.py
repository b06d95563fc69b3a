"""The daemon's messages, generated from `proto/runner_service/stigmer/wire`: those that we speak, and of them what we use."""
