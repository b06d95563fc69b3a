"""The page in a real browser: the list, one execution live, approvals, and a service that is killed meanwhile."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from tests.callers.files import SEVERAL_TENANTS, CallersYaml, bearer
from tests.docs.pages import REPOSITORY
from tests.ports import free_port
from tests.running import Client, StartProcess, StartService, command, turn
from tests.web.browser import Browser, Page, needs_browser
from tests.web.hostile import HOSTILE
from tests.web.test_security import web_address, web_of

from runner_service.storage.event_log import NewExecution
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = needs_browser

ON = {"WEB_ADDRESS": "127.0.0.1:0"}
ASK = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
PICTURES = REPOSITORY / "docs" / "pictures"


async def picture(page: Page, name: str) -> None:
    """Takes a screenshot, for docs/ if PICTURES is set; else only to see that it can be taken."""
    await page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    await page.screenshot(PICTURES / f"{name}.png" if os.environ.get("PICTURES") else Path(os.devnull))
    await page.check_clean()


def has(text: str) -> str:
    return f"document.body.innerText.includes({text!r})"


async def test_the_list_shows_what_runs_and_what_has_ended_and_filters_it(start: StartService, page: Page) -> None:
    client = await start([turn("", command("sleep {{message}}")), turn("Done.")], **ON)
    reviewer = runner_pb2.Agent(name="reviewer", instructions="Review.")
    await client.execute("0", execution_id="first", session_id="monday", labels={"team": "a"})
    await client.execute("0", execution_id="second", agent=reviewer)
    await page.open(f"http://{web_address(client)}/")
    await page.wait_for("document.querySelectorAll('.execution-row').length === 2")

    running = client.stub.ExecuteAgent(client.request("60", execution_id="third"))
    await page.wait_for(f"{has('running')} && document.querySelectorAll('.execution-row').length === 3")
    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="third"))
    await page.wait_for(
        "[...document.querySelectorAll('.execution-row .state')].some((each) => each.innerText === 'cancelled')"
    )
    await client.collect(running)

    for selector, value, left in (
        ("input[name=Session]", "monday", "first"),
        ("input[name=Label]", "team=a", "first"),
        ("select[name=State]", "STATE_CANCELLED", "third"),
        ("input[name=Name]", "review", "second"),
    ):
        await page.type(selector, value)
        await page.wait_for(
            "(() => { const rows = [...document.querySelectorAll('.execution-row')];"
            f" return rows.length === 1 && rows[0].innerText.includes({left!r}); }})()"
        )
        await page.type(selector, "")
        await page.wait_for("document.querySelectorAll('.execution-row').length === 3")
    await page.evaluate("document.querySelector('.execution-row[data-id=first]').click()")
    await page.wait_for(has("succeeded in"))
    await page.check_clean()


ROWS = "[...document.querySelectorAll('.execution-row')].map((row) => row.dataset.id)"


async def test_the_list_is_sorted_and_searched_over_what_is_not_loaded(
    start: StartService, page: Page, tmp_path: Path
) -> None:
    async with sqlite_storage(tmp_path / "state") as storage:
        entries = [ended(number, agent="the needle" if number == 3 else f"agent-{number}") for number in range(700)]
        await storage.log.append(entries)
    client = await start([turn("Hi.")], **ON)
    await page.open(f"http://{web_address(client)}/")
    await page.wait_for(f"{ROWS}[0] === 'e699' && {has('scroll for more')}")

    await page.click("Created ↓")
    await page.wait_for(f"{ROWS}[0] === 'e0' && {has('100 shown')}")
    assert await page.evaluate("document.querySelector('[aria-sort=ascending]').innerText.trim()") == "Created ↑"
    await page.type("input[name=Name]", "NEEDLE")
    await page.wait_for(f"String({ROWS}) === 'e3'")
    await page.type("input[name=Name]", "nothing has this name")
    await page.click("Clear the filters")
    await page.wait_for(f"{ROWS}[0] === 'e0'")
    await page.check_clean()


async def test_an_operator_opens_the_execution_of_another_tenant_and_that_is_audited(
    start: StartService, page: Page, tmp_path: Path
) -> None:
    callers = CallersYaml(tmp_path / "callers.yaml")
    operator = callers.add("ann", roles=["operate"])
    theirs = callers.add("bob", tenant="acme", roles=["run"])
    client = await start([turn("Theirs.")], **ON, **SEVERAL_TENANTS, CALLERS_FILE=str(callers.path))
    await client.collect(client.stub.ExecuteAgent(client.request(execution_id="a"), metadata=bearer(theirs)))
    await page.open(f"http://{web_address(client)}/#token={operator.token}")
    await page.wait_for(has("No executions yet."))

    await page.type("input[name=Tenant]", "*")
    await page.wait_for(f"String({ROWS}) === 'a'")
    await page.click("a")

    await page.wait_for(f"location.hash === '#/tenant/acme/execution/a' && {has('Theirs.')} && {has('audited')}")
    audit = await client.stub.ListAudit(runner_pb2.ListAuditRequest(tenant="acme"), metadata=bearer(operator))
    acted = [entry for entry in audit.entries if entry.action == "ACT_FOR"]
    assert {(entry.caller.name, entry.rpc) for entry in acted} == {("ann", "WatchExecution")}
    await page.evaluate("location.hash = '#/execution/a'")
    await page.wait_for(has("is not in the log"))
    await page.check_clean()


async def test_replicas_and_usage_are_shown_to_operators_and_usage_to_its_tenant(
    start: StartService, page: Page, browser: Browser, tmp_path: Path
) -> None:
    callers = CallersYaml(tmp_path / "callers.yaml")
    operator, runner = callers.add("ann", roles=["operate"]), callers.add("bob", roles=["run"])
    prices = tmp_path / "prices.yaml"
    prices.write_text("{currency: USD, per_million_tokens: {scripted/scripted: {input: 2, output: 8}}}")
    turns = [turn("", command("until [ -e go ]; do sleep 0.02; done")), turn("Done.")]
    client = await start(turns, **ON, CALLERS_FILE=str(callers.path), PRICES_FILE=str(prices))
    call = client.stub.ExecuteAgent(client.request(execution_id="owned-one"), metadata=bearer(runner))
    address = web_address(client)
    await page.open(f"http://{address}/#token={operator.token}")
    await page.click("Replicas and usage")
    await page.click("owns 1 execution")
    await page.wait_for(f"{has('the only process')} && {has('serving')} && {has('owned-one')}")
    running = "[...document.querySelectorAll('.figure')].find((each) => each.innerText.includes('running')).innerText"
    await page.wait_for(f"{running}.includes('1')")
    await page.wait_for("document.querySelector('details[open]') !== null")

    (tmp_path / "workspace").mkdir(exist_ok=True)
    (tmp_path / "workspace" / "go").touch()
    await client.collect(call)
    await page.wait_for(has("owns nothing now"))

    other = await browser.page()
    await other.open(f"http://{address}/#token={runner.token}")
    await other.click("Usage")
    row = "document.querySelector('.usage tbody tr')?.innerText.split('\\t')"
    assert (await other.wait_for(row))[:4] == ["default", "1", "0", "2"]
    assert "USD" in (await other.evaluate(row))[6]
    assert "Replicas" not in await other.text()
    refused = "fetch('/replicas', {method: 'POST', body: '{}', headers: {'content-type': 'application/json'}})"
    assert await other.evaluate(f"{refused}.then((answer) => answer.status)") == 403
    await page.check_clean()
    await other.check_clean()


def ended(number: int, agent: str) -> NewExecution:
    when = Timestamp(seconds=1_790_000_000 + number)
    record = runner_pb2.Execution(
        execution_id=f"e{number}",
        session_id=f"s{number // 10}",
        agent_name=agent,
        state=event_pb2.STATE_SUCCEEDED,
        create_time=when,
        start_time=when,
        finish_time=when,
    )
    return NewExecution(record, b"fingerprint", None, {})


async def test_one_execution_is_shown_live(start: StartService, page: Page, tmp_path: Path) -> None:
    wait = "until [ -e go ]; do sleep 0.02; done"
    change = "echo one line > new.txt; echo ended"
    plan = ("write_todos", {"todos": [{"content": "Look around", "status": "in_progress"}]})
    client = await start(
        [turn("Hello.", command(f"echo begun; {wait}; {change}"), plan), turn("Goodbye.")],
        **ON,
    )
    call = client.stub.ExecuteAgent(client.request(execution_id="live"))
    await page.open(f"http://{web_address(client)}/#/execution/live")
    await page.wait_for(f"{has('Hello.')} && {has('begun')} && {has('running')}")
    assert not await page.evaluate(has("Goodbye."))

    (tmp_path / "workspace" / "go").touch()

    await page.wait_for(f"{has('ended')} && {has('exit 0')} && {has('Goodbye.')} && {has('succeeded')}")
    await page.click("Plan")
    await page.wait_for(has("Look around"))
    await page.click("Tokens")
    await page.wait_for("document.querySelectorAll('table tbody tr').length === 2")
    await client.collect(call)
    await page.click("Changes")
    await page.wait_for(f"{has('added new.txt')} && {has('+one line')}")
    await page.check_clean()


async def test_changes_are_put_back_after_it_was_shown_what_would_be_done(
    start: StartService, page: Page, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir(exist_ok=True)
    (workspace / "kept.txt").write_text("before\n")
    turns = [turn("", command("echo after > kept.txt; echo new > new.txt; echo mine > edited.txt")), turn("Done.")]
    client = await start(turns, **ON)
    trace = "0af7651916cd43dd8448eb211c80319c"
    traced = [("traceparent", f"00-{trace}-b7ad6b7169203331-01")]
    await client.collect(client.stub.ExecuteAgent(client.request(execution_id="undo"), metadata=traced))
    (workspace / "edited.txt").write_text("a person was here\n")
    await page.open(f"http://{web_address(client)}/#/execution/undo")
    await page.wait_for(f"{has(trace)} && {has('succeeded')}")

    await page.click("Changes")
    await page.wait_for(has("+after"))
    await page.click("Undo these changes…")
    await page.wait_for(f"{has('This would be done')} && {has('These would be left as they are')}")
    assert (workspace / "kept.txt").read_text() == "after\n", "nothing was written yet"
    await page.click("Leave everything as it is")
    await page.click("Undo these changes…")
    await page.click("Put back 2 files")
    await page.wait_for(has("2 files put back."))
    assert (workspace / "kept.txt").read_text() == "before\n"
    assert (workspace / "edited.txt").read_text() == "a person was here\n"
    assert not (workspace / "new.txt").exists()

    await page.click("Take the undo back…")
    await page.click("Restore 2 files")
    await page.wait_for(f"{has('+after')} && {has('2 files restored.')}")
    assert (workspace / "kept.txt").read_text() == "after\n"
    await page.check_clean()


HOLD_FIRST_DIFF = """(() => {
  const real = window.fetch, held = new Promise((go) => { window.release = go; });
  window.asked = window.answered = 0;
  window.fetch = async (path, options) => {
    if (path !== "/api/GetDiff") return real(path, options);
    const number = ++asked, answer = await real(path, options);
    if (number === 1) await held; else answered++;
    return answer;
  };
})()"""


async def test_changes_that_were_read_early_and_come_late_replace_no_newer_ones(
    start: StartService, page: Page, tmp_path: Path
) -> None:
    wait = "until [ -e go ]; do sleep 0.02; done"
    turns = [turn("", command("echo 1 > one.txt")), turn("", command(f"{wait}; echo 2 > two.txt")), turn("Done.")]
    client = await start(turns, **ON)
    call = client.stub.ExecuteAgent(client.request(execution_id="changing"))
    await page.open(f"http://{web_address(client)}/#/execution/changing")
    await page.wait_for(has("added one.txt"))
    await page.evaluate(HOLD_FIRST_DIFF)
    await page.click("Changes")
    await page.wait_for("window.asked === 1")

    (tmp_path / "workspace" / "go").touch()
    await client.collect(call)
    await page.wait_for(f"{has('added two.txt')} && {has('succeeded')} && answered === asked - 1")
    await page.evaluate("(release(), new Promise((done) => setTimeout(done, 200)))")

    assert await page.evaluate(has("added two.txt"))
    await page.check_clean()


async def test_output_before_what_the_page_holds_is_read_on_request(start: StartService, page: Page) -> None:
    client = await start([turn("", command("seq 1 200000")), turn("Done.")], **ON)
    await client.execute(execution_id="long")
    await page.open(f"http://{web_address(client)}/#/execution/long")
    await page.wait_for(f"{has('200000')} && {has('more lines above')}")
    await page.evaluate("document.querySelector('.row.fold').click()")
    await page.wait_for(has("show less"))
    await page.evaluate("document.querySelector('.rows').scrollTop = 0")
    first = "document.querySelector('.row.out')?.innerText"
    load = "[...document.querySelectorAll('.row.fold')].find((each) => each.innerText.includes('load the output'))"
    presses = 0
    while await page.evaluate(f"{first} !== '1'"):
        height = "document.querySelector('.rows-space').style.height"
        before = await page.evaluate(height)
        await page.wait_for(f"({load}?.click(), Boolean({load}))")
        await page.wait_for(f"{height} !== {before!r} && (document.querySelector('.rows').scrollTop = 0) === 0")
        await page.wait_for(f"{first} === '1' || Boolean({load})")
        presses += 1
    assert presses == 4  # 1.3 MB, 256 KiB each
    rows = await page.evaluate("parseFloat(document.querySelector('.rows-space').style.height) / 20")
    assert rows - 200_000 < 10, "no line is missing and none is there twice"
    assert rows >= 200_000
    assert not await page.evaluate(has("load the output before"))
    await page.check_clean()


async def test_the_page_goes_on_by_itself_after_the_service_was_killed(
    start_process: StartProcess, page: Page, tmp_path: Path
) -> None:
    wait = "until [ -e go ]; do sleep 0.02; done"
    service = await start_process(
        [turn("Before.", command(f"echo begun; {wait}")), turn("After.")],
        WEB_ADDRESS=f"127.0.0.1:{free_port()}",
        AUTH_TOKEN="a-token-of-the-operator",
    )
    call = service.client.stub.ExecuteAgent(
        service.client.request(execution_id="a", disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH),
        metadata=[("authorization", "Bearer a-token-of-the-operator")],
    )
    await service.client.collect(call, until=lambda event: event.HasField("tool_output"))
    address = web_of(tmp_path)
    await page.open(f"http://{address}/#token=a-token-of-the-operator")
    await page.wait_for(f"location.hash === '#/' && {has('running')}")
    await page.evaluate("location.hash = '#/execution/a'")
    await page.wait_for(has("begun"))

    await service.kill()
    await page.wait_for(has("The service does not answer"))
    (tmp_path / "workspace" / "go").touch()
    variables = {"AUTH_TOKEN": "a-token-of-the-operator", "WEB_ADDRESS": address, "RESUME_ON_START": "true"}
    await start_process(**variables)

    await page.wait_for(f"{has('resumed')} && {has('After.')} && {has('succeeded')} && !{has('does not answer')}")
    rows = "[...document.querySelectorAll('.row')].map((each) => each.innerText)"
    assert await page.evaluate(f"{rows}.filter((text) => text === 'Before.').length") == 1
    await page.check_clean()


class Asked:
    """An execution whose command waits for approval."""

    def __init__(self, client: Client, name: str, **fields: Any) -> None:
        self.client = client
        self.call = client.stub.ExecuteAgent(client.request(execution_id=name, approval_policy=ASK, **fields))

    async def ended(self) -> event_pb2.Finished:
        events = await self.client.collect(self.call)
        return events[-1].finished


async def test_a_person_decides_on_the_page_and_two_see_one_decision(
    start: StartService, browser: Browser, page: Page, tmp_path: Path
) -> None:
    turns = [turn("", command("echo model >> effects")), turn("I was told: {{last_tool_result}}")]
    client = await start(turns, **ON)
    other = await browser.page()
    await page.open(f"http://{web_address(client)}/")
    await other.open(f"http://{web_address(client)}/")

    edited = Asked(client, "edited")
    for each in (page, other):
        await each.wait_for(has("echo model >> effects"))
    await picture(page, "approvals")
    await page.click("Edit the arguments")
    await page.type("textarea", '{"command": "echo person >> effects"}')
    await page.click("Approve")
    assert "The user changed the arguments" in (await edited.ended()).output
    assert (tmp_path / "workspace" / "effects").read_text() == "person\n"
    for each in (page, other):
        await each.wait_for("document.querySelectorAll('.approval').length === 0")

    refused = Asked(client, "refused")
    await other.wait_for("document.querySelectorAll('.approval').length === 1")
    await other.click("refused")
    await other.wait_for("document.querySelectorAll('main.execution .approval').length === 1")
    await other.type(".approval input", "not on a Friday")
    await other.click("Reject")
    assert "not on a Friday" in (await refused.ended()).output
    await other.wait_for(has("reject"))

    await page.check_clean()
    await other.check_clean()


async def test_a_decision_that_comes_too_late_says_which_one_counts(start: StartService, page: Page) -> None:
    client = await start([turn("", command("echo model")), turn("Done.")], **ON)
    asked = Asked(client, "late")
    await page.open(f"http://{web_address(client)}/")
    await page.wait_for("document.querySelectorAll('.approval').length === 1")
    # What this page shows is old, as if its network had stalled.
    await page.evaluate(
        "window.old = [...document.querySelectorAll('.approval button')].find((each) => each.innerText === 'Approve')"
    )
    pending = await client.stub.ListApprovals(runner_pb2.ListApprovalsRequest())
    await client.stub.SubmitApproval(
        runner_pb2.SubmitApprovalRequest(
            execution_id="late",
            tool_call_id=pending.approvals[0].request.tool_call_id,
            action=event_pb2.APPROVAL_ACTION_REJECT,
            decided_by="ann",
        )
    )
    await asked.ended()
    await page.evaluate("window.form = window.old.closest('.approval'); window.old.click()")
    await page.wait_for("window.form.innerText.includes('already decided by ann')")


async def test_a_grant_on_the_page_holds_for_the_session(start: StartService, page: Page) -> None:
    client = await start([turn("", command("git --version")), turn("Done.")], **ON)
    first = Asked(client, "one", session_id="s")
    await page.open(f"http://{web_address(client)}/#/execution/one")
    await page.wait_for(has("commands that begin with git --version"))
    await page.click("Approve for the session")
    assert (await first.ended()).state == event_pb2.STATE_SUCCEEDED
    assert (await Asked(client, "two", session_id="s").ended()).state == event_pb2.STATE_SUCCEEDED


async def test_hostile_output_is_shown_as_text_on_the_page(start: StartService, page: Page) -> None:
    texts = [text for text in HOSTILE if "\0" not in text]
    turns = [turn(text, command(f"cat <<'E'\n{text}\nE")) for text in texts]
    client = await start([*turns, turn("Done.")], **ON)
    await client.execute(execution_id="h", agent=runner_pb2.Agent(name=HOSTILE[0][:60], instructions="x"))
    await page.open(f"http://{web_address(client)}/")
    await page.wait_for(has("<script>window.owned"))
    await page.evaluate("location.hash = '#/execution/h'")
    await page.wait_for("document.querySelector('main.execution .row.good') !== null")  # the end, which it follows
    await page.evaluate("document.querySelector('.rows').scrollTop = 0")
    await page.scroll_through()
    assert await page.evaluate(
        "window.owned === undefined && document.querySelectorAll('img, iframe, base').length === 0"
    )
    await page.check_clean()


async def test_a_page_of_another_site_cannot_use_the_page(start: StartService, page: Page) -> None:
    client = await start([turn("", command("true")), turn("Done.")], **ON)
    asked = Asked(client, "a")
    address = web_address(client)
    await page.open(f"http://{address}/")
    await page.wait_for("document.querySelectorAll('.approval').length === 1")
    port = address.rsplit(":", 1)[1]
    # A name that resolves to this machine, as in DNS rebinding.
    await page.send("Page.navigate", url=f"http://attacker.test:{port}/")
    await page.wait_for(has("this is not the name of the service"))
    # Another origin: the page itself cannot be framed, read, or posted to.
    await page.open("data:text/html,<body>attacker</body>")
    attempt = (
        f"fetch('http://{address}/api/CancelExecution', {{method: 'POST', credentials: 'include', mode: '%s', "
        "headers: {'content-type': '%s'}, body: JSON.stringify({execution_id: 'a'})})"
        ".then((answer) => answer.type + answer.status, () => 'refused')"
    )
    assert await page.evaluate(attempt % ("cors", "application/json")) == "refused"
    assert await page.evaluate(attempt % ("no-cors", "text/plain")) in {"opaque0", "refused"}
    assert await client.state("a") == event_pb2.STATE_RUNNING
    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="a"))
    await asked.ended()


SHOW = {
    "turns": [
        turn(
            "I will look at the project, then run its tests.",
            ("ls", {"path": "/"}),
            (
                "write_todos",
                {
                    "todos": [
                        {"content": "Look around", "status": "completed"},
                        {"content": "Run the tests", "status": "in_progress"},
                        {"content": "Fix what fails", "status": "pending"},
                    ]
                },
            ),
        ),
        turn(
            "",
            command(
                r"printf '\033[1mcollected 2 items\033[0m\n\033[32mtest_one PASSED\033[0m\n'; "
                r"printf '\033[31mtest_two FAILED\033[0m\n'; sleep 0.3; exit 1"
            ),
        ),
        turn(
            "One fails. A helper looks for the cause.",
            ("task", {"description": "Find why test_two fails", "subagent_type": "general-purpose"}),
        ),
        turn("", ("write_file", {"file_path": "/one.py", "content": "def two() -> int:\n    return 2\n"})),
        turn("", command("seq 40; sleep 0.2")),
        turn("All tests pass now."),
    ],
    "sub_agents": [
        {
            "turns": [
                turn("I read the test.", command("sleep 0.2; echo 'assert two() == 2'")),
                turn("The function is missing."),
            ]
        }
    ],
}


async def test_the_screens_are_pictured(start: StartService, page: Page, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("{currency: USD, per_million_tokens: {scripted/scripted: {input: 2, output: 8}}}")
    root = tempfile.mkdtemp(prefix="project-", dir="/tmp")  # is in the pictures
    client = await start(SHOW, **ON, PRICES_FILE=str(prices), SANDBOX_ROOT_DIR=root)
    for name in ("nightly-build", "release-notes"):
        await client.execute("Fix the tests", execution_id=name, session_id="demo", labels={"team": "core"})
    url = f"http://{web_address(client)}"
    await page.look(1200, 700, prefers_color_scheme="light")
    await page.open(f"{url}/")
    await page.wait_for("document.querySelectorAll('.execution-row').length === 2")
    await picture(page, "list")
    await page.evaluate("location.hash = '#/execution/nightly-build'")
    await page.wait_for(has("All tests pass now."))
    await page.evaluate("document.querySelector('.rows').scrollTop = 0")
    await page.wait_for(f"document.querySelector('.rows').scrollTop === 0 && {has('test_two FAILED')}")
    await picture(page, "execution")
    await page.look(1200, 700, prefers_color_scheme="dark")
    await picture(page, "execution-dark")
    await page.click("Changes")
    await page.click("Undo these changes…")
    await page.wait_for(has("This would be done"))
    await picture(page, "changes-dark")
    await page.click("Transcript")
    await page.look(420, 800, prefers_color_scheme="light")
    await page.wait_for("document.documentElement.scrollWidth <= 420")
    await picture(page, "execution-narrow")
    await page.look(1200, 700, prefers_color_scheme="light")
    await page.evaluate("location.hash = '#/replicas'")
    await page.wait_for(f"{has('loop lag')} && document.querySelectorAll('.usage tbody tr').length === 1")
    await picture(page, "replicas")
    shutil.rmtree(root)
