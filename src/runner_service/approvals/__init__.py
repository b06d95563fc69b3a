"""Approvals of tool calls: policies, shell commands, requests and decisions.

`policy` and `shell` decide what is asked, `requests` holds what was asked and decided of one execution. Tool calls
wait in `agent.approval_gate`; callers decide through `executions.approval_service`.
"""
