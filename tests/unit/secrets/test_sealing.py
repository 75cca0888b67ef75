"""What is sealed opens only with its key and only in its place."""

import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane import sealing
from controlplane.domain.kinds import ALL_KINDS, TEMPLATE
from controlplane.domain.templates import RepositorySource, TemplateSource
from controlplane.sealing import Sealer
from controlplane.services.context import Context
from controlplane.services.secrets import Rekeying
from moorage.clock import ManualClock
from moorage.errors import Internal
from moorage.store import SqliteStore
from tests.support.controlplane import ready_template

PLAIN = b"correct horse battery staple"


def test_it_opens_as_what_it_was_and_holds_none_of_it() -> None:
    sealer = Sealer(None)
    record = sealer.seal("u1", "p", 1, PLAIN)
    assert sealer.open(record) == PLAIN
    assert sealer.seal("u1", "p", 1, PLAIN).sealed != record.sealed
    assert record.sealed not in repr(record)


@pytest.mark.parametrize("change", [{"owner_uid": "u2"}, {"project": "q"}, {"number": 2}])
def test_it_does_not_open_as_another_version(change: dict[str, object]) -> None:
    sealer = Sealer(None)
    record = replace(sealer.seal("u1", "p", 1, PLAIN), **change)  # type: ignore[arg-type]
    with pytest.raises(Internal) as refused:
        sealer.open(record)
    assert refused.value.reason == "PAYLOAD_UNREADABLE"


def test_keys_outlive_the_program_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    record = Sealer(tmp_path).seal("u1", "p", 1, PLAIN)
    again = Sealer(tmp_path)
    assert again.open(record) == PLAIN
    assert again.digest(PLAIN) == Sealer(tmp_path).digest(PLAIN) != Sealer(None).digest(PLAIN)
    assert stat.S_IMODE((tmp_path / sealing.FILE_NAME).stat().st_mode) == 0o600
    assert PLAIN not in (tmp_path / sealing.FILE_NAME).read_bytes()


def test_a_new_key_ends_the_old_one_and_may_be_cut_off_anywhere(tmp_path: Path) -> None:
    record = Sealer(tmp_path).seal("u1", "p", 1, PLAIN)
    cut_off = Sealer(tmp_path)
    cut_off.begin_rekey()
    sealer = Sealer(tmp_path)  # started again in between
    assert sealer.open(record) == PLAIN
    key_id = sealer.begin_rekey()
    renewed = sealer.rewrapped(record)
    assert (renewed.key_id, renewed.sealed) == (key_id, record.sealed)
    sealer.end_rekey(key_id)
    assert Sealer(tmp_path).open(renewed) == PLAIN
    with pytest.raises(Internal) as refused:
        Sealer(tmp_path).open(record)
    assert refused.value.reason == "SEALING_KEY_MISSING"


@pytest.mark.parametrize("text", ["", "{}", '{"current":"a","wrapping":{},"digest":""}', "[]"])
def test_damaged_keys_are_never_made_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / sealing.FILE_NAME).write_text(text)
    with pytest.raises(Internal) as refused:
        Sealer(tmp_path)
    assert refused.value.reason == "SEALING_KEYS_UNREADABLE"
    assert (tmp_path / sealing.FILE_NAME).read_text() == text


async def test_the_stores_file_has_no_clear_text_of_kinds_that_are_sealed(tmp_path: Path) -> None:
    sealer = Sealer(tmp_path)
    template = replace(
        ready_template("p", "web", datetime.now(UTC)),
        source=TemplateSource(repository=RepositorySource("x", password="canary-password")),
    )
    store = await SqliteStore.open(tmp_path / "store.db", ALL_KINDS, cipher=sealer)
    await store.update(lambda tx: tx.put(TEMPLATE, template))
    assert b"canary" not in b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    key_id, _ = await Rekeying(Context(store, ManualClock()), sealer).rekey()
    await store.close()
    again = await SqliteStore.open(tmp_path / "store.db", ALL_KINDS, cipher=Sealer(tmp_path))
    (found,) = again.view().all(TEMPLATE)
    assert found.value == replace(template, generation=template.generation + 1)
    await again.close()
    data = (tmp_path / "store.db").read_bytes()
    assert b"canary" not in data
    assert key_id.encode() in data


async def test_a_store_from_before_is_read_and_sealed_with_the_next_change(tmp_path: Path) -> None:
    template = ready_template("p", "web", datetime.now(UTC))
    store = await SqliteStore.open(tmp_path / "store.db", ALL_KINDS)
    await store.update(lambda tx: tx.put(TEMPLATE, template))
    await store.close()
    again = await SqliteStore.open(tmp_path / "store.db", ALL_KINDS, cipher=Sealer(tmp_path))
    assert [found.value for found in again.view().all(TEMPLATE)] == [template]
    await again.close()


def test_a_sealed_record_opens_only_in_its_place() -> None:
    sealer = Sealer(None)
    text = sealer.seal_record("balancer", "p/r/b", "{}")
    assert sealer.open_record("balancer", "p/r/b", text) == "{}"
    with pytest.raises(Internal):
        sealer.open_record("balancer", "p/r/other", text)
