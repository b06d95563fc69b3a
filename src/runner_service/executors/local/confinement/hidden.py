"""Paths that no confined execution may see: state, keys, credentials, sockets, other users' homes."""

import os
import pwd
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

CREDENTIALS = (
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".config/gcloud",
    ".kube",
    ".docker",
    ".netrc",
    ".git-credentials",
    ".config/gh",
    ".pypirc",
    ".npmrc",
    ".Xauthority",
    ".ICEauthority",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".config/chromium",
    ".config/composer/auth.json",
    ".config/containers",
    ".config/doctl",
    ".config/git/credentials",
    ".config/github-copilot",
    ".config/glab-cli",
    ".config/google-chrome",
    ".config/hub",
    ".config/op",
    ".config/rclone",
    ".databrickscfg",
    ".gem/credentials",
    ".gemini/oauth_creds.json",
    ".huggingface/token",
    ".kaggle",
    ".local/share/keyrings",
    ".mozilla",
    ".my.cnf",
    ".oci",
    ".password-store",
    ".pgpass",
    ".s3cfg",
    ".terraform.d/credentials.tfrc.json",
    ".terraformrc",
    ".vault-token",
)
"""Paths below the home directory that hold credentials."""

NAME_SERVICE_FILES = ("/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/localtime", "/etc/hosts")
CERTIFICATE_STORES = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates")
"""What name resolution and TLS need; wherever their links lead, the targets stay visible."""

_SOCKET_VARIABLES = (
    "XDG_RUNTIME_DIR",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
)
"""Variables of the service that hold paths of sockets, or addresses with such paths."""

_CREDENTIAL_VARIABLES = (
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_CONFIG_DIR",
    "CLOUDSDK_CONFIG",
    "DOCKER_CONFIG",
    "GH_CONFIG_DIR",
    "GNUPGHOME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "KUBECONFIG",
    "NETRC",
    "NPM_CONFIG_USERCONFIG",
    "PGPASSFILE",
    "REGISTRY_AUTH_FILE",
    "TF_CLI_CONFIG_FILE",
    "XAUTHORITY",
)
"""Variables of the service that say where else such credentials are: a path, or several with colons between them."""

_SOCKET_PATH = re.compile(r"(?:^|unix:(?://)?(?:path=)?)(/[^,;]+)")
_FIRST_ORDINARY_UID = 1000
_NOBODY_UID = 65534
_SHARED_HOMES = ("/", "/bin", "/dev", "/etc", "/nonexistent", "/tmp", "/usr", "/var")  # noqa: S108  # names, not used


def hidden_paths(home: str, secrets: Iterable[str | Path]) -> list[str]:
    """Returns the real paths, of those that exist, to hide. `secrets` are the service's own. Blocks.

    A path that appears only later, below a directory that is shown, is not hidden.
    """
    of_home = [f"{home}/{name}" for name in CREDENTIALS]
    found = [*of_home, *_named_credentials(), *map(str, secrets), *_other_homes(home), *_runtime_sockets()]
    return sorted({os.path.realpath(path) for path in found if os.path.lexists(path)})


def name_service_targets() -> list[str]:
    """Returns the real paths of what name resolution needs, where it lies outside /etc and /usr. Blocks."""
    targets = [os.path.realpath(path) for path in (*NAME_SERVICE_FILES, *CERTIFICATE_STORES)]
    return sorted({path for path in targets if not path.startswith(("/etc/", "/usr/")) and Path(path).exists()})


def _named_credentials() -> Iterator[str]:
    for name in _CREDENTIAL_VARIABLES:
        yield from (path for path in os.environ.get(name, "").split(":") if path.startswith("/") and path != "/")


def _runtime_sockets() -> list[str]:
    """Returns where sockets of the system and of sessions are: docker, D-Bus, ssh-agent, Wayland."""
    named = [os.environ.get(name, "") for name in _SOCKET_VARIABLES]
    paths = [path for text in named for path in _SOCKET_PATH.findall(text)]
    return ["/run", *paths]


def _other_homes(home: str) -> Iterator[str]:
    yield from (path for path in ("/home", "/root") if path != home)
    for user in pwd.getpwall():
        is_ordinary = _FIRST_ORDINARY_UID <= user.pw_uid != _NOBODY_UID
        if is_ordinary and user.pw_dir not in _SHARED_HOMES and not Path(home).is_relative_to(user.pw_dir):
            yield user.pw_dir
