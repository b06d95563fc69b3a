"""What exporting to a collector needs to know of us."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from pydantic import SecretStr

from runner_service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource


def resource(settings: Settings) -> "Resource":
    """Describes this service, and what OTEL_RESOURCE_ATTRIBUTES adds."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415  # only needed with a reader

    about = {
        "service.name": "runner-service",
        "service.version": version("runner-service"),
        "deployment.environment.name": settings.env,
    }
    return Resource.create(about | dict(OTELResourceDetector().detect().attributes))


def headers(*secrets: SecretStr | None) -> dict[str, str] | None:
    """Returns the headers in the first of these that is set. The service's keys are not in its own environment."""
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415  # only needed with a collector

    for secret in secrets:
        if secret is not None:
            return dict(parse_env_headers(secret.get_secret_value(), liberal=True))
    return None
