"""The storm: services that are killed at random, and callers who come back until everything has ended."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.account import Account
from tests.chaos.caller import Caller
from tests.chaos.leftovers import check_left_clean, check_no_defects, check_nothing_runs_of_before
from tests.chaos.lives import Life, Lives, lives, stub_of
from tests.running import Event

_MOMENTS = (
    "started",
    "text_delta",
    "message_finished",
    "message_discarded",
    "tool_call_started",
    "tool_output",
    "tool_call_finished",
    "sub_agent_started",
    "sub_agent_finished",
    "todos_updated",
    "usage_updated",
    "finished",
)
_LONGEST_LIFE = 4.0
_ALL_ENDED_WITHIN = 60.0


@dataclass
class Report:
    """What a storm came to."""

    kills: int = 0
    executions: int = 0
    lives_of_executions: int = 0
    interrupted_calls: int = 0
    moments: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.executions} executions in {self.lives_of_executions} lives, "
            f"{self.interrupted_calls} calls interrupted; {dict(self.moments)}"
        )


class Fuse:
    """Ends a life at a moment that was chosen at random: after a time, or at an event, or a little later."""

    def __init__(self, choices: Random, workspace: Path, strike: Callable[[], None]) -> None:
        self._strike = strike
        self._effects = workspace / "effects"
        self._loop = asyncio.get_running_loop()
        self.moment = choices.choice((*_MOMENTS, "time", "effect"))
        self._count = choices.choice((1, 1, 2, 3, 5, 8, 13))
        self._delay = choices.choice((0.0, 0.0, choices.expovariate(1 / 0.003), choices.expovariate(1 / 0.03)))
        self._alarms = [self._loop.call_later(choices.uniform(0.02, 1.5), self._blow_if, "time")]
        self._alarms.append(self._loop.call_later(_LONGEST_LIFE, self._blow))
        self._watch_effects(self._size())

    def see(self, event: Event) -> None:
        """Takes notice of an event."""
        if event.WhichOneof("event") == self.moment:
            self._count -= 1
            if self._count == 0:
                self._blow_later()

    def put_out(self) -> None:
        """Does nothing from now on."""
        for alarm in self._alarms:
            alarm.cancel()

    def _watch_effects(self, before: int) -> None:
        if self.moment == "effect":
            if self._size() > before:
                self._blow_later()
            else:
                self._alarms.append(self._loop.call_later(0.001, self._watch_effects, before))

    def _size(self) -> int:
        return self._effects.stat().st_size if self._effects.exists() else 0

    def _blow_later(self) -> None:
        if self._delay:
            self._alarms.append(self._loop.call_later(self._delay, self._blow))
        else:
            self._blow()

    def _blow_if(self, moment: str) -> None:
        if self.moment == moment:
            self._blow()

    def _blow(self) -> None:
        self.put_out()
        self._strike()


class Storm:
    """Keeps `at_once` executions going while services die."""

    def __init__(self, every_life: Lives, choices: Random, at_once: int) -> None:
        self._lives = every_life
        self._choices = choices
        self._at_once = at_once
        self._callers: list[Caller] = []
        self.report = Report()

    async def rage(self, kills: int) -> None:
        """Kills so many services, then lets everything end, and checks it."""
        while self.report.kills < kills:
            await self._live_and_die()
        await self._live_to_the_end()

    async def _live_and_die(self) -> None:
        self.report.kills += 1
        life = await self._lives.start(**self._variables())
        if self._choices.random() < 0.08:
            self.report.moments["starting"] += 1
            await asyncio.sleep(self._choices.uniform(0, 0.4))
            life.signal(signal.SIGKILL)
        else:
            address = await life.ready()
            await check_nothing_runs_of_before(self._lives, life)
            async with stub_of(address) as stub:
                await self._call_until_death(life, stub)
        await life.ended()

    async def _call_until_death(self, life: Life, stub: Any) -> None:
        fuse = Fuse(self._choices, self._lives.workspace, self._strike(life))
        self.report.moments[fuse.moment] += 1
        try:
            callers = self._going()
            if all(each.is_known for each in callers):
                self._choices.shuffle(callers)
            async with asyncio.TaskGroup() as tasks:
                for caller in callers:
                    tasks.create_task(caller.follow(stub, fuse.see))
                    await asyncio.sleep(self._choices.choice((0.0, 0.0, 0.005)))
            life.signal(signal.SIGKILL)
        finally:
            fuse.put_out()

    def _strike(self, life: Life) -> Callable[[], None]:
        chance = self._choices.random()
        if chance < 0.1:
            return lambda: life.signal(signal.SIGTERM)
        return life.kill_with_supervisor if chance < 0.2 else lambda: life.signal(signal.SIGKILL)

    def _variables(self) -> dict[str, str]:
        return {"RESUME_ON_START": "true"} if self._choices.random() < 0.3 else {}

    def _going(self) -> list[Caller]:
        """Those that are not at their end, filled up."""
        going = [each for each in self._callers if not each.is_finished]
        while len(going) < self._at_once:
            number = len(self._callers)
            session = f"session-{number // 6}" if number % 3 == 0 else ""
            going.append(Caller(f"e{number}", self._lives.mark, self._choices, session=session))
            self._callers.append(going[-1])
        return [each for each in going if self._may_call(each)]

    def _may_call(self, caller: Caller) -> bool:
        """Keeps one that may not have arrived yet from ending the interrupted one of its session: it rightly would."""
        before = self._callers[: self._callers.index(caller)]
        first = next((each for each in before if each.session and each.session == caller.session), None)
        return caller.is_known or first is None or first.is_finished or not first.has_called

    async def _live_to_the_end(self) -> None:
        life = await self._lives.start()
        async with stub_of(await life.ready()) as stub:
            async with asyncio.timeout(_ALL_ENDED_WITHIN):
                while going := [each for each in self._callers if not each.is_finished]:
                    may_call = [each for each in going if self._may_call(each)]
                    await asyncio.gather(*(each.follow(stub, lambda _: None) for each in may_call))
            for caller in self._callers:
                assert await caller.replay(stub) == caller.events, f"{caller.name}: replayed, it is another story"
            self._check_accounts()
            await check_left_clean(self._lives, {each.session for each in self._callers if each.session})
        life.signal(signal.SIGTERM)
        await life.ended()
        await check_nothing_runs_of_before(self._lives, None)
        check_no_defects(self._lives)

    def _check_accounts(self) -> None:
        effects = Counter((self._lives.workspace / "effects").read_text().splitlines())
        for caller in self._callers:
            account = Account(caller.name, caller.events)
            account.check(self._lives.workspace, effects)
            self.report.executions += 1
            self.report.lives_of_executions += account.lives()
            self.report.interrupted_calls += account.interrupted_calls()


async def storm(directory: Path, *, seed: int, kills: int, at_once: int = 5) -> Report:
    """Lets a storm rage over one state directory and returns what it came to; what is not as promised is raised.

    The choices follow from the seed; when exactly a signal arrives is the machine's.
    """
    async with lives(directory) as every_life:
        rage = Storm(every_life, Random(seed), at_once)  # a seed is wanted
        await rage.rage(kills)
        return rage.report
