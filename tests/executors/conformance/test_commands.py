"""Commands: how they start, what they find, how they end."""

import asyncio

import pytest
from tests.executors.recorder import Recorder, output, run

from runner_service.executors.protocol import Command, Executor, Sandbox, SandboxSpec


@pytest.mark.parametrize("code", [0, 1, 3, 126, 127, 255])
async def test_the_exit_code_is_the_commands_own(sandbox: Sandbox, code: int) -> None:
    result, _, _ = await run(sandbox, f"exit {code}")
    assert (result.exit_code, result.timed_out, result.start_error) == (code, False, "")


@pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("TERM", 15), ("SEGV", 11)])
async def test_death_by_signal_n_is_exit_code_128_plus_n(sandbox: Sandbox, name: str, number: int) -> None:
    result, _, _ = await run(sandbox, f"kill -{name} $$; sleep 5")
    assert result.exit_code == 128 + number


async def test_exit_in_the_middle_ends_the_command_there(sandbox: Sandbox) -> None:
    result, stdout, _ = await run(sandbox, "echo before; exit 7; echo after")
    assert (result.exit_code, stdout) == (7, b"before\n")


async def test_set_e_ends_the_command_at_the_first_failure(sandbox: Sandbox) -> None:
    result, stdout, _ = await run(sandbox, "set -e; echo before; false; echo after")
    assert (result.exit_code, stdout) == (1, b"before\n")


async def test_a_command_does_not_change_the_shell_of_the_next(sandbox: Sandbox) -> None:
    await run(sandbox, "set -e; cd /; export LEAKED=1; exec >&-; exit 1")
    assert await output(sandbox, 'echo "${LEAKED-unset} $PWD"') == f"unset {sandbox.root}\n"


async def test_an_unknown_program_is_exit_code_127_with_the_shells_words(sandbox: Sandbox) -> None:
    result, _, stderr = await run(sandbox, "no-such-program-anywhere")
    assert result.exit_code == 127
    assert b"not found" in stderr


async def test_a_syntax_error_is_a_result(sandbox: Sandbox) -> None:
    result, _, stderr = await run(sandbox, "if then fi (")
    assert result.exit_code == 2
    assert b"syntax error" in stderr


async def test_a_nul_in_the_text_is_a_result_that_says_so(sandbox: Sandbox) -> None:
    result, _, _ = await run(sandbox, "echo a\0b")
    assert result.exit_code == 126
    assert "NUL" in result.start_error


async def test_half_a_surrogate_pair_in_the_text_is_a_result(sandbox: Sandbox) -> None:
    result, _, _ = await run(sandbox, "echo \ud800")
    assert result.exit_code == 126
    assert result.start_error


async def test_stdin_is_closed(sandbox: Sandbox) -> None:
    result, stdout, _ = await run(sandbox, "cat; read line || echo at its end")
    assert (result.timed_out, stdout) == (False, b"at its end\n")


async def test_a_text_of_a_megabyte_runs_like_any_other(sandbox: Sandbox) -> None:
    text = "true " + "x" * 1_000_000 + "\nset -- $BASH_VERSION; echo 'it''s' $((6 * 7)); cat; exit 5"
    result, stdout, _ = await run(sandbox, text)
    assert (result.exit_code, stdout) == (5, b"its 42\n")


async def test_quotes_lines_and_unicode_reach_the_shell_as_they_are(sandbox: Sandbox) -> None:
    text = "cat <<'END'\n$HOME `x` \"q\" 'r' \\ é 漢字 🦊\nEND\necho \"second\"\n"
    assert await output(sandbox, text) == "$HOME `x` \"q\" 'r' \\ é 漢字 🦊\nsecond\n"


async def test_commands_start_in_the_root(sandbox: Sandbox) -> None:
    assert await output(sandbox, "pwd -P") == sandbox.root + "\n"


async def test_the_callers_environment_is_there(sandbox: Sandbox) -> None:
    assert await output(sandbox, 'echo "$GIVEN $PYTHONUNBUFFERED"') == "by the caller 1\n"


async def test_nothing_of_the_services_environment_leaks(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIGMER_LLM_API_KEY", "of-the-service")
    async with executor.open(SandboxSpec("e")) as sandbox:
        assert "of-the-service" not in await output(sandbox, "env; cat /proc/self/environ")


async def test_the_callers_environment_wins_over_the_services(executor: Executor) -> None:
    given = {"HOME": "/elsewhere", "PATH": "/usr/bin:/bin", "EMPTY": "", "LINES": "a\nb"}
    async with executor.open(SandboxSpec("e", environment=given)) as sandbox:
        assert await output(sandbox, 'echo "$HOME $PATH [$EMPTY] $LINES"') == "/elsewhere /usr/bin:/bin [] a\nb\n"


@pytest.mark.parametrize("given", [{"A=B": "1"}, {"A": "1\0"}, {"BIG": "x" * 3_000_000}])
async def test_an_impossible_environment_is_a_result(executor: Executor, given: dict[str, str]) -> None:
    async with executor.open(SandboxSpec("e", environment=given)) as sandbox:
        result, _, _ = await run(sandbox, "true")
        assert result.exit_code == 126
        assert result.start_error


async def test_a_command_inherits_no_descriptors(sandbox: Sandbox) -> None:
    assert (await output(sandbox, "exec ls /proc/self/fd")).split() == ["0", "1", "2", "3"]


async def test_signals_have_their_ordinary_effect(sandbox: Sandbox) -> None:
    ignored = await output(sandbox, "exec grep -E 'Sig(Ign|Blk)' /proc/self/status")
    # 32 and 33 are the C library's own.
    assert [int(line.split()[1], 16) & 0x7FFF_FFFF for line in ignored.splitlines()] == [0, 0]


async def test_a_command_has_no_terminal_and_leads_its_own_session(sandbox: Sandbox) -> None:
    session, group, pid = (await output(sandbox, "set -- $(cat /proc/$$/stat); echo $6 $5 $$")).split()
    assert session == group == pid
    result, _, _ = await run(sandbox, "true < /dev/tty")
    assert result.exit_code != 0


async def test_thirty_two_commands_at_once_do_not_mix(sandbox: Sandbox) -> None:
    async def one(number: int) -> None:
        result, stdout, stderr = await run(sandbox, f"echo out {number}; echo err {number} >&2; exit {number}")
        assert (result.exit_code, stdout, stderr) == (number, b"out %d\n" % number, b"err %d\n" % number)

    await asyncio.gather(*(one(number) for number in range(32)))


async def test_two_hundred_commands_in_a_row_all_end_well(sandbox: Sandbox) -> None:
    for number in range(200):
        result, stdout, _ = await run(sandbox, f"echo {number}")
        assert (result.exit_code, stdout) == (0, b"%d\n" % number)


async def test_cpu_time_is_the_kernels_account(sandbox: Sandbox) -> None:
    busy, _, _ = await run(sandbox, "python3 -c 'import time\nwhile time.process_time() < 0.3: pass'")
    idle, _, _ = await run(sandbox, "sleep 0.3")
    assert 0.3 <= busy.cpu_time < 5
    assert idle.cpu_time < 0.3 <= idle.elapsed < 20


async def test_peak_memory_is_the_commands_and_not_the_services(sandbox: Sandbox) -> None:
    of_the_service = bytearray(200_000_000)
    small, _, _ = await run(sandbox, "true")
    large, _, _ = await run(sandbox, "python3 -c 'x = bytearray(80_000_000)'; true")
    assert len(of_the_service) == 200_000_000
    assert small.peak_memory < 40_000_000
    assert 80_000_000 <= large.peak_memory < 160_000_000


async def test_a_command_that_is_signalled_by_its_own_group_hurts_nobody_else(sandbox: Sandbox) -> None:
    other = asyncio.create_task(run(sandbox, "sleep 0.5; echo alive"))
    result, _, _ = await run(sandbox, "sleep 5 & kill -TERM 0; sleep 5")
    assert result.exit_code == 128 + 15
    assert (await other)[1] == b"alive\n"


async def test_a_run_after_the_sandbox_is_closed_is_refused(executor: Executor) -> None:
    from runner_service.executors.protocol import SandboxError

    async with executor.open(SandboxSpec("e")) as sandbox:
        pass
    with pytest.raises(SandboxError):
        await sandbox.run(Command("true", 5, Recorder()))
