"""Random kills of the service, with callers that reattach until every execution has ended."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.caller import Caller
from tests.chaos.cleanup_checks import check_no_earlier_processes, check_no_errors_logged, check_state_is_clean
from tests.chaos.invariants import ExecutionTrace
from tests.chaos.services import Service, Services, running_services, stub_of
from tests.forking import ForkServer
from tests.running import Event

_MOMENTS = (
    "started",
    "text_delta",
    "message_finished",
    "message_discarded",
    "approval_requested",
    "approval_decided",
    "tool_call_started",
    "tool_output",
    "tool_call_finished",
    "sub_agent_started",
    "sub_agent_finished",
    "todos_updated",
    "usage_updated",
    "finished",
)
_MAX_UPTIME_SECONDS = 4.0
_ALL_FINISHED_TIMEOUT_SECONDS = 60.0


@dataclass
class Report:
    """Counts of a storm."""

    kills: int = 0
    executions: int = 0
    processes_of_executions: int = 0
    interrupted_calls: int = 0
    decisions: int = 0
    moments: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.executions} executions in {self.processes_of_executions} processes, "
            f"{self.interrupted_calls} calls interrupted, {self.decisions} decided; {dict(self.moments)}"
        )


class KillTrigger:
    """Kills a service at a random moment: after a delay, or at or shortly after an event."""

    def __init__(self, choices: Random, workspace: Path, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._effects = workspace / "effects"
        self._loop = asyncio.get_running_loop()
        self.moment = choices.choice((*_MOMENTS, "time", "effect"))
        self._count = choices.choice((1, 1, 2, 3, 5, 8, 13))
        self._delay = choices.choice((0.0, 0.0, choices.expovariate(1 / 0.003), choices.expovariate(1 / 0.03)))
        self._timers = [self._loop.call_later(choices.uniform(0.02, 1.5), self._fire_if, "time")]
        self._timers.append(self._loop.call_later(_MAX_UPTIME_SECONDS, self._fire))
        self._watch_effects(self._size())

    def on_event(self, event: Event) -> None:
        """Fires if this is the chosen event."""
        if event.WhichOneof("event") == self.moment:
            self._count -= 1
            if self._count == 0:
                self._fire_later()

    def disarm(self) -> None:
        """Cancels the trigger."""
        for timer in self._timers:
            timer.cancel()

    def _watch_effects(self, before: int) -> None:
        if self.moment == "effect":
            if self._size() > before:
                self._fire_later()
            else:
                self._timers.append(self._loop.call_later(0.001, self._watch_effects, before))

    def _size(self) -> int:
        return self._effects.stat().st_size if self._effects.exists() else 0

    def _fire_later(self) -> None:
        if self._delay:
            self._timers.append(self._loop.call_later(self._delay, self._fire))
        else:
            self._fire()

    def _fire_if(self, moment: str) -> None:
        if self.moment == moment:
            self._fire()

    def _fire(self) -> None:
        self.disarm()
        self._kill()


class Storm:
    """Keeps `at_once` executions running while services are killed."""

    def __init__(self, services: Services, choices: Random, at_once: int) -> None:
        self._services = services
        self._choices = choices
        self._at_once = at_once
        self._callers: list[Caller] = []
        self.report = Report()

    async def run(self, kills: int) -> None:
        """Kills `kills` services, lets every execution end, and checks the invariants."""
        while self.report.kills < kills:
            await self._run_and_kill()
        await self._run_to_completion()

    async def _run_and_kill(self) -> None:
        self.report.kills += 1
        service = await self._services.start(**self._variables())
        if self._choices.random() < 0.08:
            self.report.moments["starting"] += 1
            await asyncio.sleep(self._choices.uniform(0, 0.4))
            service.signal(signal.SIGKILL)
        else:
            address = await service.ready()
            await check_no_earlier_processes(self._services, service)
            async with stub_of(address) as stub:
                await self._call_until_killed(service, stub)
        await service.ended()

    async def _call_until_killed(self, service: Service, stub: Any) -> None:
        trigger = KillTrigger(self._choices, self._services.workspace, self._kill(service))
        self.report.moments[trigger.moment] += 1
        try:
            callers = self._active_callers()
            if all(each.is_known for each in callers):
                self._choices.shuffle(callers)
            async with asyncio.TaskGroup() as tasks:
                for caller in callers:
                    tasks.create_task(caller.follow(stub, trigger.on_event))
                    await asyncio.sleep(self._choices.choice((0.0, 0.0, 0.005)))
            service.signal(signal.SIGKILL)
        finally:
            trigger.disarm()

    def _kill(self, service: Service) -> Callable[[], None]:
        chance = self._choices.random()
        if chance < 0.1:
            return lambda: service.signal(signal.SIGTERM)
        return service.kill_with_supervisor if chance < 0.2 else lambda: service.signal(signal.SIGKILL)

    def _variables(self) -> dict[str, str]:
        variables = {"RESUME_ON_START": "true"} if self._choices.random() < 0.3 else {}
        return variables | {"APPROVAL_HOLD": self._choices.choice(("0", "0.02", "60"))}

    def _active_callers(self) -> list[Caller]:
        """Returns unfinished callers, topped up to `at_once`."""
        active = [each for each in self._callers if not each.is_finished]
        while len(active) < self._at_once:
            number = len(self._callers)
            session = f"session-{number // 6}" if number % 3 == 0 else ""
            active.append(Caller(f"e{number}", self._services.mark, self._choices, session=session))
            self._callers.append(active[-1])
        return [each for each in active if self._may_call(each)]

    def _may_call(self, caller: Caller) -> bool:
        """False for a caller that could supersede the interrupted execution of its session, as a new one does."""
        before = self._callers[: self._callers.index(caller)]
        first = next((each for each in before if each.session and each.session == caller.session), None)
        return caller.is_known or first is None or first.is_finished or not first.has_called

    async def _run_to_completion(self) -> None:
        service = await self._services.start()
        async with stub_of(await service.ready()) as stub:
            async with asyncio.timeout(_ALL_FINISHED_TIMEOUT_SECONDS):
                while active := [each for each in self._callers if not each.is_finished]:
                    may_call = [each for each in active if self._may_call(each)]
                    await asyncio.gather(*(each.follow(stub, lambda _: None) for each in may_call))
            for caller in self._callers:
                assert await caller.replay(stub) == caller.events, f"{caller.name}: the replay differs"
            self._check_traces()
            await check_state_is_clean(self._services, {each.session for each in self._callers if each.session})
        service.signal(signal.SIGTERM)
        await service.ended()
        await check_no_earlier_processes(self._services, None)
        check_no_errors_logged(self._services)

    def _check_traces(self) -> None:
        effects = Counter((self._services.workspace / "effects").read_text().splitlines())
        for caller in self._callers:
            trace = ExecutionTrace(caller.name, caller.events)
            trace.check(self._services.workspace, effects)
            self.report.executions += 1
            self.report.processes_of_executions += trace.process_count()
            self.report.interrupted_calls += trace.interrupted_calls()
            self.report.decisions += trace.decisions()


async def storm(directory: Path, fork_server: ForkServer, *, seed: int, kills: int, at_once: int = 5) -> Report:
    """Runs a storm on one state directory and returns its counts. Raises AssertionError for a broken invariant.

    Choices follow from the seed; the exact time at which a signal arrives does not.
    """
    with running_services(directory, fork_server) as services:
        run = Storm(services, Random(seed), at_once)  # a seed is wanted
        await run.run(kills)
        return run.report
