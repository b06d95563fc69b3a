"""Generated from `proto/runner_service/v1`; never edited."""
