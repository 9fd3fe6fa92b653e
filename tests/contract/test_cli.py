"""The command line's side of the contract: documents, exit codes, errors, and what every verb takes."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from leasebook.cli import reference
from leasebook.cli.app import VERBS, program
from leasebook.cli.session import Session
from tests.command_line import ROOT, CommandLine

ALLOCATION_KEYS = {
    "id",
    "fencing_token",
    "state",
    "pool",
    "tenant",
    "holder",
    "task",
    "priority",
    "strategy",
    "amounts",
    "base_units",
    "placements",
    "requested_at",
    "granted_at",
    "expires_at",
    "ended_at",
    "ended_by",
    "enforced",
    "replayed",
    "parent",
    "metadata",
}


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box`` of 4 cores; A3 holds 2, A4 is released."""
    lb.ok("pool", "open", "box", "cpu=4", "memory=8GiB")
    lb.ok("allocate", "box", "cpu=2", "--task", "work", "--id", "first")
    lb.ok("allocate", "box", "cpu=1", "--id", "second")
    lb.ok("release", "A4")
    return lb


def verbs() -> list[tuple[str, click.Command]]:
    root = program()
    ctx = click.Context(root, info_name="leasebook", obj=Session())
    return [(inner.command_path, verb) for verb, inner in reference.leaves(root, ctx)]


# --- documents -----------------------------------------------------------------------------------


def test_granted_request_answers_with_the_contracts_result(lb: CommandLine) -> None:
    answer = lb("allocate", "box", "cpu=1", "memory=1GiB", "--meta", "run=7", "--json")
    assert answer.code == 0
    assert answer.err == ""
    result = answer.json
    assert result["outcome"] == "granted"
    assert result["positions"] == [6]
    a = result["allocation"]
    assert set(a) >= ALLOCATION_KEYS
    assert (a["id"], a["fencing_token"], a["state"], a["holder"]) == ("A6", 6, "active", "me")
    assert a["amounts"] == {"cpu": "1", "memory": "1Gi"}
    assert a["base_units"] == {"cpu": 1000, "memory": 1 << 30}
    assert a["placements"] == [{"node": "box", "amounts": {"cpu": "1", "memory": "1Gi"}}]
    assert a["metadata"] == {"run": "7"}


def test_refused_request_answers_with_its_whole_result_and_exit_code_3(lb: CommandLine) -> None:
    answer = lb("allocate", "box", "cpu=3", "--holder", "other", "--json")
    assert answer.code == 3
    result = answer.json
    assert result["outcome"] == "refused"
    assert result["reason"] == "insufficient_capacity"
    assert result["id"] == "R6"
    assert result["shortfall"] == {"box": {"cpu": "1"}}
    assert result["fits_now"] == {"cpu": "2"}
    (blocker,) = result["blockers"]
    assert (blocker["allocation"], blocker["holder"], blocker["task"]) == ("A3", "me", "work")
    assert blocker["amounts"] == {"cpu": "2"}
    assert blocker["expires_at"].endswith("Z")
    assert result["message"] and result["hint"]


def test_refusal_in_words_is_one_line_with_what_is_short_and_who_is_in_the_way(
    lb: CommandLine,
) -> None:
    answer = lb("allocate", "box", "cpu=3", "--holder", "other")
    assert (answer.code, answer.out) == (3, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("leasebook: refused (insufficient_capacity) [R6]: ")
    for part in (
        "short by cpu=1 on box",
        "me (A3 for work) holds cpu=2 until",
        "cpu=2 fits now",
        "--wait",
    ):
        assert part in line


def test_enqueued_request_answers_waiting_with_exit_code_7(lb: CommandLine) -> None:
    answer = lb("allocate", "box", "cpu=4", "--enqueue", "--json")
    assert answer.code == 7
    result = answer.json
    assert result["outcome"] == "waiting"
    assert result["allocation"]["state"] == "waiting"
    assert result["allocation"]["fencing_token"] is None
    assert result["ahead"] == 0
    assert {"eta_s", "eta_basis", "shortfall", "blockers"} <= set(result)
    assert result["shortfall"] == {"box": {"cpu": "2"}}


def test_error_with_json_is_one_document_of_reason_message_and_hint(lb: CommandLine) -> None:
    answer = lb("release", "A99", "--json")
    assert answer.code == 4
    assert answer.err == ""
    assert set(answer.json) == {"error"}
    assert set(answer.json["error"]) == {"reason", "message", "hint"}
    assert answer.json["error"]["reason"] == "no_such_allocation"


ONE_DOCUMENT: list[tuple[str, ...]] = [
    ("pool", "list"),
    ("pool", "show", "box"),
    ("pool", "open", "other", "cpu=1"),
    ("pool", "resize", "box", "cpu=8"),
    ("pool", "cordon", "box"),
    ("pool", "uncordon", "box"),
    ("pool", "close", "box"),
    ("pool", "frobnicate"),
    ("pool",),
    ("quota", "set", "cpu=3"),
    ("quota", "list"),
    ("policy", "set", "box", "strategy=best_fit"),
    ("policy", "show", "box"),
    ("allocate", "box", "cpu=1"),
    ("allocate", "box", "cpu=100"),
    ("allocate", "box", "cpu=-1"),
    ("allocate", "nowhere", "cpu=1"),
    ("allocate", "box"),
    ("wait", "A3"),
    ("withdraw", "A3"),
    ("confirm", "A3"),
    ("adjust", "A3", "cpu=1"),
    ("renew", "A3"),
    ("renew", "--holder", "me"),
    ("release", "A3"),
    ("transfer", "A3", "--to", "you"),
    ("reclaim", "A3", "--force", "--reason", "needed"),
    ("list",),
    ("show", "A3"),
    ("why", "A3"),
    ("why", "--last"),
    ("who", "--gpu", "0"),
    ("task", "start", "t"),
    ("task", "finish", "work"),
    ("events",),
    ("events", "--limit", "0"),
    ("events", "--since", "1h-ago", "--until", "#3"),
    ("verify",),
    ("checkpoint",),
    ("redact", "1", "--reason", "r"),
    ("upgrade",),
    ("doctor",),
    ("sweep",),
    ("sweep", "--dry-run", "expire"),
    ("--ledger", "/nowhere/at/all", "list"),
    ("frobnicate",),
]


@pytest.mark.parametrize("arguments", ONE_DOCUMENT, ids=" ".join)
def test_json_output_is_one_document_on_one_line(
    lb: CommandLine, arguments: tuple[str, ...]
) -> None:
    answer = lb("--json", *arguments)
    assert len(answer.out.splitlines()) == 1
    assert isinstance(answer.json, dict)
    if answer.code in (1, 2, 4, 5):
        refused = answer.json.get("error", answer.json)
        assert {"reason", "message", "hint"} <= set(refused)


# --- exit codes ----------------------------------------------------------------------------------

EXIT_CODES: list[tuple[int, str, tuple[str, ...]]] = [
    (0, "", ("allocate", "box", "cpu=2")),
    (0, "", ("allocate", "box", "cpu=2", "--task", "work", "--id", "first")),
    (3, "insufficient_capacity", ("allocate", "box", "cpu=4")),
    (3, "exceeds_pool", ("allocate", "box", "cpu=5")),
    (3, "exceeds_pool", ("allocate", "box", "gpu=1")),
    (3, "not_holder", ("release", "A3", "--holder", "you")),
    (4, "no_such_pool", ("allocate", "nowhere", "cpu=1")),
    (4, "no_such_pool", ("pool", "show", "nowhere")),
    (4, "no_such_pool", ("pool", "close", "nowhere")),
    (4, "no_such_pool", ("policy", "show", "nowhere")),
    (4, "no_such_allocation", ("release", "A99")),
    (4, "no_such_allocation", ("show", "A99")),
    (4, "no_such_allocation", ("why", "R99")),
    (4, "no_such_allocation", ("wait", "A99")),
    (4, "no_such_allocation", ("renew", "--holder", "nobody")),
    (4, "no_such_allocation", ("who", "--gpu", "0")),
    (5, "already_ended", ("release", "A4")),
    (5, "already_ended", ("renew", "A4")),
    (5, "already_ended", ("wait", "A4")),
    (5, "already_ended", ("allocate", "box", "cpu=1", "--id", "second")),
    (5, "command_id_reused", ("allocate", "box", "cpu=1", "--id", "first")),
    (5, "stale_token", ("release", "A3", "--token", "2")),
    (5, "already_exists", ("pool", "open", "box", "cpu=1")),
    (2, "invalid", ("allocate", "box", "cpu=0")),
    (2, "invalid", ("allocate", "box", "cpu=1", "--no-such-option")),
    (2, "invalid", ("reclaim", "A3", "--reason", "because")),
    (7, "", ("allocate", "box", "cpu=4", "--enqueue")),
]


@pytest.mark.parametrize(
    ("code", "reason", "arguments"), EXIT_CODES, ids=lambda value: str(value)[:60]
)
def test_exit_code_and_reason_are_those_of_the_contract(
    lb: CommandLine, code: int, reason: str, arguments: tuple[str, ...]
) -> None:
    answer = lb(*arguments, "--json")
    assert answer.code == code
    if reason:
        document: dict[str, Any] = answer.json
        refused = document.get("error", document)
        ended = document.get("allocation", {}).get("ended_by")
        assert refused.get("reason") == reason or (reason == "already_ended" and ended)


@pytest.mark.parametrize(
    ("code", "reason", "arguments"), EXIT_CODES, ids=lambda value: str(value)[:60]
)
def test_failure_in_words_is_one_line_on_stderr_and_nothing_on_stdout(
    lb: CommandLine, code: int, reason: str, arguments: tuple[str, ...]
) -> None:
    answer = lb(*arguments)
    assert answer.code == code
    if code in (0, 7):
        assert answer.err == ""
        assert answer.out.strip()
        return
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    assert line.startswith("leasebook: ")
    assert "; " in line


# --- bad input and faults ------------------------------------------------------------------------

BAD_INPUT: list[tuple[str, ...]] = [
    ("allocate", "box", "cpu=-1"),
    ("allocate", "box", "cpu=0"),
    ("allocate", "box", "cpu=nan"),
    ("allocate", "box", "cpu=inf"),
    ("allocate", "box", "cpu=1e999999999"),
    ("allocate", "box", "cpu=0.0001"),
    ("allocate", "box", "memory=0.5"),
    ("allocate", "box", "cpu=99999999999999999999999999"),
    ("allocate", "box", "memory=1QiB"),
    ("allocate", "box", "cpu="),
    ("allocate", "box", "=1"),
    ("allocate", "box", "cpu"),
    ("allocate", "box", "cpu=1", "cpu=2"),
    ("allocate", "box", "CPU=1"),
    ("allocate", "box", "gpu=1.5"),
    ("allocate", "box", "cpu=" + "1" * 100_000),
    ("allocate", "box", *(f"r{n}=1" for n in range(40))),
    ("allocate", "", "cpu=1"),
    ("allocate", "x" * 100_000, "cpu=1"),
    ("allocate", "a\nb", "cpu=1"),
    ("allocate", "\udcff", "cpu=1"),
    ("allocate", "box", "cpu=1", "--holder", "x" * 201),
    ("allocate", "box", "cpu=1", "--holder", "\x1b[31mred"),
    ("allocate", "box", "cpu=1", "--task", " "),
    ("allocate", "box", "cpu=1", "--tenant", "\udcff"),
    ("allocate", "box", "cpu=1", "--id", ""),
    ("allocate", "box", "cpu=1", "--id", "x" * 10_000),
    ("allocate", "box", "cpu=1", "--ttl", "0"),
    ("allocate", "box", "cpu=1", "--ttl", "-5s"),
    ("allocate", "box", "cpu=1", "--ttl", "soon"),
    ("allocate", "box", "cpu=1", "--ttl", "99999d"),
    ("allocate", "box", "cpu=1", "--wait", "later"),
    ("allocate", "box", "cpu=1", "--pid", "0"),
    ("allocate", "box", "cpu=1", "--pid", "-1"),
    ("allocate", "box", "cpu=1", "--pid", "999999999999999999999"),
    ("allocate", "box", "cpu=1", "--pid", "me"),
    ("allocate", "box", "cpu=1", "--pid", "1", "--ttl", "60s"),
    ("allocate", "box", "cpu=1", "--priority", "urgent"),
    ("allocate", "box", "cpu=1", "--strategy", "no_fit"),
    ("allocate", "box", "cpu=1", "--select", "model"),
    ("allocate", "box", "cpu=1", "--select", "=x"),
    ("allocate", "box", "cpu=1", "--select", "a=1", "--select", "a=2"),
    ("allocate", "box", "cpu=1", "--meta", "k=" + "v" * 20_000),
    ("allocate", "box", "cpu=1", "--print", "token"),
    ("adjust", "A3", "cpu=-1"),
    ("release", "x" * 100_000),
    ("release", ""),
    ("release", "A3", "--token", "soon"),
    ("renew",),
    ("renew", "--holder", "me", "--token", "3"),
    ("transfer", "A3", "--to", ""),
    ("reclaim", "A3", "--force", "--reason", " "),
    ("pool", "open", "p"),
    ("pool", "open", "p", "cpu=-1"),
    ("pool", "open", "p", "gpu=500m"),
    ("pool", "open", "p", "cpu=1", "--node", "n:cpu=1"),
    ("pool", "open", "p", "--node", "n"),
    ("pool", "open", "p", "--node", ":cpu=1"),
    ("pool", "open", "p", "--node", "n:"),
    ("pool", "open", "p", "--node", "n:cpu=1", "--node", "n:cpu=1"),
    ("pool", "open", "p", "--node", "9..1:port=1"),
    ("pool", "open", "p", "--node", "1..999999999999:port=1"),
    ("pool", "open", "p", "--nodes", "/nowhere.csv"),
    ("pool", "open", "p", "--nodes", "/"),
    ("pool", "open", "p", "--nodes", "\0"),
    ("pool", "open", "p", "cpu=1", "--policy", "colour=red"),
    ("pool", "open", "p", "cpu=1", "--policy", "queue_limit=-1"),
    ("pool", "open", "p", "tokens=1k", "--consumable", "--every", "never"),
    ("pool", "open", "p", "tokens=1k", "--consumable", "--every", "1h", "--refill", "twice"),
    ("pool", "open", "p", "cpu=1", "--every", "1h"),
    ("pool", "open", "p", "cpu=1", "--refill", "reset"),
    ("pool", "resize", "box"),
    ("pool", "resize", "box", "--node", "elsewhere:cpu=1"),
    ("policy", "set", "box", "max_age=never"),
    ("quota", "set"),
    ("quota", "set", "cpu=1", "--lift"),
    ("why",),
    ("why", "A3", "--last"),
    ("why", "Q3"),
    ("why", "R" + "9" * 1000),
    ("who",),
    ("who", "--pid", "1", "--gpu", "0"),
    ("who", "--port", "70000"),
    ("events", "--after", "-1"),
    ("events", "--after", "9" * 30),
    ("events", "--since", "yesterday-ish"),
    ("events", "--since", "9" * 5000),
    ("events", "--limit", "-1"),
    ("events", "--follow", "--until", "now"),
    ("verify", "--checkpoint", "/nowhere"),
    ("verify", "--key", "k"),
    ("redact", "3", "--reason", " "),
    ("redact", "first", "--reason", "r"),
    ("sweep", "chimney"),
    ("--ledger", "", "list"),
    ("--ledger", "postgresql://host/db", "list"),
    ("--ledger", "http://host", "list"),
    ("--ledger", "/", "list"),
    ("--ledger", "/dev/null", "list"),
    ("--ledger", __file__, "list"),
    ("frobnicate",),
    ("--frobnicate",),
]


def _named(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments)[:60].encode("ascii", "replace").decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("pool", "cordon", "elsewhere"),
        ("redact", "0", "--reason", "r"),
        ("redact", "99", "--reason", "r"),
    ],
    ids=_named,
)
def test_what_is_not_there_gives_one_line_and_exit_code_4_and_records_nothing(
    lb: CommandLine, arguments: tuple[str, ...]
) -> None:
    before = lb.ok("events")["position"]
    answer = lb(*arguments)
    assert (answer.code, answer.out) == (4, ""), answer
    (line,) = answer.err.splitlines()
    assert line.startswith("leasebook: ")
    assert lb.ok("events")["position"] == before


@pytest.mark.parametrize("arguments", BAD_INPUT, ids=_named)
def test_bad_input_gives_one_line_and_exit_code_2_and_records_nothing(
    lb: CommandLine, arguments: tuple[str, ...]
) -> None:
    before = lb.ok("events")["position"]
    answer = lb(*arguments)
    assert (answer.code, answer.out) in ((2, ""), (1, "")), answer
    (line,) = answer.err.splitlines()
    assert line.startswith("leasebook: ")
    assert len(line) < 500
    assert line.isprintable()
    assert "Traceback" not in line and "internal error" not in line
    # Only a refusal of a rule that needs the book leaves a trace: the fact that it was refused.
    kinds = [event["type"] for event in lb.ok("events", "--after", str(before))["events"]]
    assert kinds in ([], ["refused"])


@pytest.mark.parametrize(
    "verb",
    [
        ("list",),
        ("allocate", "box", "cpu=1"),
        ("release", "A3"),
        ("events",),
        ("verify",),
        ("sweep",),
        ("backup", "copy.db"),
        ("upgrade",),
        ("checkpoint",),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_verb_on_no_ledger_says_so_and_makes_none(
    lb: CommandLine, tmp_path: Path, verb: tuple[str, ...], kind: str
) -> None:
    where = tmp_path / "other.db"
    if kind == "empty":
        where.touch()
    answer = lb(*verb, "--ledger", str(where))
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"leasebook: no ledger at {where}; ")
    assert not where.exists() or where.stat().st_size == 0


def test_file_of_something_else_is_called_no_ledger(lb: CommandLine, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    answer = lb("list", "--ledger", str(other), "--json")
    assert answer.code == 2
    assert answer.json["error"]["reason"] == "not_a_ledger"


def test_damaged_ledger_is_an_infrastructure_error_and_verify_ends_with_6(
    lb: CommandLine, tmp_path: Path
) -> None:
    lb.ok("backup", str(tmp_path / "copy.db"))
    damaged = tmp_path / "copy.db"
    content = bytearray(damaged.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    damaged.write_bytes(content)
    answer = lb("list", "--ledger", str(damaged), "--json")
    assert answer.code == 1
    assert answer.json["error"]["reason"] == "corrupt"
    answer = lb("verify", "--ledger", str(damaged), "--json")
    assert answer.code == 6
    assert answer.json["ok"] is False and answer.json["reason"]


def test_unforeseen_fault_is_one_line_and_shows_where_only_when_asked(
    lb: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("leasebook.manager.Ledger.open", fail)
    answer = lb("list")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("leasebook: internal error: RuntimeError: two lines; ")
    assert len(answer.err.splitlines()) == 1
    monkeypatch.setenv("LEASEBOOK_DEBUG", "1")
    assert "Traceback" in lb("list").err


# --- what every verb takes -----------------------------------------------------------------------


@pytest.mark.parametrize(("path", "verb"), verbs(), ids=lambda value: str(value)[:40])
def test_verb_takes_ledger_and_json_and_explains_itself(
    path: str, verb: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = {name for parameter in verb.params for name in parameter.opts}
    assert {"--ledger", "--json"} <= taken
    assert verb.help
    for parameter in verb.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
    from leasebook.__main__ import main

    assert main([*path.split()[1:], "--help"]) == 0
    assert path in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "--ledger", "{}", "pool", "list"),
        ("pool", "--json", "--ledger", "{}", "list"),
        ("pool", "list", "--json", "--ledger", "{}"),
        ("--ledger", "{}", "pool", "list", "--json"),
    ],
    ids=" ".join,
)
def test_ledger_and_json_may_stand_before_and_behind_the_verb(
    lb: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.delenv("LEASEBOOK_LEDGER")
    answer = lb(*(a.format(lb.ledger) for a in arguments))
    assert answer.code == 0
    assert [p["name"] for p in answer.json["pools"]] == ["box"]


def test_program_lists_every_verb_with_its_own_line_of_help(lb: CommandLine) -> None:
    root = program()
    ctx = click.Context(root, info_name="leasebook", obj=Session())
    listed = lb("--help").out
    for name, (_, line) in VERBS.items():
        command = root.get_command(ctx, name)
        assert command is not None and command.name == name
        assert f"{name} " in listed and line in listed


def test_version_is_the_packages(lb: CommandLine) -> None:
    import leasebook

    assert lb("--version").out == f"leasebook {leasebook.__version__}\n"


HEAVY = (
    "pydantic",
    "sqlite_utils",
    "pandas",
    "rich",
    "psutil",
    "cryptography",
    "apscheduler",
    "tomlkit",
)
LIGHT_VERBS: list[tuple[str, ...]] = [
    ("allocate", "box", "cpu=1", "--json"),
    ("allocate", "box", "cpu=100"),
    ("renew", "A3"),
    ("release", "A3"),
    ("list",),
    ("show", "A3", "--json"),
    ("why", "A3"),
    ("pool", "list"),
]


@pytest.mark.parametrize("arguments", LIGHT_VERBS, ids=" ".join)
def test_verb_that_hooks_call_imports_nothing_heavy(
    lb: CommandLine, arguments: tuple[str, ...]
) -> None:
    script = (
        "import json, sys\n"
        "from leasebook.__main__ import main\n"
        "main(sys.argv[1:])\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "leasebook.cli.app" in loaded
    assert loaded.isdisjoint(HEAVY)
    verbs_loaded = {name for name in loaded if name.startswith("leasebook.cli.")}
    assert not {"leasebook.cli.running", "leasebook.cli.upkeep"} & verbs_loaded


# --- the reference -------------------------------------------------------------------------------


def test_reference_in_the_documents_is_current() -> None:
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert written == reference.render(), (
        "docs/cli.md is out of date: python -m leasebook.cli.reference docs/cli.md"
    )


def test_reference_describes_every_verb_and_every_option() -> None:
    text = reference.render()
    for path, verb in verbs():
        section = text.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
        assert section, path
        for parameter in verb.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("ledger", "json"):
                assert parameter.opts[0] in section, (path, parameter.opts)
