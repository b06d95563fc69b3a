"""Keeping keys from the commands, which are of the same user."""

from runner_service.supervisor.privacy import hide_from_own_user

__all__ = ["hide_from_own_user"]
