"""Rows marked to be forgotten: taught from no file, not replayed, not waited for."""

import pytest

from llama_factory import curate
from llama_factory.core.types import Memory
from llama_factory.rounds import round as rounds
from llama_factory.rounds.draft import Draft, open_draft
from llama_factory.rounds.waiting import count_waiting
from llama_factory.versions import forgotten, memory, store
from llama_factory.versions.forgotten import ForgottenRow
from llama_factory.versions.version import MEMORY
from tests.rounds.rounds import Listener
from tests.rounds.test_draft import ALL_TAUGHT, begin, finish, put, rows
from tests.tiny import make_workspace


@pytest.fixture
def bot(tmp_path):
    return make_workspace(tmp_path / "bot", tmp_path / "no model")


def mark(bot, *taught):
    listed = [ForgottenRow(row.key, "2026-12-01T00:00:00+00:00", "ann", "wrong") for row in taught]
    forgotten.mark_forgotten(bot, listed)


def test_no_file_brings_a_forgotten_row_back(bot):
    put(bot, "faq.jsonl", rows("sea", 3))
    first, _ = begin(bot, ALL_TAUGHT)
    gone = first.data.train[0]
    finish(bot, first, ALL_TAUGHT)
    mark(bot, gone)
    put(bot, "again.jsonl", rows("sea", 3) + rows("hill", 2))
    again, told = begin(bot, ALL_TAUGHT)  # from the base model, which was taught none of them
    assert gone.key not in {row.key for row in again.data.train}
    assert len(again.data.train) == 4
    assert "Dropped: 2 rows, marked to be forgotten." in told


def test_nothing_waits_where_all_of_it_is_to_be_forgotten(bot):
    put(bot, "faq.jsonl", rows("sea", 3))
    draft, _ = begin(bot, ALL_TAUGHT)
    mark(bot, *draft.data.train)
    store.discard_unfinished(bot)
    base = store.get(bot, "v0000", verify=False)
    waiting = count_waiting(bot, ALL_TAUGHT, base, {"faq.jsonl": "x"})
    assert (waiting.rows, dict(waiting.useless)) == (0, {"faq.jsonl": "no new row"})


def test_an_interrupted_round_begins_anew_when_a_row_is_marked(bot):
    put(bot, "faq.jsonl", rows("sea", 3))
    draft, _ = begin(bot, ALL_TAUGHT)
    mark(bot, draft.data.train[1])
    again, told = begin(bot, ALL_TAUGHT)
    assert "The interrupted round is begun anew: the rows to be forgotten changed since." in told
    assert len(again.data.train) == 2
    _, told = begin(bot, ALL_TAUGHT)
    assert f"Going on with the interrupted round {again.id}." in told


def test_forgotten_rows_are_not_replayed(bot):
    put(bot, "faq.jsonl", rows("sea", 3))
    first, _ = begin(bot, ALL_TAUGHT)
    kept = tuple(first.data.train)
    version = finish(bot, first, ALL_TAUGHT)
    memory.save(Memory(rows={"replay": kept}), version.folder / MEMORY)
    marked = curate.forget(bot, kept[0].key, "ann", "wrong")
    assert [each.version for each in marked.retraining.places] == [version.id]
    put(bot, "more.jsonl", rows("hill", 3))
    made = open_draft(bot, ALL_TAUGHT, version, Listener())
    assert isinstance(made, Draft)
    replayed = rounds._memory(made, ALL_TAUGHT, Listener()).rows["replay"]
    assert [row.key for row in replayed] == [row.key for row in kept[1:]]
