"""OTLP resource attributes and headers."""

from typing import TYPE_CHECKING

from runner_service.settings import SecretStr, Settings
from runner_service.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource


def resource(settings: Settings) -> "Resource":
    """Returns the attributes of this service, with those of OTEL_RESOURCE_ATTRIBUTES."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415  # only needed with a reader

    about = {
        "service.name": "runner-service",
        "service.version": VERSION,
        "deployment.environment.name": settings.env,
    }
    return Resource.create(about | dict(OTELResourceDetector().detect().attributes))


def otlp_headers(*secrets: SecretStr | None) -> dict[str, str] | None:
    """Parses the first of these settings that is set. The environment no longer holds the service's keys."""
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415  # only needed with a collector

    for secret in secrets:
        if secret is not None:
            return dict(parse_env_headers(secret.get_secret_value(), liberal=True))
    return None
