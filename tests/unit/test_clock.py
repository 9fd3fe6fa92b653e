"""Ledger time: what ``tell`` makes of suspended machines, jumps, acceptance and reboots."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.clock import (
    DRIFT_TOLERANCE,
    JUMP_TOLERANCE_NS,
    NOTE_AGE_NS,
    SLEEP_TOLERANCE_NS,
    ClockNote,
    Reading,
    Tick,
    is_fresh,
    machine_clock,
    tell,
    unpack,
)

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
START = 1_790_000_000 * SECOND
BOOT = "0b5d1a4e-2f6c-4a8e-9c1d-7e3f5a9b8c7d"
OTHER_BOOT = "f00dfeed-2f6c-4a8e-9c1d-7e3f5a9b8c7d"


@dataclass(frozen=True)
class Machine:
    """A machine's clocks, moved by what can happen to it."""

    wall: int = START
    boot: int = 1_000 * SECOND
    monotonic: int = 1_000 * SECOND
    boot_id: str = BOOT

    def run(self, ns: int) -> Machine:
        return replace(
            self, wall=self.wall + ns, boot=self.boot + ns, monotonic=self.monotonic + ns
        )

    def sleep(self, ns: int) -> Machine:
        return replace(self, wall=self.wall + ns, boot=self.boot + ns)

    def set_wall(self, by_ns: int) -> Machine:
        return replace(self, wall=self.wall + by_ns)

    def restart(self, off_ns: int) -> Machine:
        other = OTHER_BOOT if self.boot_id == BOOT else BOOT
        return Machine(self.wall + off_ns, 10 * SECOND, 10 * SECOND, other)

    @property
    def reading(self) -> Reading:
        return Reading(self.wall, self.boot, self.monotonic, self.boot_id)


def first(machine: Machine) -> Tick:
    return tell(machine.reading, None, 0)


def then(machine: Machine, before: Tick, *, accept: bool = False) -> Tick:
    """The next reading, after ``before`` was recorded."""
    return tell(machine.reading, before.note._replace(accept=accept), before.now)


def findings(tick: Tick) -> tuple[int, int, int]:
    return tick.slept_ns, tick.jump_ns, tick.adopted_ns


# --- the note ------------------------------------------------------------------------------------

_INT64 = st.integers(-(2**63), 2**63 - 1)


@given(_INT64, _INT64, _INT64, _INT64, st.booleans(), st.sampled_from([BOOT, "unknown", ""]))
def test_a_note_reads_back_as_it_was_packed(
    ledger_time: int, boot: int, monotonic: int, offset: int, accept: bool, boot_id: str
) -> None:
    note = ClockNote(ledger_time, boot, monotonic, offset, accept, boot_id)
    assert unpack(note.pack()) == note


@given(st.binary(max_size=120))
def test_bytes_that_are_no_note_read_as_none(data: bytes) -> None:
    assert unpack(data) is None


def test_a_note_of_another_kind_or_half_a_note_reads_as_none() -> None:
    packed = ClockNote(1, 2, 3, 4, False, BOOT).pack()
    assert unpack(b"LBC1" + packed[4:]) is None
    assert unpack(packed[:-1]) is None
    assert unpack(packed + b"more") is not None


# --- single findings -----------------------------------------------------------------------------


def test_without_a_note_the_wall_clock_is_believed() -> None:
    tick = first(Machine())
    assert tick.now == START
    assert tick.note == ClockNote(START, 1_000 * SECOND, 1_000 * SECOND, 0, False, BOOT)
    assert findings(tick) == (0, 0, 0)


def test_while_all_clocks_agree_ledger_time_is_the_wall_clock() -> None:
    machine = Machine()
    tick = first(machine)
    machine = machine.run(90 * SECOND)
    tick = then(machine, tick)
    assert tick.now == machine.wall
    assert findings(tick) == (0, 0, 0)


@pytest.mark.parametrize("error", [-1, 1])
def test_a_wall_clock_that_is_slewed_is_followed(error: int) -> None:
    machine = Machine()
    tick = first(machine)
    # Half a part in a thousand over an hour: less than a clock that is being corrected may part.
    machine = machine.run(HOUR).set_wall(error * HOUR // (2 * DRIFT_TOLERANCE))
    tick = then(machine, tick)
    assert tick.now == machine.wall
    assert findings(tick) == (0, 0, 0)


def test_time_in_which_the_machine_was_suspended_is_told() -> None:
    machine = Machine()
    tick = first(machine)
    machine = machine.run(10 * SECOND).sleep(8 * HOUR).run(SECOND)
    tick = then(machine, tick)
    assert tick.now == machine.wall
    assert findings(tick) == (8 * HOUR, 0, 0)
    assert findings(then(machine.run(SECOND), tick)) == (0, 0, 0)


def test_a_suspension_too_short_to_matter_is_not_told() -> None:
    machine = Machine()
    tick = first(machine)
    assert then(machine.sleep(SLEEP_TOLERANCE_NS), tick).slept_ns == 0
    assert then(machine.sleep(SLEEP_TOLERANCE_NS + 1), tick).slept_ns == SLEEP_TOLERANCE_NS + 1


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 8 * SECOND, -8 * SECOND])
def test_a_jump_is_told_and_ledger_time_goes_on_by_elapsed_time(jump: int) -> None:
    machine = Machine()
    tick = first(machine)
    machine = machine.run(5 * SECOND).set_wall(jump)
    tick = then(machine, tick)
    assert tick.now == START + 5 * SECOND
    assert findings(tick) == (0, jump, 0)
    # It goes on like this, and goes on telling, for as long as nobody accepts.
    machine = machine.run(HOUR)
    tick = then(machine, tick)
    assert tick.now == START + 5 * SECOND + HOUR
    assert findings(tick) == (0, jump, 0)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_wall_clock_that_is_put_right_again_is_believed_again(jump: int) -> None:
    machine = Machine()
    tick = then(machine.set_wall(jump), first(machine))
    machine = machine.run(7 * SECOND)
    tick = then(machine, tick)
    assert tick.now == machine.wall
    assert findings(tick) == (0, 0, 0)


def test_a_jump_while_suspended_tells_both() -> None:
    machine = Machine()
    tick = first(machine)
    tick = then(machine.sleep(HOUR).set_wall(2 * HOUR), tick)
    assert tick.now == START + HOUR
    assert findings(tick) == (HOUR, 2 * HOUR, 0)


def test_the_least_step_that_counts_as_a_jump() -> None:
    machine = Machine()
    tick = first(machine)
    assert then(machine.set_wall(JUMP_TOLERANCE_NS), tick).jump_ns == 0
    assert then(machine.set_wall(JUMP_TOLERANCE_NS + 1), tick).jump_ns == JUMP_TOLERANCE_NS + 1


def test_an_accepted_jump_forward_takes_the_wall_clock_at_its_word() -> None:
    machine = Machine().run(0)
    tick = then(machine.set_wall(HOUR), first(machine))
    machine = machine.set_wall(HOUR).run(SECOND)
    tick = then(machine, tick, accept=True)
    assert tick.now == machine.wall
    assert tick.adopted_ns == pytest.approx(HOUR, abs=10)
    assert (tick.jump_ns, tick.note.offset, tick.note.accept) == (0, 0, False)
    machine = machine.run(SECOND)
    tick = then(machine, tick)
    assert tick.now == machine.wall
    assert findings(tick) == (0, 0, 0)


def test_an_accepted_jump_backward_keeps_ledger_time_and_ends_the_finding() -> None:
    machine = Machine()
    tick = then(machine.set_wall(-HOUR), first(machine))
    machine = machine.set_wall(-HOUR).run(SECOND)
    tick = then(machine, tick, accept=True)
    # Time cannot run back, so the offset to the wall clock is what is accepted.
    assert tick.now == pytest.approx(START + SECOND, abs=10)
    assert tick.note.offset == tick.now - machine.wall
    assert findings(tick) == (0, 0, 0)
    machine = machine.run(HOUR)
    tick = then(machine, tick)
    assert tick.now == pytest.approx(START + SECOND + HOUR, abs=10)
    assert findings(tick) == (0, 0, 0)


def test_an_acceptance_is_used_up_by_one_reading() -> None:
    machine = Machine()
    tick = then(machine.run(SECOND), first(machine), accept=True)
    assert findings(tick) == (0, 0, 0)
    machine = machine.run(SECOND).set_wall(HOUR)
    assert then(machine, tick).jump_ns == HOUR


def test_after_a_reboot_the_wall_clock_is_believed() -> None:
    machine = Machine().run(HOUR)
    tick = first(machine)
    machine = machine.restart(off_ns=8 * HOUR)
    tick = then(machine, tick)
    assert tick.now == machine.wall
    assert findings(tick) == (0, 0, 0)
    assert tick.note.boot_id == machine.boot_id


def test_a_wall_clock_behind_the_log_after_a_reboot_is_a_jump() -> None:
    machine = Machine()
    tick = first(machine)
    machine = machine.restart(off_ns=-HOUR)
    tick = then(machine, tick)
    assert tick.now == START + 1
    assert tick.jump_ns == -(HOUR + 1)
    machine = machine.run(5 * SECOND)
    tick = then(machine, tick)
    assert tick.now == START + 1 + 5 * SECOND
    assert findings(tick) == (0, 0, 0)


def test_a_wall_clock_a_moment_behind_the_log_is_waited_for() -> None:
    machine = Machine()
    tick = tell(machine.reading, None, START + SECOND)
    assert tick.now == START + SECOND + 1
    assert findings(tick) == (0, 0, 0)
    machine = machine.run(5 * SECOND)
    assert then(machine, tick).now == machine.wall


# --- whatever happens ----------------------------------------------------------------------------

_SPAN = st.integers(0, 48 * HOUR)
_STEP = st.integers(-48 * HOUR, 48 * HOUR) | st.integers(-3 * SECOND, 3 * SECOND)
_LIVES = st.lists(
    st.tuples(st.just("run"), _SPAN)
    | st.tuples(st.just("sleep"), _SPAN)
    | st.tuples(st.just("set_wall"), _STEP)
    | st.tuples(st.just("restart"), _STEP)
    | st.tuples(st.just("accept"), st.just(0)),
    max_size=30,
)


def _tolerance(elapsed: int) -> int:
    return JUMP_TOLERANCE_NS + elapsed // DRIFT_TOLERANCE


@given(_LIVES, st.booleans())
def test_ledger_time_never_stands_still_nor_runs_back_nor_believes_a_jump(
    life: list[tuple[str, int]], recorded: bool
) -> None:
    """``recorded``: each instant went into the log, or none but the first did."""
    machine = Machine()
    tick = first(machine)
    last_recorded = tick.now
    accept = False
    for what, ns in life:
        if what == "accept":
            accept = True
            continue
        before, before_tick = machine, tick
        machine = getattr(machine, what)(ns)
        note = tick.note._replace(accept=accept)
        tick = tell(machine.reading, note, last_recorded)
        assert tick.now > last_recorded
        assert tick.note.ledger_time == tick.now
        assert tick.note.accept is False
        assert unpack(tick.note.pack()) == tick.note
        if machine.boot_id == before.boot_id:
            elapsed = machine.boot - before.boot
            passed = tick.now - before_tick.now - tick.adopted_ns
            assert tick.now >= before_tick.now
            assert passed <= elapsed + _tolerance(elapsed)
            if tick.jump_ns:
                assert abs(tick.jump_ns) > _tolerance(elapsed)
                assert passed in (elapsed, elapsed + 1)
                assert not accept
            slept = elapsed - (machine.monotonic - before.monotonic)
            assert tick.slept_ns == (slept if slept > SLEEP_TOLERANCE_NS else 0)
        assert tick.adopted_ns == 0 or accept
        assert tick.adopted_ns >= 0
        accept = False
        if recorded:
            last_recorded = tick.now


@given(_STEP)
def test_a_jump_that_was_accepted_is_not_told_again(step: int) -> None:
    machine = Machine()
    tick = first(machine)
    machine = machine.set_wall(step)
    tick = then(machine, tick)
    tick = then(machine.run(SECOND), tick, accept=True)
    tick = then(machine.run(2 * SECOND), tick)
    assert findings(tick) == (0, 0, 0)


@given(st.integers(0, NOTE_AGE_NS - 1), _SPAN, st.integers(-SECOND, SECOND))
def test_a_fresh_note_need_not_be_written_for_the_next_reading_to_come_out_the_same(
    moment: int, span: int, slewed: int
) -> None:
    machine = Machine()
    note = first(machine).note
    machine = machine.run(moment)
    tick = tell(machine.reading, note, START)
    assert is_fresh(note, tick)
    later = machine.run(span).set_wall(slewed).reading
    kept, written = tell(later, note, tick.now), tell(later, tick.note, tick.now)
    assert kept == written


@pytest.mark.parametrize(
    "machine",
    [
        Machine().run(NOTE_AGE_NS),
        Machine().set_wall(HOUR),
        Machine().set_wall(-HOUR),
        Machine().sleep(HOUR),
        Machine().restart(0),
    ],
)
def test_a_note_that_has_aged_or_a_finding_is_written(machine: Machine) -> None:
    note = first(Machine()).note
    assert not is_fresh(note, tell(machine.reading, note, START))


def test_no_note_and_an_acceptance_are_written() -> None:
    tick = first(Machine())
    assert not is_fresh(None, tick)
    accepting = tick.note._replace(accept=True)
    assert not is_fresh(accepting, tell(Machine().reading, accepting, START))


def test_the_machines_own_clocks_tell_a_time_that_goes_on() -> None:
    clock = machine_clock()
    one = tell(clock(), None, 0)
    two = tell(clock(), one.note, one.now)
    assert two.now > one.now
    assert findings(two) == (0, 0, 0)
    assert two.note.boot_id == one.note.boot_id != ""
