"""Tool calls that wait for a person: asked about, decided, parked, resumed; each command runs at most once."""

import asyncio
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import psutil
import pytest
from aiohttp import web
from google.protobuf.struct_pb2 import Struct
from tests.running import Client, Event, StartProcess, StartService, command, kinds, one, turn, written

from runner_service.storage.event_log import NewEvent
from runner_service.storage.frames import Framer
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

APPROVE, SKIP, REJECT = (
    event_pb2.APPROVAL_ACTION_APPROVE,
    event_pb2.APPROVAL_ACTION_SKIP,
    event_pb2.APPROVAL_ACTION_REJECT,
)
Action: TypeAlias = "event_pb2.ApprovalAction.ValueType"
State: TypeAlias = "event_pb2.State.ValueType"

ASK = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_EFFECTS)
ASK_COMMANDS = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
UNATTENDED = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_EFFECTS, unattended=True)
ONE_COMMAND = [turn("", command("echo once >> effects")), turn("I was told: {{last_tool_result}}")]
PARKS_AT_ONCE = {"APPROVAL_HOLD": "0"}


class Asking:
    """An execution whose calls are asked about, and the calls that decide."""

    def __init__(self, client: Client, **fields: Any) -> None:
        self.client = client
        self.request = client.request(execution_id="a", **{"approval_policy": ASK, **fields})
        self.call: Any = client.stub.ExecuteAgent(self.request)
        self.events: list[Event] = []

    @property
    def first_call(self) -> str:
        """The first call that was asked about."""
        return self._found()[0].tool_call_id

    def _found(self) -> list[event_pb2.ApprovalRequested]:
        return [each.approval_requested for each in self.events if each.HasField("approval_requested")]

    async def asked(self, count: int = 1) -> list[event_pb2.ApprovalRequested]:
        """Reads until so many calls have been asked about in all."""

        async with asyncio.timeout(60):
            while len(self._found()) < count:
                self.events += (await self.call.read()).events
        return self._found()

    async def decide(self, action: Action = APPROVE, **fields: Any) -> State:
        request = runner_pb2.SubmitApprovalRequest(
            **{"execution_id": "a", "tool_call_id": self.first_call, "action": action, **fields}
        )
        response = await self.client.stub.SubmitApproval(request)
        return response.state

    async def refused(self, action: Action = APPROVE, **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.decide(action, **fields)
        return refused.value

    async def end(self) -> event_pb2.Finished:
        """Reads to the end, having checked that nothing is missing."""
        async with asyncio.timeout(60):
            while (response := await self.call.read()) != grpc.aio.EOF:
                self.events += response.events
        assert [each.sequence for each in self.events] == list(range(1, len(self.events) + 1))
        finished: event_pb2.Finished = one(self.events, "finished")
        return finished

    async def reaches(self, state: State) -> runner_pb2.Execution:
        async with asyncio.timeout(60):
            while True:
                request = runner_pb2.GetExecutionRequest(execution_id="a")
                response = await self.client.stub.GetExecution(request)
                if response.execution.state == state:
                    return response.execution
                await asyncio.sleep(0.01)


async def test_an_approved_call_runs_and_nothing_of_it_happens_before(start: StartService, tmp_path: Path) -> None:
    asking = Asking(await start(ONE_COMMAND))
    (asked,) = await asking.asked()
    assert (asked.name, asked.generation) == ("execute", 1)
    assert asked.arguments["command"] == "echo once >> effects"
    assert not (tmp_path / "workspace" / "effects").exists()
    assert "tool_call_started" not in kinds(asking.events)

    assert await asking.decide() == event_pb2.STATE_RUNNING

    assert (await asking.end()).state == event_pb2.STATE_SUCCEEDED
    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"
    order = [
        each for each in kinds(asking.events) if each in {"approval_requested", "approval_decided", "tool_call_started"}
    ]
    assert order == ["approval_requested", "approval_decided", "tool_call_started"]


@pytest.mark.parametrize(
    ("action", "told"),
    [(REJECT, "the user refused this: too dangerous. Do not try it again"), (SKIP, "go on without it")],
)
async def test_a_refused_call_does_not_run_and_the_model_is_told(
    start: StartService, tmp_path: Path, action: Action, told: str
) -> None:
    asking = Asking(await start(ONE_COMMAND))
    await asking.asked()

    await asking.decide(action, comment="too dangerous")

    assert told in (await asking.end()).output
    assert one(asking.events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_REJECTED
    assert not (tmp_path / "workspace" / "effects").exists()


async def test_edited_arguments_run_in_place_of_the_models_and_the_model_is_told(start: StartService) -> None:
    asking = Asking(await start([turn("", command("echo model")), turn("I was told: {{last_tool_result}}")]))
    await asking.asked()
    arguments = Struct()
    arguments.update({"command": "echo person"})

    await asking.decide(arguments=arguments)

    output = (await asking.end()).output
    assert output.startswith("I was told: person\n")
    assert "The user changed the arguments of this call" in output


async def test_edited_arguments_that_a_policy_forbids_do_not_run(start: StartService, tmp_path: Path) -> None:
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
    policy.rules.add(verdict=policy_pb2.APPROVAL_VERDICT_DENY, reason="no files").command.words.append("touch")
    asking = Asking(await start(ONE_COMMAND), approval_policy=policy)
    await asking.asked()
    arguments = Struct()
    arguments.update({"command": "touch forbidden"})

    await asking.decide(arguments=arguments)

    assert "this is not allowed here (no files)" in (await asking.end()).output
    assert not (tmp_path / "workspace" / "forbidden").exists()


async def test_a_call_is_parked_and_a_decision_resumes_it(start: StartService, tmp_path: Path) -> None:
    asking = Asking(await start(ONE_COMMAND, **PARKS_AT_ONCE))
    await asking.asked()
    assert (await asking.reaches(event_pb2.STATE_WAITING)).pending_approvals == 1
    assert not asking.client.service.executions._lifecycle._queue.running  # type: ignore[union-attr]  # in this process

    assert await asking.decide() == event_pb2.STATE_PENDING

    assert (await asking.end()).state == event_pb2.STATE_SUCCEEDED
    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"
    assert [each.started.resumed for each in asking.events if each.HasField("started")] == [False, True]


async def test_a_waiting_execution_survives_a_kill_and_a_decision_resumes_it(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process(ONE_COMMAND, **PARKS_AT_ONCE)
    asking = Asking(service.client)
    await asking.asked()
    await asking.reaches(event_pb2.STATE_WAITING)
    await service.kill()

    later = await start_process(**PARKS_AT_ONCE)
    listed = await later.stub.ListApprovals(runner_pb2.ListApprovalsRequest())
    assert [each.request.tool_call_id for each in listed.approvals] == [asking.first_call]
    asking.client = later.client
    await asking.decide()
    asking.call = later.stub.ExecuteAgent(
        runner_pb2.ExecuteAgentRequest(execution_id="a", after_sequence=len(asking.events))
    )

    assert (await asking.end()).state == event_pb2.STATE_SUCCEEDED
    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"


async def test_siblings_of_a_parked_call_run_once_each_and_others_are_asked_again(
    start: StartService, tmp_path: Path
) -> None:
    calls = [command("echo one >> effects"), ("ls", {"path": "/"}), command("echo two >> effects")]
    asking = Asking(await start([turn("", *calls), turn("Done.")], **PARKS_AT_ONCE))
    first, second = await asking.asked(2)
    await asking.reaches(event_pb2.STATE_WAITING)

    await asking.decide(tool_call_id=first.tool_call_id)
    await written(tmp_path / "workspace" / "effects")
    execution = await asking.reaches(event_pb2.STATE_WAITING)
    assert execution.pending_approvals == 1
    await asking.decide(tool_call_id=second.tool_call_id)

    assert (await asking.end()).state == event_pb2.STATE_SUCCEEDED
    assert (tmp_path / "workspace" / "effects").read_text() == "one\ntwo\n"
    assert kinds(asking.events).count("approval_requested") == 2
    assert kinds(asking.events).count("tool_call_finished") == 3


async def test_a_call_of_a_sub_agent_is_parked_with_its_task_and_both_end_once(
    start: StartService, tmp_path: Path
) -> None:
    script = {
        "turns": [
            turn("", ("task", {"description": "do it", "subagent_type": "general-purpose"})),
            turn("I was told: {{last_tool_result}}"),
        ],
        "sub_agents": [
            {"name": "general-purpose", "turns": [turn("", command("echo once >> effects")), turn("Sub done.")]}
        ],
    }
    asking = Asking(
        await start(script, **PARKS_AT_ONCE),
        approval_policy=ASK_COMMANDS,
    )
    (asked,) = await asking.asked()
    await asking.reaches(event_pb2.STATE_WAITING)

    await asking.decide(tool_call_id=asked.tool_call_id)

    assert "Sub done." in (await asking.end()).output
    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"
    outcomes = [each.tool_call_finished.outcome for each in asking.events if each.HasField("tool_call_finished")]
    assert outcomes == [event_pb2.TOOL_OUTCOME_SUCCEEDED] * 2


async def test_the_same_decision_twice_is_accepted_and_another_one_is_refused_with_the_one_that_counts(
    start: StartService,
) -> None:
    asking = Asking(await start(ONE_COMMAND))
    await asking.asked()
    await asking.decide(REJECT, comment="no", decided_by="ann")
    await asking.decide(REJECT, comment="no", decided_by="ann")

    other = await asking.refused()

    assert other.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "already decided by ann, REJECT: no" in str(other.details())
    await asking.end()


async def test_what_was_never_asked_or_is_of_an_old_generation_is_refused_by_name(start: StartService) -> None:
    asking = Asking(await start(ONE_COMMAND))
    await asking.asked()
    assert (await asking.refused(tool_call_id="other")).code() == grpc.StatusCode.NOT_FOUND
    assert (await asking.refused(generation=2)).code() == grpc.StatusCode.ABORTED
    assert (await asking.refused(execution_id="b")).code() == grpc.StatusCode.NOT_FOUND
    granted = [policy_pb2.ApprovalRule(verdict=policy_pb2.APPROVAL_VERDICT_ALLOW, tool="execute")]
    unasked = await asking.refused(grant=policy_pb2.APPROVAL_GRANT_EXECUTION, granted_rules=granted)
    assert unasked.code() == grpc.StatusCode.INVALID_ARGUMENT
    await asking.decide()
    await asking.end()


async def test_a_grant_holds_for_the_session_and_over_a_restart(start_process: StartProcess, tmp_path: Path) -> None:
    turns = [turn("", command("git --version")), turn("Done.")]
    service = await start_process(turns)
    asking = Asking(service.client, session_id="s")
    (asked,) = await asking.asked()
    assert [list(rule.command.words) for rule in asked.suggested_rules] == [["git", "--version"]]
    await asking.decide(grant=policy_pb2.APPROVAL_GRANT_SESSION, granted_rules=asked.suggested_rules)
    await asking.end()
    await service.kill()

    later = await start_process(turns)
    events = await later.client.execute(execution_id="b", session_id="s", approval_policy=ASK)

    assert "approval_requested" not in kinds(events)
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_cancelling_withdraws_what_is_pending(start: StartService) -> None:
    asking = Asking(await start(ONE_COMMAND, **PARKS_AT_ONCE))
    await asking.asked()
    await asking.reaches(event_pb2.STATE_WAITING)

    await asking.client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="a"))

    assert (await asking.end()).state == event_pb2.STATE_CANCELLED
    assert one(asking.events, "approval_decided").action == event_pb2.APPROVAL_ACTION_WITHDRAWN
    assert (await asking.refused()).code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_file_that_has_changed_since_it_was_shown_is_asked_about_again(
    start: StartService, tmp_path: Path
) -> None:
    (tmp_path / "workspace").mkdir()
    file = tmp_path / "workspace" / "a.txt"
    file.write_text("one\n")
    edit = ("edit_file", {"file_path": "/a.txt", "old_string": "one", "new_string": "two"})
    asking = Asking(await start([turn("", ("read_file", {"file_path": "/a.txt"})), turn("", edit), turn("Done.")]))
    (first,) = await asking.asked()
    assert "-one\n+two\n" in first.diff
    file.write_text("one more\n")

    await asking.decide(tool_call_id=first.tool_call_id)
    _, second = await asking.asked(2)
    assert second.generation == 2
    assert "-one more\n+two more\n" in second.diff
    await asking.decide(tool_call_id=first.tool_call_id, generation=2)

    await asking.end()
    assert file.read_text() == "two more\n"


async def test_what_is_decided_but_was_not_resumed_goes_on_when_the_service_starts(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service = await start_process(ONE_COMMAND, **PARKS_AT_ONCE)
    asking = Asking(service.client)
    await asking.asked()
    await asking.reaches(event_pb2.STATE_WAITING)
    await service.kill()
    decided = event_pb2.ApprovalDecided(
        tool_call_id=asking.first_call, generation=1, action=event_pb2.APPROVAL_ACTION_APPROVE
    )
    async with sqlite_storage(tmp_path / "state") as storage:  # as if it was killed right after the commit
        sequence = asking.events[-1].sequence + 1
        await storage.log.append([NewEvent("a", sequence, Framer("a").frame(sequence, decided))])

    later = await start_process(**PARKS_AT_ONCE)
    asking.call = later.stub.ExecuteAgent(
        runner_pb2.ExecuteAgentRequest(execution_id="a", after_sequence=len(asking.events))
    )

    assert (await asking.end()).state == event_pb2.STATE_SUCCEEDED
    assert (tmp_path / "workspace" / "effects").read_text() == "once\n"


async def test_a_call_waits_longer_while_a_command_has_left_processes_and_parking_ends_them_with_a_notice(
    start: StartService, tmp_path: Path
) -> None:
    left = "sleep 71.5 > /dev/null 2>&1 & echo $! > pid"
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
    policy.rules.add(verdict=policy_pb2.APPROVAL_VERDICT_ASK).command.words.append("rm")
    turns = [turn("", command(left)), turn("", command("rm -f x")), turn("Done.")]
    longer = {"APPROVAL_HOLD": "0", "APPROVAL_HOLD_BACKGROUND": "1"}
    asking = Asking(await start(turns, **longer), approval_policy=policy)
    await asking.asked()
    await asking.decide()
    _, second = await asking.asked(2)

    await asking.reaches(event_pb2.STATE_WAITING)

    assert not psutil.pid_exists(int((tmp_path / "workspace" / "pid").read_text()))
    await asking.decide(tool_call_id=second.tool_call_id)
    await asking.end()
    (ended,) = [each for each in asking.events if each.notice.code == "BACKGROUND_ENDED"]
    _, asked = [each for each in asking.events if each.HasField("approval_requested")]
    assert ended.create_time.ToNanoseconds() - asked.create_time.ToNanoseconds() > 900_000_000, "of a second"


async def test_others_of_a_session_wait_behind_a_parked_one(start: StartService) -> None:
    client = await start(ONE_COMMAND, **PARKS_AT_ONCE)
    asking = Asking(client, session_id="s")
    await asking.asked()
    await asking.reaches(event_pb2.STATE_WAITING)
    behind = client.stub.ExecuteAgent(client.request(execution_id="b", session_id="s"))
    (notice,) = await client.collect(behind, until=lambda event: event.HasField("notice"))
    assert notice.notice.code == "SESSION_BUSY"

    await asking.decide(SKIP)

    await asking.end()
    assert one(await client.collect(behind), "finished").state == event_pb2.STATE_SUCCEEDED


async def test_nobody_there_means_skipped_with_a_notice(start: StartService) -> None:
    client = await start(ONE_COMMAND)
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_EFFECTS, unattended=True)

    events = await client.execute(approval_policy=policy)

    assert "APPROVAL_SKIPPED" in [each.notice.code for each in events if each.HasField("notice")]
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_REJECTED


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_five_hundred_waiting_executions_with_secrets_take_little_memory(start_process: StartProcess) -> None:
    service = await start_process(ONE_COMMAND, **PARKS_AT_ONCE)
    environment = {"TOKEN": runner_pb2.EnvironmentValue(value="hunter2-hunter2", is_secret=True)}

    async def park(first: int, last: int) -> int:
        """Parks some executions, 10 at once; returns the memory of the service in bytes."""
        for number in range(first, last, 10):
            calls = [
                service.stub.ExecuteAgent(
                    service.client.request(
                        execution_id=f"w{each}",
                        environment=environment,
                        approval_policy=ASK,
                        disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH,
                    )
                )
                for each in range(number, number + 10)
            ]
            await asyncio.gather(*(service.client.collect(each, until=_is_request) for each in calls))
            for each in calls:
                each.cancel()
        while (await service.stub.ListExecutions(still_running)).executions:
            await asyncio.sleep(0.05)
        return psutil.Process(service.process.pid).memory_info().rss

    still_running = runner_pb2.ListExecutionsRequest(states=[event_pb2.STATE_RUNNING], page_size=1)
    before = await park(0, 100)
    each_kib = (await park(100, 600) - before) / 500 / 1024
    print(f"{each_kib:.0f} KiB for each waiting execution")
    assert each_kib < 300


def _is_request(event: Event) -> bool:
    return event.HasField("approval_requested")


async def test_what_nobody_decides_in_time_does_not_run(start: StartService) -> None:
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_EFFECTS)
    policy.timeout.FromMilliseconds(1)
    client = await start(ONE_COMMAND)

    events = await client.execute(approval_policy=policy)

    assert one(events, "approval_decided").action == event_pb2.APPROVAL_ACTION_EXPIRED
    assert "nobody approved this in time" in one(events, "finished").output


async def test_the_operators_policy_holds_beside_the_requests(start: StartService, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "rules: [{verdict: APPROVAL_VERDICT_DENY, command: {words: [rm]}, reason: nothing is removed here}]\n"
    )
    client = await start(
        [turn("", command("sudo /bin/rm -rf x")), turn("I was told: {{last_tool_result}}")],
        APPROVAL_POLICY_FILE=str(policy),
    )

    events = await client.execute()

    assert "this is not allowed here (nothing is removed here)" in one(events, "finished").output


async def test_an_execution_with_secrets_goes_on_by_the_decision_alone(start: StartService) -> None:
    environment = {"TOKEN": runner_pb2.EnvironmentValue(value="hunter2-hunter2", is_secret=True)}
    turns = [turn("", command("echo ${#TOKEN}")), turn("{{last_tool_result}}")]
    asking = Asking(await start(turns, **PARKS_AT_ONCE), environment=environment)
    await asking.asked()
    await asking.reaches(event_pb2.STATE_WAITING)

    await asking.decide()

    assert (await asking.end()).output.startswith("15")


async def test_whoever_watches_approvals_sees_them_come_and_go(start: StartService) -> None:
    client = await start(ONE_COMMAND)
    watching: Any = client.stub.WatchApprovals(runner_pb2.WatchApprovalsRequest())
    assert not (await watching.read()).approvals

    asking = Asking(client)
    await asking.asked()
    (seen,) = (await watching.read()).approvals
    assert (seen.execution_id, seen.request.tool_call_id) == ("a", asking.first_call)

    await asking.decide(SKIP)
    assert not (await watching.read()).approvals
    await asking.end()


async def test_commands_that_can_approve_themselves_are_warned_of(start: StartService, tmp_path: Path) -> None:
    open_to_all = await (await start(ONE_COMMAND)).execute(approval_policy=UNATTENDED)
    assert not [each for each in open_to_all if each.notice.code == "APPROVALS_CAN_BE_EVADED"]
    asking = Asking(await start(ONE_COMMAND, STATE_DIR=str(tmp_path / "other")))
    await asking.asked()
    assert [each for each in asking.events if each.notice.code == "APPROVALS_CAN_BE_EVADED"]
    await asking.decide()
    await asking.end()


async def test_a_webhook_hears_of_each_request_signed_and_again_after_a_failure(start: StartService) -> None:
    received: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()
    answers = iter([503, 200])

    async def take(request: web.Request) -> web.Response:
        received.put_nowait((dict(request.headers), await request.read()))
        return web.Response(status=next(answers, 200))

    application = web.Application()
    application.router.add_post("/hook", take)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        client = await start(ONE_COMMAND, APPROVAL_WEBHOOK_URL=url, APPROVAL_WEBHOOK_SECRET="a-secret-of-the-webhook")
        asking = Asking(client)
        await asking.asked()
        async with asyncio.timeout(30):
            first, second = await received.get(), await received.get()
        await asking.decide()
        await asking.end()
    finally:
        await runner.cleanup()

    assert first[1] == second[1]
    headers, body = second
    assert json.loads(body)["tool_call_id"] == asking.first_call
    signed = f"{headers['X-Runner-Timestamp']}.".encode() + body
    mac = hmac.new(b"a-secret-of-the-webhook", signed, hashlib.sha256).hexdigest()
    assert headers["X-Runner-Signature"] == f"sha256={mac}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: NO_SUCH_MODE", "is not an approval policy"),
        ("rules: [{verdict: APPROVAL_VERDICT_DENY}]", "rules[0]: must have one of tool, command, path and mcp"),
        ("rule: []", 'has no field named "rule"'),
        ("[", "is not an approval policy"),
    ],
)
async def test_a_policy_file_that_cannot_be_used_keeps_the_service_from_starting(
    start_process: StartProcess, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    with pytest.raises(RuntimeError, match="exit code 78"):
        await start_process(ONE_COMMAND, APPROVAL_POLICY_FILE=str(policy))
    assert said in capfd.readouterr().err
