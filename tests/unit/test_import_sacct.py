"""Slurm's accounting as facts: layouts, steps, arrays, host lists, memory, odd times and states."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leasebook.importers.base import Found, Item, Options, Reject, WrongFormat, open_reader
from leasebook.importers.hostlist import BadHostlist, expand
from leasebook.importers.slurm_rows import exit_code, requested_memory, share, spread, tres
from leasebook.importers.units import SECOND, duration, moment, since_epoch, size
from ledger.commands import Fact
from ledger.errors import InvalidInput
from ledger.rules.facts import check_fact
from tests.real_inputs import real_inputs

GIB = 2**30
MIB = 2**20
COLUMNS = (
    "JobID|JobIDRaw|Cluster|Partition|Account|User|Submit|Start|End|Elapsed|ExitCode|State|NNodes"
    "|NCPUS|ReqCPUS|ReqMem|ReqTRES|AllocTRES|Timelimit|NodeList|NTasks|MaxRSS|TotalCPU|JobName"
)
PLAIN = {
    "JobID": "7",
    "JobIDRaw": "7",
    "Cluster": "far",
    "Partition": "main",
    "Account": "lab",
    "User": "ann",
    "Submit": "2020-01-01T00:00:00",
    "Start": "2020-01-01T00:01:00",
    "End": "2020-01-01T01:01:00",
    "Elapsed": "01:00:00",
    "ExitCode": "0:0",
    "State": "COMPLETED",
    "NNodes": "1",
    "NCPUS": "8",
    "ReqCPUS": "8",
    "ReqMem": "16G",
    "AllocTRES": "billing=8,cpu=8,mem=16G,node=1",
    "Timelimit": "02:00:00",
    "NodeList": "n1",
    "JobName": "train",
}
T0 = moment("2020-01-01T00:00:00")


def row(**changed: str) -> str:
    values = PLAIN | changed
    return "|".join(values.get(name, "") for name in COLUMNS.split("|"))


def items(tmp_path: Path, *lines: str, **options: Any) -> list[Item]:
    path = tmp_path / "jobs.log"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return list(open_reader("sacct", str(path), Options(**options)))


def facts(tmp_path: Path, *lines: str, **options: Any) -> list[Fact]:
    found = items(tmp_path, COLUMNS, *lines, **options)
    assert all(isinstance(one, Found) for one in found), found
    return [one.fact for one in found if isinstance(one, Found)]


def one(tmp_path: Path, **changed: str) -> Fact:
    (fact,) = facts(tmp_path, row(**changed))
    return fact


def id_of(fact: Fact) -> str:
    return fact.key.rpartition(":")[2].partition("@")[0]


# --- a job ---------------------------------------------------------------------------------------


def test_a_finished_job_says_who_had_what_where_and_when(tmp_path: Path) -> None:
    fact = one(tmp_path)
    assert fact.key == f"sacct:far:7@{T0 // SECOND}"
    assert (fact.holder, fact.tenant, fact.task) == ("ann", "lab", "train")
    assert fact.request.amounts == {"cpu": 8000, "memory": 16 * GIB}
    assert fact.request.ttl_ns == 7200 * SECOND
    assert [(p.node, p.amounts) for p in fact.placements] == [("n1", fact.request.amounts)]
    assert (fact.requested_at, fact.began_at) == (T0, T0 + 60 * SECOND)
    assert (fact.ended_at, fact.ended_by) == (T0 + 3660 * SECOND, "released")
    assert fact.metadata == {"state": "COMPLETED", "exit_code": "0:0", "partition": "main"}


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("FAILED", "released"),
        ("TIMEOUT", "expired"),
        ("CANCELLED by 123", "forced"),
        ("CANCELLED+", "forced"),
        ("PREEMPTED", "preempted"),
        ("NODE_FAIL", "crashed"),
        ("OUT_OF_MEMORY", "crashed"),
        ("SOMETHING_NEW", "released"),
    ],
)
def test_a_state_becomes_the_cause_of_the_end_and_is_kept(
    tmp_path: Path, state: str, cause: str
) -> None:
    fact = one(tmp_path, State=state)
    assert fact.ended_by == cause
    assert fact.metadata is not None and fact.metadata["state"] == state


def test_a_running_job_is_open_and_seen_until_what_has_elapsed(tmp_path: Path) -> None:
    fact = one(tmp_path, State="RUNNING", End="Unknown", Elapsed="1-00:00:30")
    assert fact.ended_at is None
    assert fact.seen_until == T0 + (60 + 86_430) * SECOND


def test_a_pending_job_waits_and_holds_nothing(tmp_path: Path) -> None:
    fact = one(tmp_path, State="PENDING", Start="Unknown", End="Unknown", NodeList="None assigned")
    assert (fact.requested_at, fact.began_at, fact.ended_at) == (T0, None, None)
    assert fact.placements == ()


def test_a_job_without_nodes_never_began(tmp_path: Path) -> None:
    fact = one(tmp_path, State="CANCELLED by 1", NodeList="None assigned")
    assert (fact.began_at, fact.ended_at, fact.ended_by) == (None, T0 + 3660 * SECOND, "withdrawn")


@pytest.mark.parametrize("limit", ["UNLIMITED", "Partition_Limit", ""])
def test_no_time_limit_is_none(tmp_path: Path, limit: str) -> None:
    assert one(tmp_path, Timelimit=limit).request.ttl_ns is None


def test_amounts_spread_over_the_nodes_add_up(tmp_path: Path) -> None:
    fact = one(
        tmp_path,
        NCPUS="10",
        ReqCPUS="10",
        NNodes="3",
        NodeList="n[01-02,7]",
        AllocTRES="cpu=10,mem=10G,gres/gpu:a100=4,gres/gpu=4,node=3",
    )
    assert [p.node for p in fact.placements] == ["n01", "n02", "n7"]
    assert [p.amounts["cpu"] for p in fact.placements] == [4000, 3000, 3000]
    assert [p.amounts["gpu"] for p in fact.placements] == [2000, 1000, 1000]
    assert sum(p.amounts["memory"] for p in fact.placements) == 10 * GIB


def test_a_typed_gpu_counts_once() -> None:
    assert tres("gres/gpu:a100=2,gres/gpu=2")["gpu"] == 2000
    assert tres("gres/gpu:a100=2,gres/gpu:t4=1")["gpu"] == 3000


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("16G", 16 * GIB),
        ("4Gc", 32 * GIB),
        ("8000Mn", 16_000 * MIB),
        ("2147486648Mn", 8 * 3000 * MIB),
        (f"{2**63 + 500}M", 8 * 500 * MIB),
        ("2252800K", 2200 * MIB),
        ("0", 0),
        ("", 0),
    ],
)
def test_requested_memory_is_per_node_per_cpu_or_whole(text: str, bytes_: int) -> None:
    assert requested_memory(text, cpus=8, nodes=2) == bytes_


# --- steps, arrays, parts ------------------------------------------------------------------------


def test_steps_become_the_usage_of_their_job(tmp_path: Path) -> None:
    found = facts(
        tmp_path,
        row(TotalCPU="06:00:00.500"),
        row(JobID="7.batch", JobIDRaw="7.batch", User="", MaxRSS="1G", NTasks="1"),
        row(JobID="7.0", JobIDRaw="7.0", User="", MaxRSS="512M", NTasks="4"),
        row(JobID="7.extern", JobIDRaw="7.extern", User="", MaxRSS="", NTasks="1"),
        row(JobID="8", JobIDRaw="8"),
    )
    assert [id_of(fact) for fact in found] == ["7", "7", "8"]
    used, peak = found[0].usage, found[1].usage
    assert used is not None and peak is not None
    assert (used.used, used.peak) == ({"cpu": 21_600_500}, {})
    assert (peak.used, peak.peak) == ({}, {"memory": 2 * GIB})
    for usage in (used, peak):
        assert (usage.since, usage.until, usage.final) == (
            found[0].began_at,
            found[0].ended_at,
            True,
        )
    assert found[2].usage is None


def test_array_and_het_jobs_go_by_the_ids_they_are_shown_with(tmp_path: Path) -> None:
    found = facts(
        tmp_path,
        row(JobID="20_4", JobIDRaw="24"),
        row(JobID="30+0", JobIDRaw="30"),
        row(JobID="30+1", JobIDRaw="31"),
    )
    assert [id_of(fact) for fact in found] == ["20_4", "30+0", "30+1"]
    assert found[0].metadata is not None and found[0].metadata["job_id_raw"] == "24"


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", ["|", "\t", ";", "^|^"])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    lines = [line.replace("|", delimiter) for line in (COLUMNS, row())]
    (found,) = items(tmp_path, *lines)
    assert isinstance(found, Found) and found.fact.holder == "ann"


def test_columns_name_a_file_without_a_header_and_sacct_p_ends_rows_with_a_delimiter(
    tmp_path: Path,
) -> None:
    columns = tuple(COLUMNS.split("|"))
    (found,) = items(tmp_path, row() + "|", columns=columns)
    assert isinstance(found, Found) and found.line == 1 and found.fact.task == "train"


def test_a_job_name_may_hold_the_delimiter(tmp_path: Path) -> None:
    assert one(tmp_path, JobName="a|b").task == "a|b"


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "jobs.gz"
    path.write_bytes(gzip.compress(f"{COLUMNS}\n{row()}\n".encode()))
    assert len(list(open_reader("sacct", str(path), Options()))) == 1


def test_broken_rows_are_rejected_with_line_and_reason_and_the_others_taken(tmp_path: Path) -> None:
    found = items(
        tmp_path,
        COLUMNS,
        row(),
        "half a row|of",
        row(JobID="8", Start="yesterday"),
        row(JobID="9", NodeList="n[1-"),
        row(JobID="10", NCPUS="many"),
        row(JobID="11", TotalCPU="long"),
        row(JobID="12"),
    )
    rejects = [one for one in found if isinstance(one, Reject)]
    assert [one.line for one in rejects] == [3, 4, 5, 6, 7]
    assert [id_of(one.fact) for one in found if isinstance(one, Found)] == ["7", "12"]
    assert "expected" in rejects[0].reason and "yesterday" in rejects[1].reason
    assert rejects[0].text == "half a row|of"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b,c\n1,2,3\n",
        '{"hypervisors": []}\n',
        "; SWF\n1 2 3\n",
        "\x00\x01\n",
        "JobID|X\n1|2\n",
    ],
)
def test_another_format_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(WrongFormat) as told:
        list(open_reader("sacct", str(path), Options()))
    assert "sacct" in told.value.hint or "lack" in told.value.message


def test_pools_go_by_cluster_partition_or_account(tmp_path: Path) -> None:
    def pools(**options: Any) -> Sequence[str]:
        found = items(tmp_path, COLUMNS, row(), **options)
        return [one.pool for one in found if isinstance(one, Found)]

    assert pools() == ["far"]
    assert pools(pool_by="partition") == ["main"]
    assert pools(pool_by="account") == ["lab"]
    assert pools(pool="mine", pool_by="account") == ["mine"]


def test_times_are_utc_unless_a_zone_is_named(tmp_path: Path) -> None:
    (fact,) = facts(tmp_path, row(), zone=ZoneInfo("Europe/Berlin"))
    assert fact.requested_at == T0 - 3600 * SECOND
    (fact,) = facts(tmp_path, row(Submit="2020-01-01T02:00:00+02:00"))
    assert fact.requested_at == T0


ODD = st.one_of(
    st.text(st.characters(exclude_characters="|\r\n", codec="utf-8"), max_size=12),
    st.sampled_from(
        ["n[1-", "[" * 500, "1e999999", "9" * 5000, "-1", "NaN", "0000-00-00T00:00:00", "²", "\0"]
    ),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.sampled_from(COLUMNS.split("|")), ODD, max_size=6))
def test_whatever_stands_in_a_row_it_is_found_or_rejected(
    tmp_path: Path, changed: dict[str, str]
) -> None:
    kinds = (Found, Reject)
    path = tmp_path / "odd.log"
    path.write_text("\n".join((COLUMNS, row(), row(**changed))) + "\n", "utf-8", newline="\n")
    found = list(open_reader("sacct", str(path), Options()))
    assert found and all(isinstance(one, kinds) for one in found)
    for one in found:
        if isinstance(one, Found):
            try:
                check_fact(one.fact)
            except InvalidInput as error:
                assert error.message


# --- host lists, times, sizes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1 n2"),
        ("n[01-03,7]", "n01 n02 n03 n7"),
        ("n[9-11]", "n9 n10 n11"),
        ("r[1-2]n[1-2]", "r1n1 r1n2 r2n1 r2n2"),
        ("cpn-[03-04]-x,gpu[1]", "cpn-03-x cpn-04-x gpu1"),
        ("n[1,[3-4]]", "n1 n3 n4"),
        ("n1,n1", "n1"),
        ("", ""),
    ],
)
def test_a_host_list_is_expanded(text: str, names: str) -> None:
    assert expand(text) == tuple(names.split())


@pytest.mark.parametrize(
    "text",
    ["n[1-", "n]1[", "n[3-1]", "n[a-b]", "n[1-99999999]", "a[1-999]b[1-999]", "[" * 50 + "]" * 50],
)
def test_a_bad_host_list_is_refused(text: str) -> None:
    with pytest.raises(BadHostlist):
        expand(text)


def test_shares_are_even_and_add_up() -> None:
    assert share(10_000, 3, 1000) == [4000, 3000, 3000]
    assert share(10_001, 3, 1000) == [3334, 3334, 3333]
    assert [p.amounts for p in spread({"gpu": 1000}, ("a", "b"))] == [{"gpu": 1000}, {}]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("01:02:03", 3723), ("5-00:00:01", 432_001), ("02:03.5", 123.5), ("1-12", 129_600), ("7", 7)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == int(seconds * SECOND)


def test_times_by_number_and_text_agree() -> None:
    assert since_epoch("1577836800") == since_epoch("1577836800000") == T0
    assert moment("2020-01-01 00:00:00") == moment("2020-01-01T01:00:00+01:00") == T0
    assert moment("1577836800.5") == T0 + SECOND // 2
    assert size("62.50G") == 62 * GIB + GIB // 2
    for bad in ("2020-13-01T00:00:00", "soon", "1e400", "2020-01-01T25:00:00"):
        with pytest.raises(ValueError, match="not a"):
            moment(bad)


# --- real inputs ---------------------------------------------------------------------------------


def test_the_real_log_is_understood_whole() -> None:
    path = real_inputs("slurm_phillips") / "phillips.log"
    found = list(open_reader("sacct", str(path), Options()))
    assert len(found) == 4285 and all(isinstance(one, Found) for one in found)
    never = [f for f in found if isinstance(f, Found) and f.fact.began_at is None]
    assert len(never) == 239
    leaked = next(f.fact for f in found if isinstance(f, Found) and id_of(f.fact) == "167758")
    assert leaked.request.amounts == {"cpu": 8000, "memory": 24_000 * MIB}


def test_the_real_samples_with_steps_are_understood() -> None:
    for name in ("slurm2sql_test_data1.csv", "slurm2sql_test_data2.csv"):
        path = real_inputs("sacct") / name
        found = list(open_reader("sacct", str(path), Options()))
        assert found and all(isinstance(one, Found) for one in found)
    opened = [f.fact for f in found if isinstance(f, Found) and f.fact.ended_at is None]
    assert opened and all(fact.seen_until is not None for fact in opened)


def test_raw_texts_without_times_are_refused_and_never_crash(tmp_path: Path) -> None:
    cases = (real_inputs("sacct") / "reportseff_cli_cases.jsonl").read_text().splitlines()
    for case in map(json.loads, cases):
        path = tmp_path / "raw"
        path.write_text(case["sacct_stdout"])
        options = Options(columns=tuple(case["sacct_columns"]), delimiter="^|^")
        with pytest.raises(WrongFormat):
            list(open_reader("sacct", str(path), options))


@pytest.mark.parametrize("text", ["9" * 30 + ":0", "0:" + "9" * 30, "²:0", "9" * 5000 + ":0"])
def test_an_exit_code_that_is_none_is_left_out(text: str) -> None:
    assert exit_code(text) is None


def test_kilobytes_are_no_leaked_flag() -> None:
    assert requested_memory("4294967296K", 8, 1) == 4 * 2**40
    assert requested_memory(f"{2**31 + 100}Mn", 8, 1) == 800 * MIB


@pytest.mark.parametrize("text", ["9" * 4400 + "-00:00:00", "²-00:00:00", "٣:00:00"])
def test_a_duration_that_is_none_is_told_in_our_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)
