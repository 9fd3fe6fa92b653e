"""Signed notes: known answers, tampering of every part, and keys that several processes share."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import LeasebookError
from ledger.notes import (
    BadKey,
    BadNote,
    Note,
    SigningKey,
    VerifierKey,
    load_or_create_key,
    note_text,
    open_note,
    open_text,
    sign_note,
    sign_text,
)

# The published example of golang.org/x/mod/sumdb/note.
GO_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_NOTE = (
    f"{GO_TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The example of the C2SP specification itself.
SPEC_VERIFIER = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# A checkpoint that Go's public checksum database has signed.
SUM_VERIFIER = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUM_NOTE = (
    "go.sum database tree\n445646\njEFFy4AtYgBBNTSZTiNnQrgQqMbcH0mfO2oP2FxR9VU=\n\n"
    "— sum.golang.org "
    "Az3grkGho/PqvUmEuTv6+r2g303hUhu60FOD6vLpm19mBwH9UjquWY2OKxNmZ55z0gHrp24AgPC3Q5WO7uZrVdvdCQU=\n"
)

KEY = SigningKey("leasebook/one", bytes(range(32)))
OTHER = SigningKey("leasebook/two", bytes(range(1, 33)))
NOTE = Note("leasebook/one", 1234, bytes(range(100, 132)), ("epoch 1", "at 2026-11-22T06:49:00Z"))


def test_the_published_example_key_signs_the_published_note() -> None:
    key = SigningKey.parse_secret(GO_SECRET)
    assert str(key.verifier) == GO_VERIFIER
    assert key.verifier.key_id.hex() == "c74f20a3"
    assert key.secret_text() == GO_SECRET
    assert sign_text(GO_TEXT, key) == GO_NOTE


@pytest.mark.parametrize(
    ("verifier", "note"),
    [(GO_VERIFIER, GO_NOTE), (SPEC_VERIFIER, SPEC_NOTE), (SUM_VERIFIER, SUM_NOTE)],
    ids=["go", "specification", "checksum database"],
)
def test_notes_that_other_programs_signed_are_opened(verifier: str, note: str) -> None:
    key = VerifierKey.parse(verifier)
    assert str(key) == verifier
    text = open_text(note, key)
    assert note.startswith(f"{text}\n— {key.name} ")


def test_a_checkpoint_that_another_program_signed_is_read() -> None:
    note = open_note(SUM_NOTE, VerifierKey.parse(SUM_VERIFIER))
    assert (note.origin, note.size, note.extra) == ("go.sum database tree", 445646, ())
    assert note.root.hex() == "8c4145cb802d6200413534994e236742b810a8c6dc1f499f3b6a0fd85c51f555"


def test_a_note_opens_as_it_was_signed() -> None:
    signed = sign_note(NOTE, KEY)
    assert signed.startswith(note_text(NOTE))
    assert open_note(signed, KEY.verifier) == NOTE
    assert open_note(signed, OTHER.verifier, KEY.verifier) == NOTE


LINES = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32), min_size=1, max_size=30)


@settings(max_examples=50)
@given(LINES, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(LINES))
def test_any_checkpoint_goes_through_text_and_back(
    origin: str, size: int, root: bytes, extra: list[str]
) -> None:
    note = Note(origin, size, root, tuple(extra))
    assert open_note(sign_note(note, KEY), KEY.verifier) == note


def test_a_change_of_any_single_character_is_noticed() -> None:
    signed = sign_note(NOTE, KEY)
    for index, character in enumerate(signed):
        for other in ("A" if character != "A" else "B", "", "\n", f"{character}{character}"):
            if other == character:
                continue
            with pytest.raises(BadNote) as caught:
                open_note(signed[:index] + other + signed[index + 1 :], KEY.verifier)
            assert "\n" not in str(caught.value)


def test_a_line_that_is_dropped_doubled_or_swapped_is_noticed() -> None:
    lines = sign_note(NOTE, KEY).splitlines(keepends=True)
    body = len(lines) - 2
    for index in range(len(lines)):
        changed = [[*lines[:index], *lines[index + 1 :]]]
        if index < body:
            changed.append([*lines[: index + 1], *lines[index:]])
        if index + 1 < body:
            swapped = list(lines)
            swapped[index : index + 2] = reversed(swapped[index : index + 2])
            changed.append(swapped)
        for version in changed:
            with pytest.raises(BadNote):
                open_note("".join(version), KEY.verifier)


def test_every_cut_of_a_note_is_noticed() -> None:
    signed = sign_note(NOTE, KEY)
    for length in range(len(signed)):
        with pytest.raises(BadNote):
            open_note(signed[:length], KEY.verifier)


def test_unknown_signatures_are_ignored_beside_a_known_one() -> None:
    ours = sign_note(NOTE, KEY)
    theirs = sign_note(NOTE, OTHER).rpartition("\n\n")[2]
    forged = theirs.replace("leasebook/two", "leasebook/one")
    assert open_note(ours + theirs, KEY.verifier) == NOTE
    assert open_note(ours + theirs, KEY.verifier, OTHER.verifier) == NOTE
    assert open_note(ours + forged, KEY.verifier) == NOTE


def test_one_bad_signature_of_a_known_key_rejects_the_note() -> None:
    stale = sign_note(Note(NOTE.origin, 1, NOTE.root), OTHER).rpartition("\n\n")[2]
    both = sign_note(NOTE, KEY) + stale
    assert open_note(both, KEY.verifier) == NOTE
    with pytest.raises(BadNote, match="leasebook/two"):
        open_note(both, KEY.verifier, OTHER.verifier)


def test_a_note_that_no_known_key_signed_is_rejected() -> None:
    signed = sign_note(NOTE, KEY)
    renamed = SigningKey(KEY.name, OTHER.seed)
    for verifiers in ((), (OTHER.verifier,), (renamed.verifier,)):
        with pytest.raises(BadNote, match="no known key"):
            open_note(signed, *verifiers)


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "\n\n", "origin\n1\nAAAA\n", "o" * 1_000_001),
        *("origin\n\n— name\n", "origin\n\n— name \n", "origin\n\n— name AAAA\n"),
        *("origin\n\n- name AAAAAAAA\n", "origin\n\n— na+me AAAAAAAA\n"),
        *("origin\n\n—  AAAAAAAA\n", "origin\n\n— name AAAAAAA*\n"),
        *("origin\n\n— name AAAAAAAA", "ori\tgin\n\n— name AAAAAAAA\n"),
        *("ori\udc80gin\n\n— name AAAAAAAA\n", "origin\r\n\n— name AAAAAAAA\n"),
        "origin\n\n" + "— name AAAAAAAA\n" * 101,
    ],
    ids=list(map(str, range(17))),
)
def test_text_that_is_no_signed_note_is_rejected_in_one_line(text: str) -> None:
    with pytest.raises(BadNote) as caught:
        open_note(text, KEY.verifier)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LeasebookError)


ROOT = "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM="


@pytest.mark.parametrize(
    "body",
    [
        "origin\n1\n",
        f"\n1\n{ROOT}\n",
        f"origin\n1\n{ROOT}\n\nafter an empty line\n",
        *(f"origin\n{size}\n{ROOT}\n" for size in ("01", "-1", "1.0", "١", "9" * 5000)),
        *(f"origin\n1\n{root}\n" for root in (ROOT[:-1], ROOT[:-2] + "N=", ROOT[:-4])),
    ],
    ids=list(map(str, range(11))),
)
def test_a_signed_text_that_is_no_checkpoint_is_rejected(body: str) -> None:
    signed = sign_text(body, KEY)
    assert open_text(signed, KEY.verifier) == body
    with pytest.raises(BadNote):
        open_note(signed, KEY.verifier)


@pytest.mark.parametrize(
    "note",
    [
        Note("", 1, bytes(32)),
        Note("a\nb", 1, bytes(32)),
        Note("a", -1, bytes(32)),
        Note("a", 1, bytes(31)),
        Note("a", 1, bytes(32), ("",)),
        Note("a", 1, bytes(32), ("x\ty",)),
        Note("a\ud800", 1, bytes(32)),
    ],
    ids=list(map(str, range(7))),
)
def test_a_note_that_its_form_cannot_hold_is_not_signed(note: Note) -> None:
    with pytest.raises(BadNote):
        sign_note(note, KEY)
    with pytest.raises(BadNote):
        sign_text("a text without its last newline", KEY)


@pytest.mark.parametrize(
    "text",
    [
        *("", "PeterNeumann", GO_SECRET, GO_VERIFIER[:-1], GO_VERIFIER[:-4], GO_VERIFIER + "\n"),
        *(GO_VERIFIER.replace("c74f20a3", other) for other in ("c74f20a4", "C74F20A3", "")),
        *(GO_VERIFIER.replace("Peter", other) for other in ("Paul", "Peter ", "Peter+")),
        GO_VERIFIER.replace("PeterNeumann", ""),
        GO_VERIFIER.replace("ARpc", "AhpC"),
    ],
)
def test_a_verifier_key_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(BadKey) as caught:
        VerifierKey.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", " a", "\ud800", "x" * 201])
def test_a_name_that_a_note_cannot_hold_or_a_key_of_another_length_is_refused(name: str) -> None:
    with pytest.raises(BadKey):
        SigningKey(name, bytes(32))
    with pytest.raises(BadKey):
        VerifierKey(name, bytes(32))
    with pytest.raises(BadKey):
        SigningKey("a", bytes(31))
    with pytest.raises(BadKey):
        VerifierKey("a", bytes(33))


def test_the_secret_shows_in_no_representation_and_no_error() -> None:
    assert KEY.seed.hex() not in repr(KEY)
    assert repr(KEY.seed) not in repr(KEY)
    with pytest.raises(BadKey) as caught:
        SigningKey.parse_secret(GO_SECRET[:-1] + "A")
    assert "AYEK" not in str(caught.value)


def test_a_key_is_made_on_first_use_and_stays_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "signing.key"
    key = load_or_create_key(file, "leasebook/one")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert load_or_create_key(str(file), "leasebook/one") == key
    assert SigningKey.parse_secret(file.read_text().strip()) == key
    assert open_note(sign_note(NOTE, key), key.verifier) == NOTE
    assert os.listdir(file.parent) == ["signing.key"]
    assert load_or_create_key(tmp_path / "second.key", "leasebook/one") != key
    with pytest.raises(BadKey, match="'leasebook/one', not of 'two'"):
        load_or_create_key(file, "two")


def test_a_key_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            load_or_create_key(tmp_path / f"{umask}.key", "one")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{umask}.key").stat().st_mode) == 0o600


def test_a_key_in_the_present_directory_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = load_or_create_key("plain.key", "one")
    assert load_or_create_key(tmp_path / "plain.key", "one") == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "signing.key"
    load_or_create_key(file, "one")
    file.chmod(mode)
    with pytest.raises(BadKey, match=f"{mode:04o}") as caught:
        load_or_create_key(file, "one")
    assert "chmod 600" in caught.value.hint
    file.chmod(0o400)
    assert load_or_create_key(file, "one").name == "one"


def test_a_key_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "signing.key"
    load_or_create_key(file, "one")
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(BadKey, match="another user"):
        load_or_create_key(file, "one")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"\xff\xfe", b"x" * 100_000, GO_VERIFIER.encode()),
        GO_SECRET[:-1].encode(),
        GO_SECRET.replace("c74f20a3", "c74f20a4").encode(),
    ],
    ids=list(map(str, range(7))),
)
def test_a_damaged_key_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "signing.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(BadKey, match=r"signing\.key") as caught:
        load_or_create_key(file, "PeterNeumann")
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for odd in (pipe, tmp_path):
        with pytest.raises(BadKey, match="regular file"):
            load_or_create_key(odd, "one")


def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            load_or_create_key(tmp_path / "signing.key", "one")
    assert os.listdir(tmp_path) == []
    assert load_or_create_key(tmp_path / "signing.key", "one").name == "one"


def test_processes_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "signing.key"
    program = (
        "import sys; from ledger.notes import load_or_create_key\n"
        "import cryptography.hazmat.primitives.asymmetric.ed25519\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(load_or_create_key({str(file)!r}, 'one').verifier)\n"
    )
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 6
    assert printed == {f"{load_or_create_key(file, 'one').verifier}\n"}
    assert os.listdir(file.parent) == ["signing.key"]


def test_a_process_that_comes_second_takes_the_first_ones_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "signing.key"
    winners: list[SigningKey] = []
    link = os.link

    def overtaken(source: str, target: str) -> None:
        monkeypatch.setattr(os, "link", link)
        winners.append(load_or_create_key(file, "one"))
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    assert load_or_create_key(file, "one") == winners[0]
    assert os.listdir(tmp_path) == ["signing.key"]


def test_importing_notes_imports_no_cryptography() -> None:
    program = "import sys, ledger.notes; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
