"""What to do where bubblewrap cannot make namespaces, by what the kernel's settings say."""

from pathlib import Path

_INSTALL = (
    "install bubblewrap 0.8 or newer (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"
)
_SETTINGS = Path("/proc/sys")


def remedy_for_missing() -> str:
    """Returns what to do when bubblewrap is not on the PATH, or too old."""
    return _INSTALL


def remedy_for(reason: str) -> str:
    """Returns what to do about a failure of bubblewrap, given what it said. Blocks."""
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "load Ubuntu's AppArmor profile for bubblewrap: apt-get install apparmor-profiles && "
            "ln -s /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && "
            "apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict"
        )
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return "allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1"
    if _setting("user/max_user_namespaces") == "0":
        return "allow user namespaces: sysctl -w user.max_user_namespaces=15000"
    if "ermission" in reason or "not permitted" in reason:
        return (
            "a seccomp or security profile forbids namespaces here: in a container, run it with a profile that allows "
            "clone(CLONE_NEWUSER), unshare and mount (docker run --security-opt seccomp=unconfined)"
        )
    return "run `bwrap --unshare-all --ro-bind / / true` by hand to see what fails"


def _setting(name: str) -> str:
    try:
        return (_SETTINGS / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
