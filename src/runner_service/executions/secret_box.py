"""Seals requests that have secrets, so that another replica can resume their executions: AES-256-GCM.

A sealed request is `id of the key, nonce, wrapped data key, nonce, ciphertext`: each has a data key of its own, which
is wrapped by one of SECRETS_KEY. Both are bound to the execution.
"""

import hashlib
import logging
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

KEY_BYTES = 32
_KEY_ID_BYTES, _NONCE_BYTES, _WRAPPED_BYTES = 8, 12, KEY_BYTES + 16


class SecretBox:
    """Seals with the first of its keys, each 32 bytes, and opens with any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._sealing_id = _key_id(keys[0])
        self._ciphers = {_key_id(each): AESGCM(each) for each in keys}

    def seal(self, execution_id: str, request: runner_pb2.ExecuteAgentRequest) -> bytes:
        """Seals a request."""
        bound_to = execution_id.encode()
        data_key = secrets.token_bytes(KEY_BYTES)
        wrapping_nonce, nonce = secrets.token_bytes(_NONCE_BYTES), secrets.token_bytes(_NONCE_BYTES)
        wrapped = self._ciphers[self._sealing_id].encrypt(wrapping_nonce, data_key, bound_to)
        sealed = AESGCM(data_key).encrypt(nonce, request.SerializeToString(), bound_to)
        return self._sealing_id + wrapping_nonce + wrapped + nonce + sealed

    def open(self, execution_id: str, sealed: bytes) -> runner_pb2.ExecuteAgentRequest | None:
        """Opens what `seal` returned; None when it was sealed with another key, or is not as it was."""
        key_id, wrapping_nonce, wrapped, nonce, data = _split(sealed)
        bound_to = execution_id.encode()
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            logger.warning("secrets_sealed_with_another_key execution=%s", execution_id)
            return None
        try:
            data_key = cipher.decrypt(wrapping_nonce, wrapped, bound_to)
            return runner_pb2.ExecuteAgentRequest.FromString(AESGCM(data_key).decrypt(nonce, data, bound_to))
        except InvalidTag:
            logger.warning("sealed_secrets_changed execution=%s", execution_id)
            return None


def _split(sealed: bytes) -> list[bytes]:
    parts = []
    for size in (_KEY_ID_BYTES, _NONCE_BYTES, _WRAPPED_BYTES, _NONCE_BYTES):
        parts.append(sealed[:size])
        sealed = sealed[size:]
    return [*parts, sealed]


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:_KEY_ID_BYTES]
