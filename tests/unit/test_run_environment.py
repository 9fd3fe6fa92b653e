"""The variables of a run: what tools are told, what the user set, and runs inside runs."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasebook.run.environment import (
    CPU_VARIABLES,
    SIZED,
    cores,
    has_jobs,
    sized_environment,
    with_jobs,
)
from ledger.requests import Placement

GIB = 1 << 30


def sized(
    environ: dict[str, str],
    amounts: dict[str, int],
    placements: tuple[Placement, ...] = (),
    **more: bool,
) -> dict[str, str]:
    return sized_environment(environ, amounts, placements, allocation="A7", ledger="/l.db", **more)


def test_every_tool_is_told_whole_processors() -> None:
    env = sized({}, {"cpu": 2500})
    assert {env[name] for name in CPU_VARIABLES} == {"2"}
    assert env["MAKEFLAGS"] == "-j2"
    assert sized({}, {"cpu": 300})["GOMAXPROCS"] == "1", "never 0, which means all"
    for name in ("CARGO_BUILD_JOBS", "PYTEST_XDIST_AUTO_NUM_WORKERS", "OMP_NUM_THREADS"):
        assert name in CPU_VARIABLES


def test_memory_is_told_with_room_for_what_runtimes_do_not_count() -> None:
    env = sized({}, {"memory": GIB})
    assert env["GOMEMLIMIT"] == "921MiB"
    assert env["NODE_OPTIONS"] == "--max-old-space-size=768"


def test_what_was_not_granted_is_not_told() -> None:
    env = sized({}, {"port": 1})
    assert set(env) == {"LEASEBOOK_ALLOCATION", "LEASEBOOK_LEDGER"}
    assert cores({"memory": GIB}) is None


def test_what_the_user_set_is_never_overridden() -> None:
    mine = {
        "OMP_NUM_THREADS": "7",
        "GOMEMLIMIT": "off",
        "CUDA_VISIBLE_DEVICES": "",
        "PORT": "80",
        "MAKEFLAGS": "-j9 --silent",
        "NODE_OPTIONS": "--max_old_space_size=99",
    }
    placements = (
        Placement("3100", {"port": 1}, {}),
        Placement("n", {"gpu": 1000}, {}, {"gpu": {"2": 1000}}),
    )
    env = sized(mine, {"cpu": 2000, "memory": GIB, "gpu": 1000, "port": 1}, placements)
    assert {name: env[name] for name in mine} == mine


def test_flags_of_make_and_node_are_extended() -> None:
    env = sized({"MAKEFLAGS": "k", "NODE_OPTIONS": "--inspect"}, {"cpu": 3000, "memory": GIB})
    assert env["MAKEFLAGS"] == "k -j3"
    assert env["NODE_OPTIONS"] == "--inspect --max-old-space-size=768"


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        ("", False),
        ("k", False),
        ("-k --silent", False),
        ("CFLAGS=-j", False),
        ("--directory=/j", False),
        ("-j", True),
        ("-j8", True),
        ("-kj8", True),
        ("kj", True),
        ("--jobs=4", True),
        (" -j8 --jobserver-auth=3,4", True),
        ("k -- J=-j8", False),
    ],
)
def test_make_is_asked_whether_it_knows_its_jobs(flags: str, there: bool) -> None:
    assert has_jobs(flags) is there


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("flags", ["", "k", "-k", "s -- NAME=ada", "-- NAME=ada", "NAME=ada"])
def test_make_itself_understands_the_flags(flags: str) -> None:
    rule = "all:\n\t@echo jobs=$(filter -j%,$(MAKEFLAGS)) name=$(NAME)\n"
    done = subprocess.run(
        ["make", "-f", "-"],
        input=rule,
        env={"PATH": "/usr/bin:/bin", "MAKEFLAGS": with_jobs(flags, 3)},
        capture_output=True,
        text=True,
    )
    name = "ada" if "ada" in flags else ""
    assert done.stdout.strip() == f"jobs=-j3 name={name}", done.stderr


def test_cards_are_shown_as_they_were_granted_in_the_ledgers_order() -> None:
    placements = (Placement("n", {"gpu": 2000}, {}, {"gpu": {"10": 1000, "2": 1000}}),)
    env = sized({}, {"gpu": 2000}, placements)
    assert env["CUDA_VISIBLE_DEVICES"] == "2,10"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert sized({}, {"cpu": 1000}, cards_hidden=True)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in sized({}, {"cpu": 1000})


def test_a_port_is_told_only_where_the_node_is_one() -> None:
    assert sized({}, {"port": 1}, (Placement("3100", {"port": 1}, {}),))["PORT"] == "3100"
    assert "PORT" not in sized({}, {"port": 1}, (Placement("box", {"port": 1}, {}),))
    assert "PORT" not in sized({}, {"cpu": 1}, (Placement("3100", {"cpu": 1}, {}),))


def test_no_token_reaches_the_command() -> None:
    env = sized({"LEASEBOOK_TOKEN": "9", "LEASEBOOK_FENCING_TOKEN": "9"}, {"cpu": 1000})
    assert not [name for name in env if "TOKEN" in name]


def test_a_run_inside_a_run_is_told_its_own_smaller_size() -> None:
    outer = sized({"OMP_NUM_THREADS": "7", "MAKEFLAGS": "k"}, {"cpu": 8000, "memory": GIB})
    inner = sized(outer, {"cpu": 2000})
    assert inner["CARGO_BUILD_JOBS"] == "2"
    assert inner["OMP_NUM_THREADS"] == "7"
    assert inner["MAKEFLAGS"] == "k -j2"
    assert "NODE_OPTIONS" not in inner, "it was the outer run's, and was not granted to this one"
    assert "GOMEMLIMIT" not in inner


def test_what_the_user_changed_between_two_runs_stands() -> None:
    outer = sized({}, {"cpu": 8000})
    inner = sized({**outer, "GOMAXPROCS": "5", "MAKEFLAGS": "-j1"}, {"cpu": 2000})
    assert (inner["GOMAXPROCS"], inner["MAKEFLAGS"]) == ("5", "-j1")
    assert inner["CARGO_BUILD_JOBS"] == "2"


@pytest.mark.parametrize("odd", ["{", "[]", "17", '{"PATH": 1}', '{"PATH": ["a", "b", "c"]}', ""])
def test_a_spoilt_memory_of_sizes_changes_nothing(odd: str) -> None:
    env = sized({SIZED: odd, "PATH": "/bin"}, {"cpu": 1000})
    assert env["PATH"] == "/bin"
    assert env["GOMAXPROCS"] == "1"


def test_without_an_allocation_an_outer_one_is_not_passed_on() -> None:
    outer = sized({"HOME": "/h"}, {"cpu": 4000})
    env = sized_environment(outer, {}, (), allocation=None, ledger=None)
    assert env == {"HOME": "/h", "LEASEBOOK_LEDGER": "/l.db"}


NAMES = st.sampled_from([*CPU_VARIABLES[:4], "MAKEFLAGS", "NODE_OPTIONS", "HOME", "GOMEMLIMIT"])


@given(
    st.dictionaries(NAMES, st.text("abj-= 19", max_size=8), max_size=6),
    st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
)
def test_however_deep_runs_nest_the_innermost_is_told_what_a_first_one_would_be(
    environ: dict[str, str], sizes: list[int]
) -> None:
    env = dict(environ)
    for cpu in sizes:
        env = sized(env, {"cpu": cpu, "memory": cpu << 20})
    direct = sized(environ, {"cpu": sizes[-1], "memory": sizes[-1] << 20})
    assert {k: v for k, v in env.items() if k != SIZED} == {
        k: v for k, v in direct.items() if k != SIZED
    }
    assert json.loads(env[SIZED]) == json.loads(direct[SIZED])
