"""System calls by which a thread restricts itself and what it starts: Landlock, seccomp, capabilities, keyrings.

All are of the calling thread alone, inherited by what it starts, and cannot be undone. Linux only.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1

_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE, _OFFSET_FIRST_ARGUMENT = 0, 4, 16  # the lower half: both are little-endian
_OFFSETS_OF_SECOND_ARGUMENT = (24, 28)
_INSTRUCTION_BYTES = 8
_X32_BIT = 0x40000000
_CLONE_NEWCGROUP = 0x02000000

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBERS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "socket": 41,
        "socketpair": 53,
        "clone": 56,
        "capset": 126,
        "kexec_load": 246,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "unshare": 272,
        "perf_event_open": 298,
        "open_by_handle_at": 304,
        "seccomp": 317,
        "bpf": 321,
    },
    "aarch64": {
        "socket": 198,
        "socketpair": 199,
        "capset": 91,
        "unshare": 97,
        "kexec_load": 104,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "clone": 220,
        "perf_event_open": 241,
        "open_by_handle_at": 265,
        "seccomp": 277,
        "bpf": 280,
    },
}
_NUMBERS_EVERYWHERE = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435}

DENIED_ALWAYS = (
    "add_key",
    "request_key",
    "bpf",
    "perf_event_open",
    "open_by_handle_at",
    "kexec_load",
)
"""What no command needs, and what reaches beyond namespaces: keyrings of the user, kernel interfaces."""

IO_URING = ("io_uring_setup", "io_uring_enter", "io_uring_register")

NAMESPACED_FAMILIES = (1, 2, 10, 16)
"""Families of sockets that a network namespace holds: unix, IPv4, IPv6, netlink. Vsock, for one, leads to the host."""

_libc = ctypes.CDLL(None, use_errno=True)


class UnsupportedError(Exception):
    """The kernel or the architecture does not offer this; the text says which."""


def set_no_new_privileges() -> None:
    """Makes setuid programs and file capabilities gain nothing."""
    _check("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def drop_capabilities() -> None:
    """Drops all capabilities of this thread, for good."""
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # without CAP_SETPCAP no_new_privs does it
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _check("capset", _libc.syscall(_number("capset"), header, bytes(24)))


def join_new_keyring() -> None:
    """Leaves the session keyring of the service for an empty one; a kernel without keyrings has none to leave."""
    _libc.syscall(_number("keyctl"), _KEYCTL_JOIN_SESSION_KEYRING, None)


def deny_system_calls(names: Iterable[str], families: Sequence[int] = ()) -> None:
    """Has system calls of this thread refused as `filter_program` says."""
    program = filter_program(list(names), families)
    instructions = ctypes.create_string_buffer(program)
    fprog = struct.pack("HxxxxxxP", len(program) // _INSTRUCTION_BYTES, ctypes.addressof(instructions))
    _check(
        "seccomp",
        _libc.syscall(_number("seccomp"), _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_SPEC_ALLOW, fprog),
    )


def landlock_abi() -> int:
    """Returns the version of Landlock; 0 where there is none."""
    return max(0, int(_libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)))


def restrict_by_landlock(access: int, network: int, scopes: int, rules: Sequence[tuple[str, int]]) -> None:
    """Restricts this thread: of `access` only what the rules (path, access below it) allow. Missing paths are skipped.

    `network` are accesses to TCP ports, of which none is allowed; `scopes` are what must stay inside the domain.
    """
    attributes = struct.pack("QQQ", access, network, scopes)[: _ruleset_bytes()]
    ruleset = _check("landlock", _libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path, allowed in rules:
            _add_rule(ruleset, path, allowed)
        _check("landlock", _libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _add_rule(ruleset: int, path: str, allowed: int) -> None:
    if sys.platform != "linux":
        raise NotImplementedError
    try:
        directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = struct.pack("=Qi", allowed, directory)
        _check("landlock", _libc.syscall(LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(directory)


def _ruleset_bytes() -> int:
    abi = landlock_abi()
    return 24 if abi >= 6 else 16 if abi >= 4 else 8  # noqa: PLR2004  # versions that added a field


def filter_program(names: Sequence[str], families: Sequence[int] = ()) -> bytes:
    """Returns a seccomp filter that refuses system calls: with EPERM; io_uring and foreign architectures with ENOSYS.

    With `families`, sockets of any other family are refused with EAFNOSUPPORT; io_uring has to be refused then, too.

    Refused in any case are keyctl, but for joining a new session keyring, and namespaces of control groups: in one of
    them, and a user namespace, the groups of the service can be mounted and written by whoever owns their files.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise UnsupportedError(f"seccomp filters for {machine} are not known")
    program = [
        _instruction(_LOAD_WORD, 0, 0, _OFFSET_ARCHITECTURE),
        _instruction(_JUMP_EQUAL, 1, 0, ARCHITECTURES[machine]),
        _refusal(errno.ENOSYS),
        _instruction(_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
        _instruction(_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        _refusal(errno.ENOSYS),
    ]
    for name in (*names, "clone3"):  # no filter sees the flags of clone3; C libraries use clone where it is missing
        code = errno.ENOSYS if name in _NUMBERS_EVERYWHERE else errno.EPERM
        program += [_instruction(_JUMP_EQUAL, 0, 1, _number(name)), _refusal(code)]
    program += [*_no_control_group_namespace(), *_only_new_keyrings()]
    if families:
        program += _only_families(families)
    return b"".join([*program, _ALLOW])


def _no_control_group_namespace() -> list[bytes]:
    return [
        _instruction(_JUMP_EQUAL, 1, 0, _number("clone")),
        _instruction(_JUMP_EQUAL, 0, 4, _number("unshare")),
        _instruction(_LOAD_WORD, 0, 0, _OFFSET_FIRST_ARGUMENT),
        _instruction(_JUMP_IF_SET, 0, 1, _CLONE_NEWCGROUP),
        _refusal(errno.EPERM),
        _ALLOW,
    ]


def _only_new_keyrings() -> list[bytes]:
    """Returns instructions that refuse keyctl, but for joining a session keyring without a name: a new one."""
    low, high = _OFFSETS_OF_SECOND_ARGUMENT
    return [
        _instruction(_JUMP_EQUAL, 0, 8, _number("keyctl")),
        _instruction(_LOAD_WORD, 0, 0, _OFFSET_FIRST_ARGUMENT),
        _instruction(_JUMP_EQUAL, 0, 4, _KEYCTL_JOIN_SESSION_KEYRING),
        _instruction(_LOAD_WORD, 0, 0, low),
        _instruction(_JUMP_EQUAL, 0, 2, 0),
        _instruction(_LOAD_WORD, 0, 0, high),
        _instruction(_JUMP_EQUAL, 1, 0, 0),
        _refusal(errno.EPERM),
        _ALLOW,
    ]


def _only_families(families: Sequence[int]) -> list[bytes]:
    """Returns instructions that refuse sockets of other families, and go on after themselves for all else."""
    return [
        _instruction(_JUMP_EQUAL, 0, len(families) + 2, _number("socket")),
        _instruction(_LOAD_WORD, 0, 0, _OFFSET_FIRST_ARGUMENT),
        *(_instruction(_JUMP_EQUAL, len(families) - index, 0, each) for index, each in enumerate(families)),
        _refusal(errno.EAFNOSUPPORT),
    ]


def _refusal(code: int) -> bytes:
    return _instruction(_RETURN, 0, 0, _RET_ERRNO | code)


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


_ALLOW = _instruction(_RETURN, 0, 0, _RET_ALLOW)


def _number(name: str) -> int:
    if name in _NUMBERS_EVERYWHERE:
        return _NUMBERS_EVERYWHERE[name]
    machine = platform.machine()
    if machine not in NUMBERS:
        raise UnsupportedError(f"system calls of {machine} are not known")
    return NUMBERS[machine][name]


def _check(what: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
