"""`Settings`: every environment variable that the service reads, in groups, and what the service asks about them.

The docstring below an attribute is its documentation, for `runner-service check` and for docs/configuration.md.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from runner_service.settings.groups.callers import DUMMY_API_KEY, CallerVariables
from runner_service.settings.groups.cloud import CLOUD_ONLY, CloudVariables
from runner_service.settings.groups.executions import ExecutionVariables
from runner_service.settings.groups.models import ModelVariables, Provider
from runner_service.settings.groups.operations import OperationVariables
from runner_service.settings.groups.tools import ToolVariables
from runner_service.settings.reading import Problem, SettingsError, is_secret
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import split_addresses


class Settings(ToolVariables, CallerVariables, ExecutionVariables, ModelVariables, CloudVariables, OperationVariables):
    """The whole environment of the service. An empty value counts as none; quotes in a value are part of it."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> tuple["Settings", list[Problem]]:
        """As `Variables.read`. In local mode what belongs to the cloud is not even looked at."""
        unread = CLOUD_ONLY if environ.get("MODE") == "local" else ()
        return super().read({name: value for name, value in environ.items() if name not in unread})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Reads `environ` and nothing else: no file, no other variables.

        Raises:
            SettingsError: some values have the wrong form. `load_settings` checks more.
        """
        settings, problems = cls.read(environ)
        if problems:
            raise SettingsError(problems)
        return settings

    def is_local_mode(self) -> bool:
        """Tells whether tools run on this machine."""
        return self.mode == "local"

    def has_redis(self) -> bool:
        """Tells whether replicas share a Redis."""
        return bool(self.redis_host or self.redis_sentinels or self.redis_cluster_nodes)

    def runs_temporal_worker(self) -> bool:
        """Tells whether activities are taken from Temporal: one of the two variables was set explicitly."""
        return bool({"temporal_service_address", "task_queue"} & self.given)

    def exports_traces(self) -> bool:
        """Tells whether spans go to a collector."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return endpoint is not None and not self.otel_sdk_disabled and self.otel_traces_exporter != "none"

    def exports_metrics(self) -> bool:
        """Tells whether metrics go to a collector."""
        endpoint = self.otel_exporter_otlp_metrics_endpoint or self.otel_exporter_otlp_endpoint
        return endpoint is not None and not self.otel_sdk_disabled and self.otel_metrics_exporter != "none"

    def secret_files(self) -> list[Path]:
        """Returns the files that variables name: keys, tokens and policies, which no confined execution may see."""
        values = (getattr(self, name) for name in self.names() if name.endswith("_file"))
        return [value for value in values if isinstance(value, Path)]

    def get_sandbox_config(self) -> dict[str, str]:
        """Returns what the sandbox is made of: its `type`, with `root_dir` or, if there is one, `snapshot_id`."""
        if self.is_local_mode():
            return {"type": self.sandbox_type, "root_dir": self.sandbox_root_dir}
        snapshot = self.daytona_dev_tools_snapshot_id
        return {"type": self.sandbox_type} | ({"snapshot_id": snapshot} if snapshot else {})

    def llm_api_key(self, provider: Provider) -> SecretStr | None:
        """Returns the key for `provider`; for one that is not the configured one, only its own variable counts."""
        if provider == self.stigmer_llm_provider:
            return self.stigmer_llm_api_key
        return {"openai": self.openai_api_key, "anthropic": self.anthropic_api_key}.get(provider)

    def llm_base_url(self, provider: Provider) -> str | None:
        """Returns where `provider` is. None: where its own library says."""
        if provider == self.stigmer_llm_provider:
            return self.stigmer_llm_base_url
        return self.ollama_base_url if provider == "ollama" else None

    def authenticates(self) -> bool:
        """True if callers need a token or a certificate."""
        return self.has_tokens() or self.tls_client_ca_file is not None

    def has_tokens(self) -> bool:
        """True if callers can be told by tokens."""
        return bool(self.auth_token or self.auth_token_file or self.callers_file)

    def listen_addresses(self) -> list[str]:
        """Returns the addresses of LISTEN_ADDRESS."""
        return split_addresses(self.listen_address)

    def certificate_addresses(self) -> list[str]:
        """Returns those of LISTEN_ADDRESS that ask for client certificates."""
        if self.tls_client_ca_file is None:
            return []
        return split_addresses(self.tls_client_addresses or self.listen_address)

    def secrets_keys(self) -> list[bytes]:
        """Returns the keys of SECRETS_KEY, the one that seals first."""
        return [b64decode(each) for each in self.secrets_key.get_secret_value().split(",")] if self.secrets_key else []

    def secrets(self) -> list[str]:
        """Returns every secret value of the service itself, for redaction. Reads AUTH_TOKEN_FILE: some microseconds."""
        values = [getattr(self, name) for name in secret_names()]
        secrets = {value.get_secret_value() for value in values if value}
        headers = (
            self.otel_exporter_otlp_headers,
            self.otel_exporter_otlp_traces_headers,
            self.otel_exporter_otlp_metrics_headers,
        )
        for header in ",".join(each.get_secret_value() for each in headers if each).split(","):
            secrets.add(header.partition("=")[2].strip())
        if self.auth_token_file is not None:
            with suppress(OSError, UnicodeDecodeError):
                secrets.add(self.auth_token_file.read_text().strip())
        return sorted(secrets - {"", DUMMY_API_KEY})


@cache
def secret_names() -> Sequence[str]:
    """Returns the attributes that hold secrets."""
    return [name for name, kind in Settings.types().items() if is_secret(kind)]
