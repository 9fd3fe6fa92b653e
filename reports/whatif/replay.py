"""The replay: a window's actions decided again, through the same steps that the writer takes.

Each moment goes as a transaction does: findings of the clock, what is due, then the commands in their
order, all at one time. Nothing is written. As long as all comes out as recorded, moments are those of
the record; from where fates part on, what is due is settled when it is due.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from ledger import commands as c
from ledger.advance import GRANTS, advance
from ledger.book import LIVE, Allocation, Book
from ledger.errors import InvalidInput
from ledger.events import Ending, Event, Queued, Refused, Reserved
from ledger.evolve import evolve
from ledger.rules.leases import next_due
from ledger.step import Step, grant_waiting, is_due, note, settle_due, take_step
from reports.whatif.actions import CLOCK, ORDINARY, Action, Window
from reports.whatif.changes import Changes
from reports.whatif.guesses import Guesses
from reports.whatif.mapping import Ended, Replayed, need_of, on_another
from reports.whatif.reproducing import Key, key_of
from reports.whatif.sameness import Comparison, with_digest
from reports.whatif.unseen import is_refused_command, settle_unseen

MOMENTS_SPARE = 10_000_000
"""A bound on the moments that a simulation adds to those of the record."""


class Replay:
    """One run over a window. ``book`` is at its beginning and is changed."""

    def __init__(
        self,
        book: Book,
        window: Window,
        changes: Changes,
        ended_before: Ended,
        *,
        recorded: Iterable[Event],
        looks: Mapping[int, frozenset[Key]] | None = None,
        taken: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """``recorded`` are the window's events again, for the comparison; ``looks`` as of
        :class:`~reports.whatif.reproducing.Reproduced`; ``taken`` is given each simulated event.
        """
        self._looks = looks or {}
        self._taken = taken
        self.book = book
        self.window = window
        self.changes = changes
        self.done = Replayed()
        self.compared = Comparison(recorded)
        self._ended_before = ended_before
        self._guesses = Guesses(window)
        self._queue: list[tuple[int, int, int, int, Action]] = []
        self._count = 0
        self._present: dict[str, Allocation] = dict(book.allocations)
        self._lives: dict[str, str] = {}
        self._moments = window.moments
        self._next_moment = 0
        self._effects: dict[tuple[str, str], str | None] = {}
        self._early: dict[tuple[Any, ...], str] = {}
        self._positions: dict[int, int] = {}
        self._first = book.position
        self._slept = sorted(
            (action.time, action.command.since)
            for action in window.actions
            if action.phase == CLOCK and isinstance(action.command, c.ExtendTime)
        )
        self._recorded_ends = {
            (life.key, life.ended_at) for life in window.lives.values() if life.by_rule
        }

    def run(self, progress: Callable[[int], None] | None = None) -> Replayed:
        """Decide everything again."""
        self.changes.put_into(self.book)
        for key, life in self.window.lives.items():
            if key in self._present:
                self.done.ids[key] = key
                self._lives[key] = key
                if life.granted_at is not None and self._present[key].state != "waiting":
                    self._schedule(life.tenure, 0)
        self._schedule(self.window.actions, 0)
        count = 0
        while (now := self._next_time()) is not None and count < MOMENTS_SPARE:
            self._moment(now)
            count += 1
            if progress is not None and count % 1_000 == 0:
                progress(now)
        self.compared.end()
        begun = {key for name, key in self._lives.items() if self._present[name].state != "waiting"}
        left = [life for key, life in self.window.lives.items() if key not in begun]
        self.done.left.pointless += sum(len(life.tenure) for life in left)
        return self.done

    # --- time ------------------------------------------------------------------------------------

    def _schedule(self, actions: list[Action], shift: int) -> None:
        for action in actions:
            self._count += 1
            when = action.time + shift
            heappush(self._queue, (when, action.phase, action.order, self._count, action))

    def _next_time(self) -> int | None:
        while self._queue and self._is_stale(self._queue[0][4]):
            heappop(self._queue)
        times = [self._queue[0][0]] if self._queue else []
        if self._next_moment < len(self._moments):
            times.append(self._moments[self._next_moment])
        end = self.window.moments[-1] if self.window.moments else 0
        now = min(times, default=None)
        due = next_due(self.book)
        sooner = due is not None and due <= end and (now is None or due < now)
        if due is not None and sooner and self._is_settled(due):
            return due
        if now is not None and now > end:
            # Beyond the window nothing is asked any more.
            return None
        return now

    def _is_stale(self, action: Action) -> bool:
        """Whether a guess has come true by itself."""
        if not action.guess:
            return False
        found = self.book.allocations.get(action.about or "")
        return found is None or found.state not in LIVE

    def _is_settled(self, due: int) -> bool:
        """Whether what is due then is written down at once.

        What is so in the record was written down by a later moment of it; and while the machine slept,
        nobody was there: what would have ended then is extended first.
        """
        _, position, name = self.book.due[0]
        if (self._lives.get(name, ""), due) in self._recorded_ends:
            return False
        asleep = bisect_left(self._slept, (due, due))
        if asleep < len(self._slept) and self._slept[asleep][1] < due:
            return False
        return self.compared.parted or position > 0

    def _moment(self, now: int) -> None:
        while self._next_moment < len(self._moments) and self._moments[self._next_moment] <= now:
            self._next_moment += 1
        self._look_anew(now)
        self._unseen(now)
        self._run_phase(now, upto=ORDINARY - 1)
        self._unseen(now)
        while is_due(self.book, now):
            self._take_in(settle_due(self.book, now))
            if not self.compared.parted:
                break
        self._run_phase(now, upto=ORDINARY)
        self._unseen(now)
        self.compared.close(now)

    def _look_anew(self, now: int) -> None:
        """The record's writer of this moment knew of something freed that nobody had looked at."""
        looks = self._looks.get(now)
        if looks is not None:
            ids = self.done.ids
            here = {
                (ids.get(parent or "", key), ids.get(parent or "", parent)) for key, parent in looks
            }
            for space in self.book.spaces():
                space.freed = key_of(space) in here

    def _run_phase(self, now: int, upto: int) -> None:
        queue = self._queue
        while queue and queue[0][0] == now and queue[0][1] <= upto:
            action = heappop(queue)[4]
            if not self._is_stale(action):
                self._unseen(now)
                self._do(action, now)

    def _unseen(self, now: int) -> None:
        """Claims that a command led to which itself left no trace."""
        expected = self.compared.expected(now)
        if expected is not None and expected.cause is None:
            self._take_in(settle_unseen(self.book, self.compared.ahead(now), now))

    # --- actions ---------------------------------------------------------------------------------

    def _do(self, action: Action, now: int) -> None:
        if action.command is None:
            self._copy(action, now)
            return
        command = self._as_asked(action, now)
        if command is None:
            return
        ended = None
        if isinstance(command, c.Targeted | c.RecordUsage):
            ended = self._ended(command.allocation, action)
        step = Step()
        try:
            if action.phase == CLOCK:
                step.events = note(self.book, command, now)
            else:
                step = take_step(self.book, command, now, ended)
        except InvalidInput:
            self.done.left.invalid += 1
            return
        self._name(action, command, step)
        self._take_in(step.events)

    def _as_asked(self, action: Action, now: int) -> c.AnyCommand | None:
        """The command with ids and settings of this run; None where there is nothing to be done."""
        command = action.command
        assert command is not None
        if isinstance(command, c.Allocate):
            return None if self._is_retry(action, command, now) else self._asked(command)
        if isinstance(command, c.AllocateBatch):
            if self._effects.get((command.tenant, command.command_id)):
                self.done.left.retries += 1
                return None
            items = tuple(self._asked(item) for item in command.items)
            return replace(command, items=items)
        if isinstance(command, c.Targeted | c.RecordUsage):
            return self._targeted(action, command, now)
        if isinstance(command, c.Correct):
            return self._corrected(command)
        return self.changes.said(command)

    def _corrected(self, command: c.Correct) -> c.Correct | None:
        """A correction of what came about here instead; None where nothing did."""
        name = command.allocation
        if name in self.window.lives:
            name = self.done.ids.get(name)
            if name is None:
                self.done.left.pointless += 1
                return None
        corrects = self._positions.get(command.corrects, command.corrects)
        return replace(command, allocation=name, corrects=corrects)

    def _asked(self, command: c.Allocate) -> c.Allocate:
        request = self.changes.asked(command.pool, command.request)
        if request.parent is not None and request.parent in self.done.ids:
            parent = self.done.ids[request.parent]
            if parent != request.parent:
                request = replace(request, parent=parent)
        return command if request is command.request else replace(command, request=request)

    def _is_retry(self, action: Action, command: c.Allocate, now: int) -> bool:
        """Whether this asks again for what the simulation has given already, unlike the record."""
        found = self._effects.get((command.tenant, command.command_id))
        if found is None:
            found = self._early.get(need_of(command))
            if found is None or found not in self.book.allocations:
                return False
        self.done.left.retries += 1
        own = action.marks[0] if action.marks else None
        life = None if own is None else self.window.lives.get(own.allocation or "")
        if life is not None and found in self.book.allocations:
            # What came of the retry in the record is done to what was got sooner.
            self._early.pop(need_of(command), None)
            self.done.ids[life.key] = found
            for each in list(self._queue):
                if each[4].guess and each[4].about == found:
                    each[4].about = ""
            self._lives[found] = life.key
            if life.granted_at is not None:
                self._schedule(life.tenure, max(0, now - life.granted_at))
            else:
                self._guess_release(found, now)
        return True

    def _targeted(self, action: Action, command: Any, now: int) -> c.AnyCommand | None:
        name = command.allocation if action.guess else self.done.ids.get(command.allocation)
        if name is None and command.allocation not in self.window.lives:
            name = command.allocation
        found = None if name is None else self.book.allocations.get(name)
        if name is None or (found is None and not isinstance(command, c.RecordUsage)):
            self.done.left.pointless += 1
            return None
        waits_on = action.held or action.guess
        if found is not None and not waits_on and found.state != "waiting":
            # It gave up waiting in the record; here it has what it waited for.
            self.done.left.pointless += 1
            return None
        if found is not None and action.asked_to_go and found.state == "active":
            self._guess_release(name, now)
            return None
        return on_another(command, name, now - action.time)

    def _ended(self, name: str, action: Action) -> Allocation | None:
        if name in self.book.allocations:
            return None
        found = self._present.get(name)
        return self._ended_before(name) if found is None else found

    def _copy(self, action: Action, now: int) -> None:
        """What cannot be decided again stands as it was recorded."""
        for event in action.own:
            body = event.body
            if isinstance(body, Refused) and body.repeats_of is not None:
                first = self._positions.get(body.repeats_of)
                if first is None and body.repeats_of > self._first:
                    self.done.left.repeats += body.repeats
                    continue
                body = replace(body, repeats_of=first or body.repeats_of)
            elif isinstance(body, Refused):
                self.done.left.unknown += 1
            position = self.book.position + 1
            name = event.allocation
            if name == f"A{event.position}":
                self.done.ids[name] = f"A{position}"
            if name is not None and name in self.window.lives:
                name = self.done.ids.get(name)
                if name is None:
                    continue
            copy = replace(
                event,
                position=position,
                at=event.at - event.recorded_at + now,
                recorded_at=now,
                allocation=name,
                body=body,
            )
            evolve(self.book, copy)
            self._positions[event.position] = position
            self._take_in([copy])
        if action.own[0].cause is not None and is_refused_command(action.own[-1]):
            # It was refused, but what was freed by then was handed on behind it.
            events: list[Event] = []
            grant_waiting(self.book, now, events)
            self._take_in(events)

    # --- what came of it -------------------------------------------------------------------------

    def _name(self, action: Action, command: c.AnyCommand, step: Step) -> None:
        """Tell recorded and simulated outcomes of a command from each other, and give theirs digests."""
        if action.marks:
            digest = action.marks[-1].digest
            step.events = [with_digest(e, command.command_id, digest) for e in step.events]
        if step.answer is not None:
            self._effects[command.tenant, command.command_id] = step.answer
            return
        own = [e for e in step.events if e.cause is not None]
        for mark, event in zip(action.marks, own, strict=False):
            if mark.refused == isinstance(event.body, Refused):
                self._positions[mark.position] = event.position
            key = mark.allocation
            if mark.refused and mark.request:
                key = f"R{mark.position}"
                if event.allocation is not None and isinstance(command, c.Allocate):
                    self._early[need_of(command)] = event.allocation
            if event.allocation is None or key not in self.window.lives:
                continue
            if isinstance(event.body, (*GRANTS, Queued)):
                self.done.ids[key] = event.allocation
                self._lives[event.allocation] = key
                self._effects[command.tenant, command.command_id] = event.allocation

    def _take_in(self, events: list[Event]) -> None:
        for event in events:
            self._taken(event)
            self.compared.next(event)
            name = event.allocation
            if name is None:
                continue
            after = advance(self._present.get(name), event)
            if after is not None:
                self._present[name] = after
            if isinstance(event.body, GRANTS):
                self._granted(name, event)
            elif isinstance(event.body, Ending):
                self._asked_to_go(name, event, event.body.deadline)

    def _asked_to_go(self, name: str, event: Event, deadline: int) -> None:
        """A process that goes only here is taken to go within its grace."""
        bound = self._present[name].request.process is not None
        if self.compared.parted and event.cause is None and bound:
            self._guess_end(name, deadline)

    def _granted(self, name: str, event: Event) -> None:
        life = self.window.lives.get(self._lives.get(name, ""))
        if life is None:
            return
        if life.granted_at is None:
            if self.changes and self.compared.parted:
                self._guess_release(name, event.at)
            return
        self._schedule(life.tenure, event.at - life.granted_at)
        if not self.changes or not life.by_rule or life.gone_at is None:
            return
        if life.ended_by != "expired" and not isinstance(event.body, Reserved):
            # Until the record noticed its end nothing else happened to it.
            self._guess_release(name, event.at, least=life.gone_at - life.granted_at)

    def _guess_release(self, name: str, since: int, least: int = 0) -> None:
        """Release something after as long as such requests are held; the lease bounds it anyway."""
        found = self._present[name]
        held = self._guesses.holding(found.pool, found.holder, found.task)
        if held is not None:
            self.done.left.guessed += 1
            self._guess_end(name, since + max(held, least, 1))

    def _guess_end(self, name: str, when: int) -> None:
        found = self._present[name]
        release = c.Release(
            command_id=f"whatif-{name}-{when}",
            tenant=found.tenant,
            allocation=name,
            claim=c.Claim(found.holder, operator=True),
        )
        action = Action(when, 2**62, release, about=name, held=True, guess=True)
        self._schedule([action], 0)
