"""A Python client. It follows executions through disconnects and restarts.

async with RunnerClient("localhost:50051") as client:
    async for event in client.execute(request):
        ...
"""

from runner_service.client.client import RunnerClient
from runner_service.client.connection import EXECUTION_ID_KEY, ClientCertificate, Token, token_from_file
from runner_service.client.errors import is_disconnect, is_expired, retry_delay
from runner_service.client.following import OnDisconnect

__all__ = [
    "EXECUTION_ID_KEY",
    "ClientCertificate",
    "OnDisconnect",
    "RunnerClient",
    "Token",
    "is_disconnect",
    "is_expired",
    "retry_delay",
    "token_from_file",
]
