"""Incident bundles in memory: signatures and JSON on a bare Python, the checks, pseudonyms, windows."""

from __future__ import annotations

import ast
import base64
import json
import os
import sys
import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.book import Book
from ledger.codec import to_row
from ledger.commands import Allocate, Fact, OpenPool, RecordFacts, Redact, TakeCheckpoint
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.fields import book_digest, dump
from ledger.log import GENESIS, Log, Row
from ledger.memory_log import MemoryLog
from ledger.notes import Note, SigningKey, sign_note
from ledger.requests import NodeSpec, Placement, Request
from ledger.sqlite_log import SqliteLog
from ledger.step import is_due, settle_due, take_step
from ledger.writer import Writer, begin
from projections.past import Past
from projections.travel import Moment, Travel
from reports.incidents import bare_orjson, container, ed25519, open_bundle
from reports.incidents.container import BadBundle, packed, unpacked
from reports.incidents.gathering import Choices
from reports.incidents.manifest import SEALED_LINE, Manifest, read_manifest
from reports.incidents.pseudonyms import Pseudonyms
from reports.incidents.rows import line_of, row_of
from reports.incidents.sources import sources
from reports.incidents.window import Span, span_of
from reports.incidents.writing import Exported, export
from tests.ledgers import Clock, refolded
from tests.unit.command_maker import SECOND, CommandMaker

KEY = SigningKey("leasebook/L", bytes(range(32)))
START = 1_790_000_000 * SECOND


class RandomHistory:
    """A log made of random commands, with a digest of the book now and then."""

    def __init__(self, seed: int, steps: int = 50, digest_every: int = 12) -> None:
        self.maker = CommandMaker(seed)
        self.book = Book()
        self.rows: list[Row] = []
        self.now = START
        for command in self.maker.opening():
            self.take(command)
        for number in range(steps):
            self.now += self.maker.wait()
            while is_due(self.book, self.now):
                self._add(settle_due(self.book, self.now))
            if number % digest_every == digest_every - 1:
                digest = book_digest(self.book)
                self.take(TakeCheckpoint(command_id="", digest=digest))
            try:
                self.take(self.maker.next(self.book))
            except InvalidInput:
                continue

    def take(self, command: Any) -> None:
        self.now += 1
        self._add(take_step(self.book, command, self.now).events)

    def _add(self, events: list[Any]) -> None:
        for event in events:
            self.rows.append(to_row(event, self.rows[-1].hash if self.rows else GENESIS))

    @property
    def past(self) -> Past:
        return Past(MemoryLog(self.rows))


def write(past: Past, path: Path, first: int, last: int, **options: Any) -> Exported:
    choices = Choices(**options)
    return export(
        past, path, Span(first, last), KEY, now=START, program="test", choices=choices, force=True
    )


# --- Ed25519 -------------------------------------------------------------------------------------

# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_signatures_of_the_standard_verify(
    secret: str, public: str, message: str, signature: str
) -> None:
    made = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert made.public_key().public_bytes_raw().hex() == public
    args = bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message)
    assert ed25519.verifies(*args)
    assert not ed25519.verifies(args[0], args[1], args[2] + b"x")


def openssl_verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@settings(max_examples=25)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(max_size=200),
    st.integers(0, 95),
    st.integers(1, 255),
)
def test_bare_verification_agrees_with_openssl_on_good_and_on_changed_signatures(
    seed: bytes, message: bytes, at: int, flip: int
) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert ed25519.verifies(public, signature, message)
    both = bytearray(public + signature)
    both[at] ^= flip
    changed = bytes(both[:32]), bytes(both[32:]), message
    assert ed25519.verifies(*changed) == openssl_verifies(*changed) is False


def test_signature_whose_number_is_not_reduced_is_refused() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public, signature = key.public_key().public_bytes_raw(), key.sign(b"x")
    s = int.from_bytes(signature[32:], "little") + ORDER
    twin = signature[:32] + s.to_bytes(32, "little")
    assert not ed25519.verifies(public, twin, b"x")
    assert not openssl_verifies(public, twin, b"x")


# The points of small order, in their proper form (of order 1, 2, 4, 4, 8, 8, 8, 8).
SMALL = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


@pytest.mark.parametrize("public", SMALL)
def test_key_of_small_order_verifies_nothing(public: str) -> None:
    # With s = 0 and R the neutral point, about one message in eight fits such a key.
    neutral = bytes.fromhex(SMALL[0]) + bytes(32)
    key = bytes.fromhex(public)
    messages = [bytes([n]) for n in range(64)]
    assert not any(ed25519.verifies(key, neutral, message) for message in messages)
    accepted = [m for m in messages if openssl_verifies(key, neutral, m)]
    assert accepted, "the trap is real: without the check these would verify"


@pytest.mark.parametrize(
    "public",
    [b"", bytes(31), b"\xff" * 32, (2**255 - 19 + 4).to_bytes(32, "little"), b"\x02" + bytes(31)],
)
def test_bytes_that_are_no_point_verify_nothing(public: bytes) -> None:
    assert not ed25519.verifies(public, bytes(64), b"")


# --- JSON on a bare Python -----------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300)
@given(PLAIN)
def test_bare_json_writes_and_reads_the_same_bytes_as_orjson(value: Any) -> None:
    written = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    assert bare_orjson.dumps(value, option=bare_orjson.OPT_SORT_KEYS) == written
    assert bare_orjson.dumps(value) == orjson.dumps(value)
    assert bare_orjson.loads(written) == orjson.loads(written) == value
    assert bare_orjson.loads(written.decode()) == value


def test_bare_json_writes_every_character_of_the_first_planes_as_orjson_does() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
    assert bare_orjson.dumps(text) == orjson.dumps(text)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, {1: 2}, {"a": {3}}, b"x", "\ud800", [1.5j]])
def test_bare_json_refuses_what_orjson_refuses(value: Any) -> None:
    with pytest.raises(TypeError):
        orjson.dumps(value)
    with pytest.raises(TypeError):
        bare_orjson.dumps(value)


@pytest.mark.parametrize(
    "text",
    ["", "nul", "NaN", "[Infinity]", '"\\ud800"', '{"a":1,}', "01", b"\xff", '"\x01"', "\ufeff1"],
)
def test_bare_json_reads_nothing_that_orjson_does_not_read(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        orjson.loads(text)
    with pytest.raises(ValueError):
        bare_orjson.loads(text)


# --- random windows of random histories ----------------------------------------------------------


@settings(max_examples=12)
@given(st.integers(0, 2**32), st.data())
def test_any_window_of_any_history_checks_and_is_in_the_state_of_the_ledger_at_every_position(
    tmp_path_factory: pytest.TempPathFactory, seed: int, data: st.DataObject
) -> None:
    past = RandomHistory(seed).past
    head = past.log.head().position
    first = data.draw(st.integers(1, head))
    last = data.draw(st.integers(first, head))
    seal = data.draw(st.sampled_from(["head", "end"]))
    path = tmp_path_factory.mktemp("bundle") / "x.zip"
    done = write(past, path, first, last, seal=seal)
    bundle = open_bundle(path, str(KEY.verifier))
    assert bundle.manifest == done.manifest
    assert bundle.manifest.sealed == (head if seal == "head" else last)
    opened = bundle.past()
    assert (opened.first, bundle.log.head().position) == (bundle.manifest.base, last)
    for position in range(bundle.manifest.base, last + 1):
        assert dump(opened.book_at(position)) == dump(past.book_at(position))
    assert list(opened.log.read(first - 1)) == list(past.log.read(first - 1, last))
    for allocation in {row.allocation for row in opened.log.read() if row.allocation}:
        mine = past.log.rows_of_allocation(allocation)
        shown = [r for r in mine if bundle.manifest.base < r.position <= last]
        assert opened.log.rows_of_allocation(allocation) == shown


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(["people", "all"]), st.booleans(), st.data())
def test_pseudonyms_show_the_same_history_of_others(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    mode: str,
    digests: bool,
    data: st.DataObject,
) -> None:
    past = RandomHistory(seed).past
    head = past.log.head().position
    first = data.draw(st.integers(1, head))
    last = data.draw(st.integers(first, head))
    path = tmp_path_factory.mktemp("bundle") / "x.zip"
    secret = bytes(32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", lambda count: secret[:count])
        write(past, path, first, last, pseudonyms=mode, digests=digests)
    names = Pseudonyms(secret, mode)
    opened = open_bundle(path, str(KEY.verifier)).past()
    for position in {opened.first, first - 1, (first + last) // 2, last}:
        assert dump(opened.book_at(position)) == names.book(dump(past.book_at(position)))


# --- what is changed on purpose ------------------------------------------------------------------


@pytest.fixture(scope="module")
def past() -> Past:
    return RandomHistory(3, steps=80).past


def members_of(path: Path) -> dict[str, bytes]:
    return unpacked(path.read_bytes())


def forged(members: dict[str, bytes], *, key: SigningKey = KEY, **changes: Any) -> bytes:
    """A bundle with other members, whose every hash and signature fits."""
    page = json.loads(members["manifest.json"]) | changes
    rest = {n: d for n, d in members.items() if n not in ("manifest.json", "checkpoint.txt")}
    page["files"] = {name: sha256(data).hexdigest() for name, data in rest.items()}
    if key is not KEY:
        page["verifier_key"] = str(key.verifier)
    manifest = json.dumps(page).encode()
    before = members["checkpoint.txt"].decode().split("\n")
    line = SEALED_LINE + sha256(manifest).hexdigest()
    note = Note(before[0], int(before[1]), base64.b64decode(before[2]), (line,))
    front = {"manifest.json": manifest, "checkpoint.txt": sign_note(note, key).encode()}
    return packed({**front, **rest}.items())


def refused(path: Path, data: bytes, match: str, key: str | None = None) -> None:
    path.write_bytes(data)
    with pytest.raises(BadBundle, match=match) as found:
        open_bundle(path, key)
    assert "\n" not in found.value.message


@pytest.fixture
def bundle(tmp_path: Path, past: Past) -> Path:
    head = past.log.head().position
    path = tmp_path / "x.zip"
    done = write(past, path, head // 2, head - 10)
    assert done.manifest.base > 0 and done.manifest.sealed == head
    return path


def test_event_that_was_changed_does_not_fit_its_digest_though_all_else_was_signed_again(
    bundle: Path,
) -> None:
    members = members_of(bundle)
    lines = members["events.jsonl"].splitlines(keepends=True)
    for number, line in enumerate(lines):
        plain = json.loads(line)
        plain["at"] += 1
        changed = [*lines]
        changed[number] = json.dumps(plain).encode() + b"\n"
        data = forged(members | {"events.jsonl": b"".join(changed)})
        refused(bundle, data, f"event {plain['position']} was changed")


def test_digest_that_was_changed_breaks_the_chain(bundle: Path) -> None:
    members = members_of(bundle)
    digests = bytearray(members["digests.bin"])
    digests[-1] ^= 1
    refused(bundle, forged(members | {"digests.bin": bytes(digests)}), "chain does not lead")
    refused(bundle, forged(members | {"digests.bin": bytes(digests[:-32])}), "does not reach")


def test_state_that_was_changed_is_not_the_one_that_the_log_recorded(bundle: Path) -> None:
    members = members_of(bundle)
    book = json.loads(members["base_book.json"])
    book["tasks"].append(["ann", "made-up", 5])
    data = forged(members | {"base_book.json": orjson.dumps(book, option=orjson.OPT_SORT_KEYS)})
    refused(bundle, data, "is not the one that it records")
    refused(bundle, forged(members | {"base_book.json": b"{}"}), "cannot be read")


def test_claimed_state_that_folding_does_not_give_is_refused(bundle: Path) -> None:
    members = members_of(bundle)
    manifest = read_manifest(members["manifest.json"])
    states = manifest.states | {str(manifest.last): "0" * 64}
    refused(bundle, forged(members, states=states), "folding leads to another state")
    refused(bundle, forged(members, states={}), "claims other states")


def test_events_left_out_at_an_end_or_in_the_middle_are_missed(bundle: Path) -> None:
    members = members_of(bundle)
    lines = members["events.jsonl"].splitlines(keepends=True)
    for kept in (lines[1:], lines[:-1], [*lines[:3], *lines[4:]]):
        data = forged(members | {"events.jsonl": b"".join(kept)})
        refused(bundle, data, "not those that its manifest names")
    manifest = read_manifest(members["manifest.json"])
    data = forged(members | {"events.jsonl": b"".join(lines[:-1])}, last=manifest.last - 1)
    refused(bundle, data, "claims other states")


def test_file_that_was_changed_after_signing_is_named(bundle: Path) -> None:
    members = members_of(bundle)
    for name in set(members) - {"manifest.json", "checkpoint.txt"}:
        data = packed((members | {name: members[name] + b" "}).items())
        refused(bundle, data, f"{name} is not as it was signed")
    refused(bundle, packed((members | {"more.txt": b""}).items()), "'more.txt'")
    refused(
        bundle,
        packed({n: d for n, d in members.items() if n != "events.jsonl"}.items()),
        "'events.jsonl'",
    )
    page = members["manifest.json"].replace(b'"note": ""', b'"note": "!"')
    refused(
        bundle, packed((members | {"manifest.json": page}).items()), "not the one that was signed"
    )
    note = members["checkpoint.txt"].replace(b"leasebook/L\n", b"leasebook/M\n")
    refused(bundle, packed((members | {"checkpoint.txt": note}).items()), "signature")


def test_bundle_signed_with_another_key_is_refused_where_a_key_is_trusted(bundle: Path) -> None:
    other = SigningKey("leasebook/L", bytes(32))
    data = forged(members_of(bundle), key=other)
    refused(bundle, data, "signed with another key", str(KEY.verifier))
    # On its own it holds: a bundle cannot vouch for the key that it brings along.
    assert open_bundle(bundle).findings[1].text.startswith(f"signed by {other.verifier}, but")


def test_kept_checkpoints_must_lie_in_the_chain(bundle: Path, past: Past) -> None:
    manifest = read_manifest(members_of(bundle)["manifest.json"])
    key = str(KEY.verifier)

    def kept(position: int, root: bytes | None = None) -> str:
        row = past.row(position)
        assert row is not None
        return sign_note(Note("leasebook/L", position, root or row.hash), KEY)

    good = [kept(p) for p in (manifest.base, manifest.first, manifest.last + 3, manifest.sealed)]
    assert "4 kept checkpoints agree" in open_bundle(bundle, key, good).findings[5].text
    for bad, match in [
        (kept(manifest.first, bytes(32)), "has another hash"),
        (kept(manifest.base - 1), "outside of"),
        (sign_note(Note("leasebook/L", 1, bytes(32)), SigningKey("leasebook/L", bytes(32))), "key"),
        ("nonsense", "cannot be used"),
    ]:
        with pytest.raises(BadBundle, match=match):
            open_bundle(bundle, key, [bad])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"first": "3"}, "first"),
        ({"pseudonyms": "maybe"}, "pseudonyms"),
        ({"digests": False}, "lacks the digests"),
        ({"base": 10**30}, "base"),
        ({"base": 0}, "contradicts itself"),
        ({"base_hash": "zz"}, "no hash"),
        ({"last": 10**9}, "out of order|does not reach"),
        ({"format": 2}, "format"),
        ({"kind": "zip"}, "kind"),
        ({"ledger_id": "M"}, "checkpoint is of"),
        ({"verifier_key": "x"}, "not a key"),
        ({"states": {"a": 1}}, "states"),
    ],
)
def test_manifest_that_makes_no_sense_is_refused_though_it_was_signed(
    bundle: Path, change: dict[str, Any], match: str
) -> None:
    refused(bundle, forged(members_of(bundle), **change), match)


def sealed(archive: bytes) -> bytes:
    """A zip of any content with the closing line that makes it look whole."""
    line = f"leasebook incident {container.FORMAT} sha256 "
    out = BytesIO(archive)
    with zipfile.ZipFile(out, "a") as opened:
        opened.comment = f"{line}{'0' * 64}".encode()
    whole = out.getvalue()[:-64]
    return whole + sha256(whole).hexdigest().encode()


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "no incident bundle"),
        (b"PK\x03\x04 nonsense", "no incident bundle"),
        (zip_of(("a.txt", b"x")), "no incident bundle"),
        (sealed(zip_of(("../up.txt", b"x"))), "name that none has"),
        (sealed(zip_of(("/etc/passwd.txt", b"x"))), "name that none has"),
        (sealed(zip_of(("a/../../b.txt", b"x"))), "name that none has"),
        (sealed(zip_of(("C:\\x.txt", b"x"))), "name that none has"),
        (sealed(zip_of(("a.txt", b"x" * 3_000_000))), "would unpack to 3000000"),
        (sealed(zip_of(*((f"a{n}.txt", b"") for n in range(201)))), "too many members"),
        (sealed(zip_of(("a.txt", b"x"), method=zipfile.ZIP_BZIP2)), "unknown way"),
        (sealed(zip_of(("a.txt", b"x"))), "manifest.json"),
        (sealed(zip_of(("manifest.json", b"[" * 100_000))), "cannot be read"),
    ],
)
def test_zip_that_is_no_bundle_is_refused_in_one_line(
    tmp_path: Path, data: bytes, match: str
) -> None:
    refused(tmp_path / "x.zip", data, match)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = sealed(zip_of(("a.txt", b"x"), ("a.txt", b"y")))
    refused(tmp_path / "x.zip", data, "two of one name")


def test_member_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    data = zip_of(("a.txt", bytes(1_000_000)))
    lying = data.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    refused(tmp_path / "x.zip", sealed(lying), "cannot be unpacked")


def test_bundle_of_a_newer_format_says_so(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = members_of(bundle)
    with monkeypatch.context() as patch:
        patch.setattr(container, "FORMAT", 2)
        data = packed(members.items())
    refused(bundle, data, "has format 2, this program reads format 1")


def test_line_that_is_no_event_is_refused() -> None:
    row = RandomHistory(1, steps=3).rows[-1]
    assert row_of(line_of(row), row.hash) == row
    plain = json.loads(line_of(row))
    for change in (
        {"position": "1"},
        {"position": True},
        {"schema": 2**40},
        {"at": 2**63},
        {"data": None},
        {"holder": 5},
        {"more": 1},
        {"metadata_sha256": "00"},
        {"metadata_sha256": 7},
        {"metadata": "{}", "metadata_sha256": "00" * 32},
    ):
        with pytest.raises(BadBundle, match="no event"):
            row_of(json.dumps(plain | change).encode())
    for line in (b"", b"[]", b"{}", b"[" * 100_000, b"\xff"):
        with pytest.raises(BadBundle, match="no event"):
            row_of(line)


def test_signed_events_that_do_not_fold_are_refused(tmp_path: Path) -> None:
    history = RandomHistory(2, steps=5)
    rows = [*history.rows]
    body = orjson.loads(rows[-1].data) | {"no_such_field": 1}
    bad = rows[-1]._replace(data=orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode())
    path = tmp_path / "x.zip"
    write(history.past, path, 1, len(rows), pseudonyms="people")
    members = members_of(path)
    lines = members["events.jsonl"].splitlines(keepends=True)
    data = forged(members | {"events.jsonl": b"".join([*lines[:-1], line_of(bad)])})
    refused(path, data, f"event {len(rows)} cannot be folded")


# --- metadata ------------------------------------------------------------------------------------


def with_metadata() -> tuple[MemoryLog, int, int]:
    """A log with metadata at two positions, of which the first is redacted at the end."""
    history = RandomHistory(5, steps=10)
    marked = []
    for name, secret in (("one", "hunter2"), ("two", "swordfish")):
        request = Request({"cpu": 1}, ttl_ns=SECOND)
        history.take(
            Allocate(
                command_id=name,
                pool="bag",
                holder="h",
                request=request,
                metadata={"secret": secret},
            )
        )
        marked.append(next(r for r in reversed(history.rows) if r.metadata is not None))
    first = marked[0]
    digest = sha256((first.metadata or "").encode()).hexdigest()
    history.take(
        Redact(
            command_id="r", position=first.position, metadata_sha256=digest, reason="x", by="ops"
        )
    )
    rows = [r._replace(metadata=None) if r is first else r for r in history.rows]
    return MemoryLog(rows), first.position, marked[1].position


def test_metadata_goes_along_but_redacted_metadata_stays_away_and_still_proves(
    tmp_path: Path,
) -> None:
    log, redacted, kept = with_metadata()
    path = tmp_path / "x.zip"
    # The redaction itself lies behind the window's end.
    write(Past(log), path, redacted, kept)
    bundle = open_bundle(path)
    shown = {row.position: row.metadata for row in bundle.log.read(redacted - 1)}
    assert shown[redacted] is None
    assert shown[kept] == '{"secret":"swordfish"}'
    assert not any(b"hunter2" in data for data in members_of(path).values())


def test_metadata_can_be_left_out_and_the_proof_holds(tmp_path: Path) -> None:
    log, redacted, kept = with_metadata()
    path = tmp_path / "x.zip"
    write(Past(log), path, redacted, kept, metadata=False)
    bundle = open_bundle(path)
    assert bundle.manifest.metadata == "left out"
    assert not any(b"swordfish" in data for data in members_of(path).values())


def test_metadata_that_went_without_a_redaction_stops_the_export(tmp_path: Path) -> None:
    log, redacted, kept = with_metadata()
    rows = [r for r in log.read() if r.type != "redacted"]
    with pytest.raises(LedgerCorrupt, match=f"event {redacted} was changed"):
        write(Past(MemoryLog(rows)), tmp_path / "x.zip", redacted, kept)
    assert list(tmp_path.iterdir()) == []


# --- damaged ledgers -----------------------------------------------------------------------------


def test_ledger_that_was_changed_anywhere_from_the_base_on_gives_no_bundle(tmp_path: Path) -> None:
    rows = RandomHistory(3, steps=80).rows
    count = len(rows)
    first, last = count // 2, count - 10
    for position in (first, last, last + 1, count):
        changed = [*rows]
        changed[position - 1] = rows[position - 1]._replace(digest=bytes(32))
        with pytest.raises(LedgerCorrupt):
            write(Past(MemoryLog(changed)), tmp_path / "x.zip", first, last)
    changed = [*rows]
    changed[first] = rows[first]._replace(recorded_at=rows[first].recorded_at + 1)
    with pytest.raises(LedgerCorrupt):
        write(Past(MemoryLog(changed)), tmp_path / "x.zip", first, last, seal="end")
    assert list(tmp_path.iterdir()) == []


# --- pseudonyms ----------------------------------------------------------------------------------


def test_word_is_kept_as_a_word_but_replaced_as_a_name() -> None:
    names = Pseudonyms(bytes(32))
    data = {"reason": "insufficient_capacity", "by": "normal", "why": "carol left", "A": 3}
    plain = names._fields(data)
    assert plain["reason"] == "insufficient_capacity"
    assert plain["by"] == names.name("holder", "normal") != "normal"
    assert plain["why"].startswith("text-")
    assert list(plain)[3].startswith("key-")
    assert Pseudonyms(bytes(31) + b"1").name("holder", "x") != names.name("holder", "x")
    assert names.name("node", "n1") == "n1"
    assert Pseudonyms(bytes(32), "all").name("node", "n1") != "n1"


# --- windows -------------------------------------------------------------------------------------


def test_window_takes_positions_and_times_and_ends_before_its_end(past: Past) -> None:
    now = START * 2
    assert span_of(past, ("position", 3), ("position", 6), now) == Span(3, 5)
    five, seven = past.recorded_at(5), past.recorded_at(7)
    span = span_of(past, ("time", five), ("time", seven), now)
    inside = [r.position for r in past.log.read() if five <= r.recorded_at < seven]
    assert (span.first, span.last) == (inside[0], inside[-1])
    assert (span.since, span.until) == (five, seven)
    head = past.log.head().position
    assert span_of(past, ("position", head), ("position", head + 1), now).last == head


@pytest.mark.parametrize(
    ("since", "until", "match"),
    [
        (("time", 1), ("time", 2), "nothing was recorded"),
        (("position", 6), ("position", 3), "upside down"),
        (("position", 6), ("position", 6), "upside down"),
        (("time", START + 2), ("time", START + 1), "upside down"),
        (("position", 10**6), ("position", 10**6 + 1), "future"),
        (("position", 1), ("position", 10**6), "future"),
        (("time", START * 3), ("time", START * 3 + 1), "future"),
        (("time", 1), ("time", START * 3), "--until .* future"),
        (("position", 9), ("time", START), "nothing was recorded"),
    ],
)
def test_window_that_holds_nothing_is_refused_with_what_is_near(
    past: Past, since: tuple[str, int], until: tuple[str, int], match: str
) -> None:
    with pytest.raises(InvalidInput, match=match) as found:
        span_of(past, since, until, START * 2)
    assert "#" in found.value.hint or "--" in found.value.hint


def test_window_of_an_empty_log_is_refused() -> None:
    log = MemoryLog()
    with pytest.raises(InvalidInput, match="nothing has been recorded"):
        span_of(Past(log), ("position", 1), ("position", 2), START)


# --- the code inside -----------------------------------------------------------------------------


def test_code_in_a_bundle_needs_nothing_but_the_standard_library() -> None:
    code = {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): source
        for name, source in sources()
    }
    names = code.keys()
    assert {"__main__", "orjson", "ledger.evolve", "reports.incidents.checking"} <= names
    assert not any(name.startswith(("leasebook", "projections", "scheduler")) for name in names)
    for name, source in code.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = [node.module or ""]
            else:
                continue
            for each in found:
                assert each.partition(".")[0] in sys.stdlib_module_names or each in names, (
                    name,
                    each,
                )


def test_manifest_reads_back_as_it_was_written() -> None:
    manifest = Manifest(
        "L", "p", 5, "Grüße", None, 7, 3, 4, 2, "00" * 32, 9, {"4": "x"}, "none", "included",
        True, "k", {"a.txt": "h"},
    )  # fmt: skip
    assert read_manifest(manifest.to_bytes()) == manifest


def test_packing_twice_gives_the_same_bytes(past: Past, tmp_path: Path) -> None:
    one, two = tmp_path / "1.zip", tmp_path / "2.zip"
    write(past, one, 5, 20)
    write(past, two, 5, 20)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_mode & 0o777 == 0o600


def test_refolded_state_is_the_last_claimed(past: Past, tmp_path: Path) -> None:
    head = past.log.head().position
    done = write(past, tmp_path / "x.zip", 4, head)
    assert done.manifest.states[str(head)] == book_digest(refolded(past.log))  # type: ignore[arg-type]


# --- observed pools ------------------------------------------------------------------------------


def observed(seed: int, log: Log | None = None) -> Past:
    """A ledger with a year of somebody else's history, recorded in an afternoon, some of it twice."""
    random = Random(seed)
    clock = Clock()
    writer = Writer(log or MemoryLog(), clock=clock)
    begin(writer.log, "L", writer)
    writer.execute(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    writer.execute(OpenPool(command_id="q", pool="box", nodes=(NodeSpec("n", {"cpu": 4}),)))
    for number in range(40):
        clock.run(1)
        begun = random.randrange(1_000)
        ended = random.choice((None, begun + random.randrange(1, 200)))
        fact = Fact(
            key=f"sacct:{random.randrange(30)}",
            holder=random.choice(("ann", "bob")),
            request=Request({"cpu": 1000}),
            task=f"job-{number}",
            placements=(Placement(random.choice(("n1", "n2")), {"cpu": 1000}, {}),),
            requested_at=begun * SECOND,
            began_at=begun * SECOND,
            ended_at=None if ended is None else ended * SECOND,
            metadata={"cluster": "far-away"},
        )
        writer.execute(RecordFacts(command_id="", pool="far", facts=(fact,)))
    return Past(writer.log)


@settings(max_examples=12)
@given(st.integers(0, 2**32), st.integers(0, 1_100), st.integers(1, 200), st.booleans())
def test_window_over_imported_history_holds_what_lived_in_it_by_its_own_times(
    tmp_path_factory: pytest.TempPathFactory, seed: int, since: int, length: int, hidden: bool
) -> None:
    past = observed(seed)
    now = 2 * START
    times = since * SECOND, (since + length) * SECOND
    try:
        span = span_of(past, ("time", times[0]), ("time", times[1]), now)
    except InvalidInput:
        for second in range(since, since + length):
            moment = Moment(past.log.head().position, second * SECOND)
            assert not Travel(past, now=now).state(moment).held()
        return
    path = tmp_path_factory.mktemp("bundle") / "x.zip"
    choices = Choices(pseudonyms="people" if hidden else "none")
    export(past, path, span, KEY, now=now, program="test", choices=choices)
    bundle = open_bundle(path)
    assert (bundle.manifest.since, bundle.manifest.until) == times
    theirs, mine = Travel(past, now=now), Travel(bundle.past(), now=now)
    for second in (since, since + length // 2, since + length - 1):
        there = theirs.state(Moment(past.log.head().position, second * SECOND)).held()
        here = mine.state(Moment(bundle.manifest.last, second * SECOND)).held()
        assert [(a.id, a.amounts, a.placements, a.granted_at) for a in here] == [
            (a.id, a.amounts, a.placements, a.granted_at) for a in there
        ]
        assert [a.holder for a in here] == [a.holder for a in there] or hidden
    if hidden:
        shown = b"".join(d for n, d in members_of(path).items() if not n.endswith(".py"))
        for name in (b"ann", b"bob", b"sacct", b"job-", b"far-away"):
            assert name not in shown, name


def test_window_over_imported_history_is_the_same_in_a_file_as_in_memory(tmp_path: Path) -> None:
    in_memory = observed(5)
    with SqliteLog.open(tmp_path / "x.db", create=True) as log:
        in_file = observed(5, log)
        seen = set()
        for since in range(0, 1_200, 7):
            spans = []
            for past in (in_memory, in_file):
                window = ("time", since * SECOND), ("time", (since + 3) * SECOND)
                try:
                    span = span_of(past, *window, 2 * START)
                    spans.append((span.first, span.last))
                except InvalidInput:
                    spans.append((0, 0))
            assert spans[0] == spans[1]
            seen.add(spans[0])
        assert len(seen) > 3
