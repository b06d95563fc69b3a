"""Loads and validates the settings; reports all problems at once, without secrets."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from runner_service.addresses import is_loopback, overlap, parse_address
from runner_service.settings.reading import Problem, SettingsError
from runner_service.settings.variables import Settings

_FILES = (
    "auth_token_file",
    "callers_file",
    "tls_cert_file",
    "tls_key_file",
    "tls_client_ca_file",
    "stigmer_llm_script",
    "temporal_tls_server_ca_cert_path",
    "temporal_tls_client_cert_path",
    "temporal_tls_client_key_path",
)

_MIN_TOKEN_CHARACTERS = 16

EXIT_CONFIG = 78
"""The exit code of a wrong environment, EX_CONFIG of sysexits(3)."""


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Reads the settings from `environ` and checks them, one by one and against each other. Reads the files it names.

    Raises:
        SettingsError: something is invalid; `problems` lists all of it.
    """
    settings, problems = Settings.read(environ)
    if not any(problem.variable == "MODE" for problem in problems):  # most of the others depend on it
        wrong = {problem.variable for problem in problems}
        found = [*_conflicts(settings), *_proxy_conflicts(settings, environ)]
        problems += [problem for problem in found if problem.variable not in wrong]
    if problems:
        raise SettingsError(problems)
    return settings


def warnings_about(settings: Settings) -> list[Problem]:
    """Returns problems that do not keep the service from starting."""
    return [
        *_mode_warnings(settings),
        *_model_warnings(settings),
        *_exposure_warnings(settings),
        *_secret_warnings(settings),
        *_export_warnings(settings),
    ]


def _conflicts(settings: Settings) -> list[Problem]:
    return [
        *_mode_conflicts(settings),
        *_confinement_conflicts(settings),
        *_address_conflicts(settings),
        *_listener_conflicts(settings),
        *_web_conflicts(settings),
        *_token_conflicts(settings),
        *_tls_conflicts(settings),
        *_temporal_conflicts(settings),
        *_redis_conflicts(settings),
        *_unreadable_files(settings),
    ]


def _proxy_conflicts(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Proxies that the clients of models cannot use, which would fail at the first call."""
    if settings.stigmer_llm_provider == "scripted":
        return
    for name in _PROXY_VARIABLES:
        for variable in (name, name.lower()):
            if environ.get(variable, "").strip().lower().startswith("socks"):
                yield Problem(variable, "names a SOCKS proxy, which calls of models cannot use; name an HTTP proxy")


_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def _mode_conflicts(settings: Settings) -> Iterator[Problem]:
    sandbox = "filesystem" if settings.is_local_mode() else "daytona"
    if settings.sandbox_type != sandbox:
        yield Problem("SANDBOX_TYPE", f"should be {sandbox!r}, or unset, when MODE is {settings.mode!r}")
    if settings.is_local_mode():
        return
    if settings.daytona_api_key is None:
        yield Problem(
            "DAYTONA_API_KEY", "should be set when MODE is 'cloud' or unset; for tools on this machine set MODE=local"
        )
    if settings.stigmer_api_key is None:
        yield Problem(
            "STIGMER_API_KEY", "should be set when MODE is 'cloud' or unset; for tools on this machine set MODE=local"
        )


def _confinement_conflicts(settings: Settings) -> Iterator[Problem]:
    if settings.sandbox_network != "all" and settings.sandbox_confinement == "none":
        yield Problem("SANDBOX_NETWORK", "needs SANDBOX_CONFINEMENT to be 'workspace', 'read_only' or 'strict'")
    if settings.sandbox_allowed_hosts and settings.sandbox_network != "proxy":
        yield Problem("SANDBOX_ALLOWED_HOSTS", "needs SANDBOX_NETWORK to be 'proxy'")
    for name in ("sandbox_confinement", "sandbox_network"):
        if not settings.is_local_mode() and getattr(settings, name) not in {"none", "all"}:
            yield Problem(name.upper(), "is for MODE=local: a cloud sandbox is a machine of its own")


def _address_conflicts(settings: Settings) -> Iterator[Problem]:
    daemon = settings.stigmer_backend_endpoint
    for text in settings.listen_addresses():
        address = parse_address(text)
        if daemon is not None and overlap(parse_address(daemon), address):
            yield Problem(
                "LISTEN_ADDRESS",
                f"{address} is where STIGMER_BACKEND_ENDPOINT says that the daemon is; unset one, or choose another "
                "port",
            )
        if not (is_loopback(address) or _tells_callers_apart(settings, text)):
            yield Problem(
                "LISTEN_ADDRESS",
                f"{address} can be reached from elsewhere: set AUTH_TOKEN, AUTH_TOKEN_FILE, CALLERS_FILE or "
                "TLS_CLIENT_CA_FILE, or listen on localhost or a unix socket",
            )
    if unknown := set(settings.certificate_addresses()) - set(settings.listen_addresses()):
        yield Problem("TLS_CLIENT_ADDRESSES", f"names {', '.join(sorted(unknown))}, which is not in LISTEN_ADDRESS")
    if settings.tls_client_addresses is not None and settings.tls_client_ca_file is None:
        yield Problem("TLS_CLIENT_ADDRESSES", "needs TLS_CLIENT_CA_FILE")
    metrics = settings.metrics_address
    if metrics and not (is_loopback(parse_address(metrics)) or settings.has_tokens() or settings.tls_client_ca_file):
        yield Problem(
            "METRICS_ADDRESS",
            f"{metrics} can be reached from elsewhere: set AUTH_TOKEN, AUTH_TOKEN_FILE, CALLERS_FILE or "
            "TLS_CLIENT_CA_FILE",
        )


def _tells_callers_apart(settings: Settings, address: str) -> bool:
    return settings.has_tokens() or address in settings.certificate_addresses()


def _listener_conflicts(settings: Settings) -> Iterator[Problem]:
    taken = [("LISTEN_ADDRESS", each) for each in settings.listen_addresses()]
    others = ("HEALTH_ADDRESS", "METRICS_ADDRESS", "WEB_ADDRESS")
    for name, address in ((each, getattr(settings, each.lower())) for each in others):
        if address is None:
            continue
        for other, where in taken:
            if overlap(parse_address(address), parse_address(where)):
                yield Problem(name, f"{address} is taken by {other}, {where}: choose another port")
        taken.append((name, address))


def _web_conflicts(settings: Settings) -> Iterator[Problem]:
    if settings.web_address is None:
        return
    has_token = settings.has_tokens() or settings.web_token is not None
    if settings.web_hosts and not has_token:
        yield Problem("WEB_HOSTS", "makes the page reachable from elsewhere: set a token, such as WEB_TOKEN")
    if is_loopback(parse_address(settings.web_address)):
        return
    if settings.tls_cert_file is None:
        yield Problem("WEB_ADDRESS", f"{settings.web_address} can be reached from elsewhere: set TLS_CERT_FILE")
    if not (has_token or settings.tls_client_ca_file):
        yield Problem("WEB_ADDRESS", f"{settings.web_address} can be reached from elsewhere: set a token")


def _token_conflicts(settings: Settings) -> Iterator[Problem]:
    if settings.auth_token is not None and settings.auth_token_file is not None:
        yield Problem("AUTH_TOKEN_FILE", "should not be set together with AUTH_TOKEN")


def _tls_conflicts(settings: Settings) -> Iterator[Problem]:
    if settings.tls_cert_file is not None and settings.tls_key_file is None:
        yield Problem("TLS_KEY_FILE", "should name the private key of TLS_CERT_FILE")
    if settings.tls_cert_file is None:
        for name in ("tls_key_file", "tls_client_ca_file"):
            if getattr(settings, name) is not None:
                yield Problem("TLS_CERT_FILE", f"should be set, since {name.upper()} is")
                return


def _temporal_conflicts(settings: Settings) -> Iterator[Problem]:
    cert, key = settings.temporal_tls_client_cert_path, settings.temporal_tls_client_key_path
    if (cert is None) is not (key is None):
        missing = "TEMPORAL_TLS_CLIENT_KEY_PATH" if key is None else "TEMPORAL_TLS_CLIENT_CERT_PATH"
        yield Problem(missing, "should be set: a client certificate needs both the certificate and the key")


def _redis_conflicts(settings: Settings) -> Iterator[Problem]:
    if settings.redis_sentinels and settings.redis_host:
        yield Problem("REDIS_SENTINELS", "should not be set together with REDIS_HOST: the sentinels say where Redis is")
    if settings.redis_cluster_nodes and (settings.redis_host or settings.redis_sentinels):
        yield Problem("REDIS_CLUSTER_NODES", "should not be set together with REDIS_HOST or REDIS_SENTINELS")


def _unreadable_files(settings: Settings) -> Iterator[Problem]:
    for name in _FILES:
        path = getattr(settings, name)
        if path is None:
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            yield Problem(name.upper(), f"{path} cannot be read: {error.strerror}")
        else:
            if not content.strip():
                yield Problem(name.upper(), f"{path} is empty")


def _mode_warnings(settings: Settings) -> Iterator[Problem]:
    if "mode" not in settings.given:
        yield Problem(
            "MODE", "is not set, which means cloud: tools run in Daytona sandboxes, with local on this machine"
        )


def _model_warnings(settings: Settings) -> Iterator[Problem]:
    provider, needs_key = settings.stigmer_llm_provider, settings.stigmer_llm_base_url is None
    if provider in {"openai", "anthropic"} and needs_key and settings.stigmer_llm_api_key is None:
        own = f"{provider.upper()}_API_KEY"
        yield Problem("STIGMER_LLM_API_KEY", f"is not set, nor is {own}: executions that need it will be refused")
    if not settings.stigmer_llm_model:
        yield Problem("STIGMER_LLM_MODEL", "is not set: each request has to name a model")


def _exposure_warnings(settings: Settings) -> Iterator[Problem]:
    is_local = all(is_loopback(parse_address(each)) for each in settings.listen_addresses())
    if not is_local and settings.tls_cert_file is None:
        yield Problem("TLS_CERT_FILE", "is not set: the token and everything else crosses the network in the clear")


def _secret_warnings(settings: Settings) -> Iterator[Problem]:
    token = settings.auth_token.get_secret_value() if settings.auth_token else ""
    if token and len(token) < _MIN_TOKEN_CHARACTERS:
        yield Problem("AUTH_TOKEN", f"is shorter than {_MIN_TOKEN_CHARACTERS} characters: it can be guessed")
    if (path := settings.auth_token_file) is not None:
        with suppress(OSError):
            if len(path.read_bytes().strip()) < _MIN_TOKEN_CHARACTERS:
                yield Problem(
                    "AUTH_TOKEN_FILE", f"{path} holds fewer than {_MIN_TOKEN_CHARACTERS} characters: it can be guessed"
                )
    for name in ("auth_token_file", "callers_file", "tls_key_file", "temporal_tls_client_key_path"):
        path = getattr(settings, name)
        with suppress(OSError):
            if path is not None and (mode := path.stat().st_mode & 0o077):
                yield Problem(name.upper(), f"{path} has mode {mode | 0o600:04o}: others can read it; chmod 600 it")


def _export_warnings(settings: Settings) -> Iterator[Problem]:
    traces, metrics = settings.exports_traces(), settings.exports_metrics()
    if traces and settings.otel_traces_exporter != "otlp":
        yield Problem("OTEL_TRACES_EXPORTER", "can only be otlp or none here: spans go out by otlp")
    if metrics and settings.otel_metrics_exporter != "otlp":
        yield Problem("OTEL_METRICS_EXPORTER", "can only be otlp or none here: metrics go out by otlp")
    if (traces or metrics) and settings.otel_exporter_otlp_protocol != "http/protobuf":
        yield Problem("OTEL_EXPORTER_OTLP_PROTOCOL", "can only be http/protobuf here: spans and metrics go out by that")
