"""Approvals of tool calls: policies, shell commands, requests and decisions."""
