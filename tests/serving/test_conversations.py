"""Conversations that feedback may speak of: masked, found by id, deleted after their days."""

import errno
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from llama_factory.core.types import Example, Message
from llama_factory.data.cleaning.private_data import PrivateData
from llama_factory.serving import conversations as store
from llama_factory.serving.conversations import Conversations, KeptConversation, user_hash
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

SETTINGS = ServingSettings()


@pytest.fixture
def bot(tmp_path):
    return Workspace(tmp_path / "bot")


def said(number=0, text="How long?", answer="24 months", **more):
    turns = (Message("user", text), Message("assistant", answer))
    completion_id = more.pop("completion_id", f"chatcmpl-{number}")
    row = Example(turns, "", "", 0)
    return KeptConversation(completion_id, 0, "2026-11-30T10:00:00+00:00", "v0001", "ann", "", row)


def days(bot):
    return sorted(path.name for path in bot.feedback.glob("*.jsonl"))


def day(ago=0):
    return str((datetime.now(UTC) - timedelta(days=ago)).date())


def test_a_conversation_is_found_at_once_and_after_a_restart(bot):
    kept = Conversations(bot, SETTINGS)
    for number in range(300):
        kept.keep(said(number, text=f"question {number}"))
    assert kept.find("chatcmpl-299").row.messages[0].content == "question 299"
    kept.close()
    again = Conversations(bot, SETTINGS)
    assert again.find("chatcmpl-17") == said(17, text="question 17")
    assert again.find("chatcmpl-300") is None
    assert again.find("\ud800") is None


def test_two_servers_find_what_the_other_kept(bot):
    one, other = Conversations(bot, SETTINGS), Conversations(bot, SETTINGS)
    one.keep(said(1))
    one.flush(10)
    assert other.find("chatcmpl-1") == said(1)
    other.keep(said(2))
    other.flush(10)
    assert one.find("chatcmpl-2") == said(2)


def test_private_data_is_masked_before_anything_is_written(bot):
    kept = Conversations(bot, SETTINGS)
    kept.keep(said(text="I am ann.smith@example.com", answer="Hello ann.smith@example.com"))
    turns = kept.find("chatcmpl-0").row.messages
    assert [turn.content for turn in turns] == ["I am [EMAIL]", "Hello [EMAIL]"]
    assert not [p for p in bot.folder.rglob("*") if p.is_file() and b"ann.smith" in p.read_bytes()]


def test_masking_follows_the_workspace_and_never_drops(bot):
    private = PrivateData(kinds={"email": "drop"}, public=("help@example.com",))
    kept = Conversations(bot, SETTINGS, private)
    kept.keep(said(text="ann@example.com", answer="Write to help@example.com"))
    turns = kept.find("chatcmpl-0").row.messages
    assert [turn.content for turn in turns] == ["[EMAIL]", "Write to help@example.com"]


def test_days_that_are_over_are_deleted(bot):
    bot.feedback.mkdir(parents=True)
    for ago in (3, 2, 1):
        (bot.feedback / f"conversations-{day(ago)}.jsonl").write_text("")
    (bot.feedback / f"feedback-{day(9)}.jsonl").write_text("")
    kept = Conversations(bot, ServingSettings(feedback_days=1))
    kept.keep(said())
    kept.flush(10)
    conversations = [f"conversations-{day(1)}.jsonl", f"conversations-{day(0)}.jsonl"]
    assert days(bot) == [*conversations, f"feedback-{day(9)}.jsonl"]


def test_nothing_is_kept_for_zero_days(bot):
    kept = Conversations(bot, ServingSettings(feedback_days=0))
    kept.keep(said())
    assert kept.find("chatcmpl-0") is None
    assert not bot.feedback.exists()


@pytest.mark.parametrize(("which", "expected"), [("none", 0), ("sampled", 26), ("all", 100)])
def test_conversations_are_kept_for_good_only_where_the_settings_say_so(bot, which, expected):
    settings = ServingSettings(log_conversations=which, log_fraction=0.25, feedback_days=0)
    kept = Conversations(bot, settings)
    for number in range(100):
        kept.keep(said(number))
    kept.close()
    path = bot.conversations / f"{day()}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    assert len(lines) == expected
    assert not bot.feedback.exists() or not days(bot)


def test_answers_never_wait_for_the_disk(bot, monkeypatch):
    is_free, real = threading.Event(), store.append_records

    def slow(*args):
        is_free.wait(10)
        real(*args)

    monkeypatch.setattr(store, "append_records", slow)
    monkeypatch.setattr(store, "MAX_WAITING_CHARACTERS", 1000)
    kept = Conversations(bot, SETTINGS)
    for number in range(1000):
        kept.keep(said(number))  # the queue is bounded: what does not fit is lost
    is_free.set()
    assert kept.flush(10)
    found = [number for number in range(1000) if kept.find(f"chatcmpl-{number}")]
    assert found
    assert len(found) < 500


def test_a_full_disk_loses_conversations_and_nothing_else(bot, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "append_records", full)
        kept = Conversations(bot, SETTINGS)
        kept.keep(said(1, text="a secret"))
        assert kept.find("chatcmpl-1") is None
    kept.keep(said(2))
    assert kept.find("chatcmpl-2") == said(2)
    assert "1 conversations are not kept" in caplog.text
    assert "secret" not in caplog.text


def test_what_a_crash_left_half_written_spoils_nothing(bot):
    kept = Conversations(bot, SETTINGS)
    kept.keep(said(1))
    kept.close()
    path = bot.feedback / f"conversations-{day()}.jsonl"
    with path.open("a") as file:
        file.write('{"name": "chatcmpl-2/0", "row"')
    again = Conversations(bot, SETTINGS)
    assert again.find("chatcmpl-2") is None
    again.keep(said(3))
    assert again.find("chatcmpl-3") == said(3)
    assert again.find("chatcmpl-1") == said(1)


def test_very_long_conversations_are_not_kept(bot, monkeypatch):
    monkeypatch.setattr(store, "MAX_CHARACTERS", 100)
    kept = Conversations(bot, SETTINGS)
    kept.keep(said(1, text="x" * 101))
    assert kept.find("chatcmpl-1") is None


def test_users_are_kept_as_hashes_that_need_a_secret(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert user_hash(one, "ann") == user_hash(one, "ann")
    assert user_hash(one, "ann") not in (user_hash(one, "bob"), user_hash(other, "ann"), "ann")
    assert user_hash(one, "") == ""
    assert json.dumps(user_hash(one, "\ud800"))
