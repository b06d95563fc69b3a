"""Ways out of a cell: what a command may try, in which level, and what keeps it in.

Each is a script for bash that prints ESCAPED when it got somewhere. The variables that it uses are set by the program
`escape_program.py`, which builds the place, as root or as an ordinary user. Standard library only.
"""

from typing import NamedTuple

PTRACE = "import ctypes, sys; sys.exit(ctypes.CDLL(None, use_errno=True).ptrace(16, int(sys.argv[1]), None, None) != 0)"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
UNIX = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1].replace('@', chr(0)))"
UDP = (
    "import socket, sys, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "s.connect((sys.argv[1], int(sys.argv[2]))); s.send(b'x'); time.sleep(.2); s.send(b'x')"
)
SYSCALL = "import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(*map(int, sys.argv[1:])) < 0)"
REQUEST_KEY = (
    "import ctypes, platform, sys; number = {'x86_64': 249, 'aarch64': 218}[platform.machine()]; "
    "sys.exit(ctypes.CDLL(None).syscall(number, b'user', sys.argv[1].encode(), None, 0) < 0)"
)
BPF = "$([ $(uname -m) = x86_64 ] && echo 321 || echo 280)"
PERF = "$([ $(uname -m) = x86_64 ] && echo 298 || echo 241)"
FAMILY = "import socket, sys; socket.socket(int(sys.argv[1]), int(sys.argv[2]))"
IO_URING = "import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(425, 4, bytes(120)) < 0)"
TAKE_DESCRIPTOR = (
    "import ctypes, os, sys; process = os.pidfd_open(int(sys.argv[1])); "
    "sys.exit(all(ctypes.CDLL(None).syscall(438, process, number, 0) < 0 for number in range(64)))"
)
TALK_TO_PROXY = "exec 3<>/dev/tcp/127.0.0.1/${HTTP_PROXY##*:}; printf '%b' \"$REQUEST\" >&3; head -1 <&3 | grep ' 200 '"
FROM_MEMORY = (
    "import os; file = os.memfd_create('x', 0); os.write(file, open('/bin/grep', 'rb').read()); "
    "os.execv('/proc/self/fd/' + str(file), ['grep', '-qE', 'Seccomp:.0', '/proc/self/status'])"
)
TERMINAL = "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)"
NAMED_PIPE = "import os, sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)"
READ_MEMORY = (
    "import ctypes, platform, struct, sys; pid = int(sys.argv[1]); "
    "number = {'x86_64': 310, 'aarch64': 270}[platform.machine()]; held = ctypes.create_string_buffer(8); "
    "start = int(open('/proc/' + str(pid) + '/maps').readline().split('-')[0], 16); "
    "own = struct.pack('PN', ctypes.addressof(held), 8); other = struct.pack('PN', start, 8); "
    "sys.exit(ctypes.CDLL(None).syscall(number, pid, own, 1, other, 1, 0) != 8)"
)
FD_LEAK = (
    "import os; found = [each for each in os.listdir('/proc/self/fd') "
    "if os.path.isdir('/proc/self/fd/' + each) and not os.readlink('/proc/self/fd/' + each).startswith('/proc')]; "
    "raise SystemExit(not found)"
)
CHROOT = (
    "import os; os.mkdir('x') if not os.path.isdir('x') else None; os.chroot('x'); "
    "[os.chdir('..') for _ in range(64)]; os.chroot('.'); print(open(os.environ['STATE'] + '/secret').read())"
)


class Escape(NamedTuple):
    """A way out. `files` and `network` are the level; `kept_by` is what holds, for the docs."""

    group: str
    name: str
    script: str
    kept_by: str
    files: str = "workspace"
    network: str = "all"
    root: str = "root"
    """Which directory of the place is the sandbox's: `root`, `forged` (a worktree that is none), `session`."""


def python(code: str, *arguments: str) -> str:
    return f'{PYTHON} -c "{code}" {" ".join(arguments)} 2>/dev/null && echo ESCAPED'


def in_namespaces(what: str, *arguments: str) -> str:
    """Returns a script that tries something of `in_namespaces.py`, in a directory of its own."""
    quoted = " ".join(f'"{each}"' for each in arguments)
    return f'mkdir -p "$ROOT/try-{what}"; cd "$ROOT/try-{what}"; {PYTHON} "$ROOT/in_namespaces.py" {what} {quoted}'


PYTHON = "python3 -I -S"
WRITE = 'echo x > "$OUTSIDE/new" && echo ESCAPED'
SECRET = 'grep -q secret "$STATE/secret" && echo ESCAPED'

GAPS_OF_THREAD = {
    "read /etc/shadow at STRICT": "names-visible",
    "a socket elsewhere, at STRICT": "unix-sockets",
    "change the mode of a file outside": "metadata-outside",
    "change the times of a file outside": "metadata-outside",
    "list STATE_DIR": "names-visible",
    "find a block device": "names-visible",
    "see a process outside": "processes-visible",
    "shared memory of outside": "names-visible",
    "a socket in the runtime directory": "unix-sockets",
    "a socket in /tmp": "unix-sockets",
    "the agent that SSH_AUTH_SOCK names": "unix-sockets",
    "write a hook": "git-hooks",
    "set core.hooksPath": "git-hooks",
    "append to .git/config": "git-hooks",
    "move .git aside": "git-hooks",
    "move the hooks aside": "git-hooks",
    "write a hook of a repository below": "git-hooks",
    "write the settings of a submodule": "git-hooks",
    "remove .git": "git-hooks",
    "see the machine's interfaces": "interfaces-visible",
}
"""By name: what may get out of a restricted thread, and by which of the gaps that `started` names."""

ESCAPES = [
    Escape("Files", "write a file outside the root", WRITE, "read-only mount"),
    Escape("Files", "append to a file outside", 'echo x >> "$OUTSIDE/file" && echo ESCAPED', "read-only mount"),
    Escape(
        "Files", "change the mode of a file outside", 'chmod 777 "$OUTSIDE/file" && echo ESCAPED', "read-only mount"
    ),
    Escape("Files", "change the times of a file outside", 'touch "$OUTSIDE/file" && echo ESCAPED', "read-only mount"),
    Escape("Files", "read STATE_DIR", SECRET, "hidden by an empty mount"),
    Escape("Files", "list STATE_DIR", '[ -n "$(ls -A "$STATE")" ] && echo ESCAPED', "hidden by an empty mount"),
    Escape("Files", "write into the mount that hides", 'touch "$STATE/x" && echo ESCAPED', "the mount is read-only"),
    Escape("Files", "read an SSH key", 'cat "$HOME/.ssh/id" && echo ESCAPED', "hidden"),
    Escape("Files", "read ~/.netrc", '[ -s "$HOME/.netrc" ] && cat "$HOME/.netrc" && echo ESCAPED', "hidden"),
    Escape("Files", "read credentials below ~/.config", 'cat "$HOME/.config/gh/hosts" && echo ESCAPED', "hidden"),
    Escape("Files", "read the X server's cookie", 'grep -q secret "$HOME/.Xauthority" && echo ESCAPED', "hidden"),
    Escape(
        "Files",
        "read credentials that a variable of the service names",
        'grep -q secret "$OUTSIDE/kube/settings" && echo ESCAPED',
        "hidden",
    ),
    Escape("Files", "read the token file of the service", '[ -s "$TOKEN" ] && cat "$TOKEN" && echo ESCAPED', "hidden"),
    Escape("Files", "read what the request hides", 'cat "$ROOT/deep/below/hidden/file" && echo ESCAPED', "hidden"),
    Escape(
        "Files",
        "move a directory above what is hidden in the root",
        'mv "$ROOT/deep" "$ROOT/deeper" && echo ESCAPED',
        "each directory above is a mount point",
    ),
    Escape(
        "Files", "write through a symlink", 'ln -sf "$OUTSIDE" l; echo x > l/new && echo ESCAPED', "read-only mount"
    ),
    Escape(
        "Files", "hard-link a file of outside", 'ln "$OUTSIDE/file" h && echo x >> h && echo ESCAPED', "another mount"
    ),
    Escape("Files", "move a file of outside in", 'mv "$OUTSIDE/file" here && echo ESCAPED', "read-only mount"),
    Escape(
        "Files",
        "read another session's directory",
        'cat "$ROOT/../other/file" && echo ESCAPED',
        "hidden",
        root="session",
    ),
    Escape(
        "Files", "write the root at READ_ONLY", "echo x > new && echo ESCAPED", "read-only mount", files="read_only"
    ),
    Escape("Files", "read outside at STRICT", 'cat "$OUTSIDE/file" && echo ESCAPED', "not there", files="strict"),
    Escape("Files", "read the home at STRICT", 'ls "$HOME/plain" && echo ESCAPED', "not there", files="strict"),
    Escape("Files", "read /etc/shadow at STRICT", "ls /etc/shadow && echo ESCAPED", "not there", files="strict"),
    Escape("Files", "write / at STRICT", "touch /new && echo ESCAPED", "read-only mount", files="strict"),
    Escape("Files", "write the shell's start files", 'echo x >> "$HOME/.bashrc" && echo ESCAPED', "read-only mount"),
    Escape("Files", "fill /dev", "head -c 1000000 /dev/zero > /dev/x && echo ESCAPED", "read-only mount"),
    Escape("Mounts", "remount / writable", f"mount -o remount,bind,rw / && {WRITE}", "no capabilities"),
    Escape("Mounts", "unmount what hides STATE_DIR", f'umount "$STATE" && {SECRET}', "no capabilities"),
    Escape("Mounts", "detach what hides STATE_DIR", f'umount -l "$STATE" && {SECRET}', "no capabilities"),
    Escape("Mounts", "mount something", "mount -t tmpfs none /mnt && echo ESCAPED", "no capabilities"),
    Escape(
        "Mounts",
        "bind outside into the root",
        'mkdir -p b; mount --bind "$OUTSIDE" b && echo ESCAPED',
        "no capabilities",
    ),
    Escape(
        "Mounts",
        "remount in a user namespace",
        in_namespaces("remount", "$OUTSIDE"),
        "the kernel locks mounts that a namespace inherits",
    ),
    Escape(
        "Mounts",
        "unmount in a user namespace",
        in_namespaces("unmount", "$STATE"),
        "the kernel locks mounts that a namespace inherits",
    ),
    Escape(
        "Mounts",
        "make another bind of / in a user namespace",
        in_namespaces("bind", "$STATE"),
        "mounts below come along, or none does",
    ),
    Escape(
        "Mounts",
        "clone the tree without its mounts in a user namespace",
        in_namespaces("clone_tree", "$STATE"),
        "mounts below come along, or none does",
    ),
    Escape(
        "Mounts",
        "lay another file system over / in a user namespace",
        in_namespaces("overlay", "$STATE"),
        "a layer with locked mounts is refused",
    ),
    Escape(
        "Mounts",
        "join the user namespace that owns the mounts",
        in_namespaces("owner_of_mounts"),
        "it lies above",
    ),
    Escape(
        "Mounts",
        "leave by chroot in a user namespace",
        f'unshare -Ur {PYTHON} -c "{CHROOT}" && echo ESCAPED',
        "the root is the cell's",
    ),
    Escape(
        "Mounts",
        "the root directory of the cell's first process",
        f"{SECRET.replace('$STATE', '/proc/1/root/$STATE')}",
        "it sees the same",
    ),
    Escape("Mounts", "an inherited directory descriptor", python(FD_LEAK), "none is passed on"),
    Escape(
        "Mounts",
        "join the mount namespace of another process",
        "nsenter -t 1 -m true && echo ESCAPED",
        "no capabilities",
    ),
    Escape(
        "Kernel",
        "write kernel settings",
        "cat /proc/sys/vm/swappiness > /proc/sys/vm/swappiness && echo ESCAPED",
        "read-only mount",
    ),
    Escape("Kernel", "write /proc/sysrq-trigger", ": >> /proc/sysrq-trigger && echo ESCAPED", "read-only mount"),
    Escape(
        "Kernel", "write /sys", ": >> /sys/kernel/mm/transparent_hugepage/enabled && echo ESCAPED", "read-only mount"
    ),
    Escape("Kernel", "write control groups", ": >> /sys/fs/cgroup/cgroup.procs && echo ESCAPED", "read-only mount"),
    Escape(
        "Kernel", "make a device", "mknod d b 254 0 && head -c 1 d && echo ESCAPED", "no capabilities, nodev mounts"
    ),
    Escape(
        "Kernel",
        "find a block device",
        "ls /dev | grep -E '^(vd|sd|nvme|loop|dm-|kvm|mem|fuse)' && echo ESCAPED",
        "a /dev of its own",
    ),
    Escape(
        "Kernel",
        "set the program for core dumps",
        ": >> /proc/sys/kernel/core_pattern && echo ESCAPED",
        "read-only mount",
    ),
    Escape(
        "Kernel",
        "mount control groups in a user namespace",
        in_namespaces("control_groups"),
        "seccomp: no namespaces of control groups",
    ),
    Escape(
        "Kernel",
        "mount another /sys in a user namespace",
        in_namespaces("devices"),
        "the cell's is read-only, which the kernel keeps",
    ),
    Escape(
        "Kernel",
        "mount another /proc in a user namespace",
        in_namespaces("processes"),
        "the cell's is covered in part, which the kernel keeps",
    ),
    Escape(
        "Kernel",
        "handle page faults of the kernel",
        python(SYSCALL, "$([ $(uname -m) = x86_64 ] && echo 323 || echo 282)", "0"),
        "no capabilities",
    ),
    Escape("Kernel", "read kernel memory", "head -c 1 /proc/kcore && echo ESCAPED", "no capabilities"),
    Escape("Kernel", "read the kernel's log", "dmesg && echo ESCAPED", "no capabilities"),
    Escape(
        "Kernel",
        "open a file by its handle",
        python(SYSCALL, "$([ $(uname -m) = x86_64 ] && echo 304 || echo 265)", "-100", "0", "0"),
        "seccomp",
    ),
    Escape("Kernel", "load BPF", python(SYSCALL, BPF, "0", "0", "0"), "seccomp"),
    Escape("Kernel", "use performance events", python(SYSCALL, PERF, "0", "0", "-1", "-1", "0"), "seccomp"),
    Escape(
        "Kernel",
        "find a key in the service's keyring",
        python(REQUEST_KEY, '"$KEY"'),
        "seccomp, a session keyring of its own",
    ),
    Escape(
        "Privileges",
        "hold capabilities",
        "grep CapEff /proc/self/status | grep -vq 0000000000000000 && echo ESCAPED",
        "dropped",
    ),
    Escape(
        "Privileges", "gain by setuid", "grep -q 'NoNewPrivs:.0' /proc/self/status && echo ESCAPED", "no new privileges"
    ),
    Escape("Privileges", "run a program from memory without the filter", python(FROM_MEMORY), "seccomp is inherited"),
    Escape("Privileges", "use a terminal of the user", python(TERMINAL, '"$TERMINAL"'), "terminals of its own"),
    Escape("Privileges", "type into the terminal", "(: > /dev/tty) && echo ESCAPED", "no terminal"),
    Escape(
        "Processes",
        "see a process outside",
        '[ -n "$(grep -las "[${MARKER:0:1}]${MARKER:1}" /proc/[0-9]*/cmdline)" ] && echo ESCAPED',
        "PID namespace",
    ),
    Escape(
        "Processes",
        "read another process's environment",
        'cat "/proc/$VICTIM/environ" && echo ESCAPED',
        "PID namespace",
    ),
    Escape("Processes", "signal a process outside", 'kill -0 "$VICTIM" && echo ESCAPED', "PID namespace"),
    Escape("Processes", "trace a process outside", python(PTRACE, "$VICTIM"), "PID namespace"),
    Escape(
        "Processes",
        "read the supervisor's environment",
        "grep -qa SERVICE_SECRET /proc/$PPID/environ && echo ESCAPED",
        "not dumpable, and empty",
    ),
    Escape(
        "Processes",
        "read the environment of the cell's first process",
        "grep -qa SERVICE_SECRET /proc/1/environ && echo ESCAPED",
        "started without",
    ),
    Escape("Processes", "trace the supervisor", python(PTRACE, "$PPID"), "not dumpable"),
    Escape("Processes", "trace the cell's first process", python(PTRACE, "1"), "another Landlock domain"),
    Escape(
        "Processes",
        "write the memory of the cell's first process",
        "(: >> /proc/1/mem) && echo ESCAPED",
        "another Landlock domain",
    ),
    Escape(
        "Processes",
        "take a descriptor of the cell's first process",
        python(TAKE_DESCRIPTOR, "1"),
        "another Landlock domain",
    ),
    Escape("Processes", "take a descriptor of the supervisor", python(TAKE_DESCRIPTOR, "$PPID"), "not dumpable"),
    Escape(
        "Processes",
        "write the supervisor's memory through its threads",
        "for each in /proc/$PPID/task/*; do (: >> $each/mem) && echo ESCAPED; done",
        "not dumpable",
    ),
    Escape(
        "Processes",
        "read the memory of the cell's first process",
        python(READ_MEMORY, "1"),
        "another Landlock domain",
    ),
    Escape("Processes", "read the supervisor's memory", python(READ_MEMORY, "$PPID"), "not dumpable"),
    Escape(
        "Processes",
        "compare what the supervisor holds with its own (kcmp)",
        python(SYSCALL, "$([ $(uname -m) = x86_64 ] && echo 312 || echo 272)", "$$", "$PPID", "2", "0", "0"),
        "not dumpable",
    ),
    Escape("Processes", "shared memory of outside", 'ls "/dev/shm/$MARKER" && echo ESCAPED', "a /dev/shm of its own"),
    Escape("Processes", "System V memory of outside", "ipcs -m | grep -q 0x && echo ESCAPED", "IPC namespace"),
    Escape("Sockets", "a socket in the runtime directory", python(UNIX, '"$SOCKET"'), "hidden"),
    Escape("Sockets", "a socket in /tmp", python(UNIX, '"$TMP_SOCKET"'), "a /tmp of its own"),
    Escape("Sockets", "the agent that SSH_AUTH_SOCK names", python(UNIX, '"$AGENT"'), "hidden"),
    Escape(
        "Sockets",
        "a named pipe elsewhere, at STRICT",
        python(NAMED_PIPE, '"$OUTSIDE/pipe"'),
        "not there",
        files="strict",
    ),
    Escape("Sockets", "docker.sock", "ls /run/docker.sock /var/run/docker.sock && echo ESCAPED", "/run is hidden"),
    Escape("Sockets", "the bus of the system", "ls /run/dbus/system_bus_socket && echo ESCAPED", "/run is hidden"),
    Escape("Sockets", "an abstract socket", python(UNIX, '"@$MARKER"'), "Landlock scope, or the network namespace"),
    Escape("Sockets", "a socket elsewhere, at STRICT", python(UNIX, '"$OUTSIDE/socket"'), "not there", files="strict"),
    Escape(
        "Network",
        "the loopback of the machine",
        python(CONNECT, "127.0.0.1", "$PORT"),
        "network namespace",
        network="none",
    ),
    Escape("Network", "the loopback by IPv6", python(CONNECT, "::1", "$PORT6"), "network namespace", network="none"),
    Escape(
        "Network", "the loopback by UDP", python(UDP, "127.0.0.1", "$UDP_PORT"), "network namespace", network="none"
    ),
    Escape(
        "Network",
        "the machine by its address",
        python(CONNECT, "$ADDRESS", "$ANY_PORT"),
        "network namespace",
        network="none",
    ),
    Escape(
        "Network",
        "DNS by UDP",
        python(UDP, "$(awk '/^nameserver/{print $2; exit}' /etc/resolv.conf)", "53"),
        "network namespace",
        network="none",
    ),
    Escape(
        "Network",
        "see the machine's interfaces",
        "tail -n +3 /proc/net/dev | grep -v ' lo:' && echo ESCAPED",
        "network namespace",
        network="none",
    ),
    Escape(
        "Network",
        "an abstract socket, without network",
        python(UNIX, '"@$MARKER"'),
        "network namespace",
        network="none",
    ),
    Escape("Network", "the host of a virtual machine by vsock", python(FAMILY, "40", "1"), "seccomp", network="none"),
    Escape("Network", "vsock, past the proxy", python(FAMILY, "40", "1"), "seccomp", network="proxy"),
    Escape("Network", "sockets by io_uring", python(IO_URING), "seccomp", network="none"),
    Escape("Network", "packets of the machine", python(FAMILY, "17", "2"), "seccomp, no capabilities", network="none"),
    Escape(
        "Network",
        "the loopback past the proxy",
        python(CONNECT, "127.0.0.1", "$PORT"),
        "network namespace",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback through the proxy",
        'curl -sf -m 5 --noproxy "" "http://127.0.0.1:$PORT/" && echo ESCAPED',
        "not allowed",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback by another way to write it",
        'for host in 2130706433 0x7f.1 127.1 "[::ffff:127.0.0.1]" 0; '
        'do curl -sf -m 5 --noproxy "" "http://$host:$PORT/" && echo ESCAPED; done',
        "not allowed",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback by an allowed name",
        'curl -sf -m 5 --noproxy "" "http://localhost:$PORT/" && echo ESCAPED',
        "private addresses need to be named",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback by an allowed name in upper case, with a final dot",
        'curl -sf -m 5 --noproxy "" -p "http://LOCALHOST.:$PORT/" && echo ESCAPED',
        "private addresses need to be named",
        network="proxy",
    ),
    Escape(
        "Network",
        "another port of an allowed address",
        'curl -sf -m 5 --noproxy "" -p "http://$ADDRESS:$PORT_OF_ALL/" && echo ESCAPED',
        "not allowed",
        network="proxy",
    ),
    Escape(
        "Network",
        "port 25 of an allowed name",
        'curl -sf -m 5 --noproxy "" -p http://localhost:25/ && echo ESCAPED',
        "a name without a port is allowed at 80 and 443",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback by a redirect of an allowed address",
        'curl -sfL -m 5 --noproxy "" "http://$ADDRESS:$REDIRECTING_PORT/" && echo ESCAPED',
        "not allowed",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback by a request of HTTP/2",
        f"REQUEST='PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'; {TALK_TO_PROXY} && echo ESCAPED",
        "HTTP/1 only",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback by a line feed in the request line",
        'REQUEST="GET http://localhost:1/ HTTP/1.1\\nHost: 127.0.0.1:$PORT\\r\\n\\r\\n"; '
        f"{TALK_TO_PROXY} && echo ESCAPED",
        "control characters are refused",
        network="proxy",
    ),
    Escape(
        "Network",
        "link-local by an address that is mapped to IPv6",
        'curl -sf -m 5 --noproxy "" -p "http://[::ffff:169.254.169.254]/" && echo ESCAPED',
        "not allowed",
        network="proxy",
    ),
    Escape(
        "Network",
        "link-local by CONNECT",
        'curl -sf -m 5 --noproxy "" -p http://169.254.169.254/ && echo ESCAPED',
        "not allowed",
        network="proxy",
    ),
    Escape(
        "Network",
        "the loopback by IPv6 and CONNECT",
        'curl -sf -m 5 --noproxy "" -p "http://[::1]:$PORT6/" && echo ESCAPED',
        "not allowed",
        network="proxy",
    ),
    Escape("Git", "write a hook", 'echo "touch pwned" > .git/hooks/post-commit && echo ESCAPED', "read-only mount"),
    Escape("Git", "set core.hooksPath", "git config core.hooksPath /tmp && echo ESCAPED", "read-only mount"),
    Escape("Git", "append to .git/config", "echo x >> .git/config && echo ESCAPED", "read-only mount"),
    Escape("Git", "move .git aside", "mv .git .git2 && echo ESCAPED", ".git is a mount point"),
    Escape("Git", "move the hooks aside", "mv .git/hooks .git/hooks2 && echo ESCAPED", "hooks is a mount point"),
    Escape(
        "Git",
        "write a hook of a repository below",
        "echo x > sub/.git/hooks/post-commit && echo ESCAPED",
        "read-only mount",
    ),
    Escape(
        "Git",
        "write the settings of a submodule",
        "echo x >> .git/modules/part/config && echo ESCAPED",
        "read-only mount",
    ),
    Escape("Git", "remove .git", "rm -rf .git 2>/dev/null; [ -d .git ] || echo ESCAPED", ".git is a mount point"),
    Escape(
        "Git",
        "open another repository by a forged link",
        'echo x > "$OUTSIDE/repository/.git/x" && echo ESCAPED',
        "it does not name the root as its worktree",
        root="forged",
    ),
]
"""Every way out that is tried. All have to fail."""
