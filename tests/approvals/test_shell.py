"""Shell texts against rules: nothing that is more than the allowed commands passes for them."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner_service.approvals import shell

ALLOWED = [
    ("git", "status"),
    ("git", "diff"),
    ("ls",),
    ("cat",),
    ("echo",),
    ("cd",),
    ("grep",),
    ("python", "-m", "pytest"),
    ("test",),
    ("wc",),
]

PLAIN = """
git status
git status --short
git status && git diff
git status; git diff --stat
git status || ls
ls -la | grep foo
ls | grep foo | wc -l
(cd src && ls)
! test -f x
cd src && git status
echo "two words"
echo 'one $HOME'
echo a"b"c
ls > /dev/null
ls >/dev/null 2>&1
ls 2> /dev/null
ls &> /dev/null
ls < /dev/null
ls # a comment
"git" status
'ls' -l
python -m pytest tests/unit -x
cat a.txt b.txt
grep -rn "def main" src
echo é
wc -l a.txt
test -d src && ls src
git diff -- src/a.py
git diff HEAD~1 2> /dev/null
git status --porcelain=v1
git diff HEAD^ HEAD~2
ls -la /usr/share
ls "a b" 'c d'
ls a=b
cat /etc/hostname | wc -l
grep "a|b" src/x.py
grep 'x*' a.txt
echo "a;b&c"
echo '$(rm x)'
echo '`rm x`'
(git status; (ls))
git status | cat | wc -l
test a = b || echo different
! grep -q x a.txt
python -m pytest -k "a and b"
cd "my dir" && ls
ls; ls; ls
ls\\nls\\ngit status
"""

NOT_PLAIN = r"""
git push
git status && rm -rf x
git status; rm x
git status || rm x
git status | tee x
git status & rm x
git status &
git statusx
gitstatus
git -C x status
git -c core.pager=x status
GIT_PAGER=x git status
/usr/bin/git status
ls $(rm x)
ls `rm x`
ls "$(rm x)"
ls "`rm x`"
ls ${x:-$(rm x)}
ls $HOME
ls "$HOME"
ls $((1+1))
ls *.py
ls ?.py
ls [ab].py
ls {a,b}
ls ~
ls ~root
ls > x
ls >> x
ls >| x
ls 2> x
ls &> x
ls > /dev/null > x
ls > /dev/nullx
ls > /dev/null/../x
ls < x
cat <<< x
cat << E
cat <(rm x)
cat >(rm x)
ls 3> x
ls >&3
echo x > "$y"
eval ls
exec ls
source x
. x
bash -c ls
sh x
env ls
sudo ls
xargs ls
command ls
builtin echo
nohup ls
timeout 1 ls
time ls
find . -delete
python -c x
python -m pip install x
node x
git status\
ls\attr
l\s
l''s-x
if true; then ls; fi
for x in a; do ls; done
while true; do ls; done
until ls; do ls; done
case x in x) ls;; esac
select x in a; do ls; done
{ ls; }
ls() { rm x; }; ls
function ls { rm x; }
[[ -f x ]]
[ -f x ]
((x++))
x=1
x=1 ls
x=(ls)
export X=1
declare X
readonly X=1
local x
unset x
alias ls=rm
trap "rm x" EXIT
coproc ls
echo $'\x72m'
echo $"x"
echo "a\"b"
echo "!!"
echo a\ b
ls |& rm
git rebase -x bash
ls && (rm x)
ls && { rm x; }
! rm x
(rm x)
((ls))
git status\nrm x
ls;;
ls &&
&& ls
| ls
ls |
"ls
'ls
ls "
ls )
( ls
ls ; ; ls
cat /dev/null > x
printf -v x y
read x
set -e
shopt -s x
kill 1
rm x
git diff --output=x > y
git log
git status --help | less
git status ; : > x
git status >&2 > x
git status 1> x
git status 2>> x
git status &>> x
git status <> x
git status 2>&1 > x
git status >/dev/null; rm x
git status ||rm x
git status|sh
git status|tee x
git status\ttail
ls -la;rm x
ls && eval "rm x"
ls && source /tmp/x
ls $@
ls $*
ls $1
ls $?
ls $!
ls $-
ls ${HOME}
ls ${x//a/b}
ls ${!x}
ls "${x}"
ls "$x"y
ls x"$(y)"
ls `echo x`
ls <(echo x)
ls =(echo x)
ls !(x)
ls @(a|b)
ls +(a)
ls **/*.py
ls {1..3}
ls ~/x
ls a=~/x
ls x:~/y
ls a{b,c}d
echo ${x:=rm}
echo ${x@P}
echo $[1+1]
echo $((x=1))
let x=1
(( x = 1 ))
[[ -n $(rm x) ]]
test -n "$(rm x)"
test -n `rm x`
if ls; then rm x; fi
if ls; then ls; else rm x; fi
ls && while :; do rm x; done
for ((;;)); do ls; done
case $x in a) ls;; *) rm x;; esac
f() ( rm x ); f
function f() { ls; }
ls && f() { rm x; }
time -p ls
! (rm x)
exec 3> x
exec > x
ls 2>&-
ls <&3
ls 0< x
cat <<'E'\nx\nE
cat <<-E\nx\nE
cat <<E | sh\nrm x\nE
cat <<< "$(rm x)"
export -f f
declare -f f
typeset -i x=1
env -i ls
sudo -u root ls
doas ls
su -c ls
nice ls
stdbuf -o0 ls
setsid ls
xargs -a x rm
find -name x -delete
find . -exec ls {} +
parallel ls
watch ls
ssh host ls
docker run x ls
busybox ls
perl -e x
ruby -e x
php -r x
awk 'BEGIN{system("rm x")}'
sed -i s/a/b/ x
make
tclsh x
vim -c x
git diff --ext-diff bash
grep -r x . && python -c x
cat x | python
cat x | bash -s
python -mpytest
python -m  pytestx
python3 -m pytest
./ls
/bin/ls
bin/ls
~/bin/ls
LS
lS
ls<newline>rm x
ls # \nrm x
"""


def texts(block: str) -> list[str]:
    return [line.replace("\\n", "\n") for line in block.strip().splitlines()]


@pytest.mark.parametrize("text", texts(PLAIN))
def test_a_text_of_nothing_but_allowed_commands_is_allowed(text: str) -> None:
    assert shell.parse(text).matches_all(ALLOWED)


@pytest.mark.parametrize("text", [*texts(NOT_PLAIN), "", " ", "ls\0", "ls\rrm x", "ls " + "x" * shell.MAX_PARSED_BYTES])
def test_a_text_that_is_or_may_be_more_is_not_allowed(text: str) -> None:
    assert not shell.parse(text).matches_all(ALLOWED)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("git push", ("git", "push")),
        ("git  push   origin", ("git", "push")),
        ("git -C x push", ("git", "push")),
        ("git --no-pager -c a=b push", ("git", "push")),
        ("/usr/bin/git push", ("git", "push")),
        ("ls && git push", ("git", "push")),
        ("(cd x; git push)", ("git", "push")),
        ("env A=1 git push", ("git", "push")),
        ("sudo -u root git push", ("git", "push")),
        ("bash -c 'git push'", ("git", "push")),
        ("timeout 5 /bin/rm -rf x", ("rm",)),
        ("xargs rm", ("rm",)),
        ("find . -exec rm {} +", ("rm",)),
        ("x=$(git push)", ("git", "push")),
        ("for x in a; do git push; done", ("git", "push")),
        ("git push > log", ("git", "push")),
        ("if true; then /bin/rm x; fi", ("rm",)),
        ("cat <<E\n$(rm x)\nE", ("rm",)),
        ("echo ${x:-$(rm x)}", ("rm",)),
        ("A=1 rm x", ("rm",)),
        ("eval 'rm x'", ("rm",)),
        ("rm x &", ("rm",)),
    ],
)
def test_a_command_is_found_wherever_it_stands(text: str, rule: tuple[str, ...]) -> None:
    assert shell.parse(text).mentions(rule)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("echo rm", ("rm",)),
        ('grep "git push" log', ("git", "push")),
        ("git pushx", ("git", "push")),
        ("git log push", ("git", "push")),
        ("ls rm", ("rm",)),
    ],
)
def test_a_plain_text_that_only_names_a_command_is_not_taken_for_it(text: str, rule: tuple[str, ...]) -> None:
    assert not shell.parse(text).mentions(rule)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from([*"lsgit &|;()<>$`'\"\\\n#{}!*~=", "ls", "git status", "rm x", "/dev/null", "$(", "<<E\n"]),
        max_size=12,
    )
)
def test_what_bash_refuses_is_never_plain(parts: list[str]) -> None:
    text = "".join(parts)
    if shell.parse(text).commands is not None:
        checked = subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False)
        assert checked.returncode == 0, text


_WORDS = ["aa", "bb", "-c", "'x y'", '"x y"', 'a"b"c', "a'b'c", "/x/y", "a=b", "1", "+", "a~1", "b^", "é", "''", '""']
_BETWEEN = [" ", " && ", " || ", "; ", " | ", "\n", " > /dev/null ", " 2>&1 ", " # ", "! ", "(", ")"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*_WORDS, *_BETWEEN]), max_size=14))
def test_the_words_of_a_plain_text_are_those_that_bash_runs(parts: list[str]) -> None:
    text = "".join(parts)
    commands = shell.parse(text).commands
    if commands is None:
        return
    # Nothing is found on an empty PATH, so that bash hands every command to this function.
    # In one write each, since the commands of a pipeline run at once.
    handler = "command_not_found_handle() { local IFS=$'\\x01'; printf '\\x02%s\\n' \"$*\" >&9; }; PATH=/nowhere\n"
    ran = subprocess.run(
        ["bash", "-c", f"exec 9>&1; {handler}{text}"], capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    for line in [each for each in ran.stdout.decode().split("\n") if each.startswith("\x02")]:
        assert tuple(line[1:].split("\x01")) in commands, (text, line, commands)
