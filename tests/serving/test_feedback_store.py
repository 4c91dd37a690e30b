"""What callers say of answers: stored once, safely, by whoever says it."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from llama_factory.core.types import Example, Message
from llama_factory.data.sources.feedback import read_feedback
from llama_factory.serving import feedback as store
from llama_factory.serving.conversations import Conversations, KeptConversation, user_hash
from llama_factory.serving.errors import KeyReusedError, NotStoredError, UnknownCompletionError
from llama_factory.serving.feedback import FeedbackStore, Given
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace


@pytest.fixture
def bot(tmp_path):
    return Workspace(tmp_path / "bot")


def opened(bot):
    return FeedbackStore(bot, Conversations(bot, ServingSettings()))


@pytest.fixture
def desk(bot):
    kept = Conversations(bot, ServingSettings())
    for name in ("c1", "c2"):
        turns = (Message("user", "How long?"), Message("assistant", "12 months"))
        row = Example(turns, "", "", 0)
        kept.keep(KeptConversation(name, 0, "2026-11-30T10:00:00+00:00", "v0001", "ann", "u1", row))
    kept.flush(60)
    return FeedbackStore(bot, kept)


def on_disk(bot):
    return read_feedback(bot.feedback)


def test_feedback_is_stored_with_the_conversation_the_version_and_who(bot, desk):
    stored = desk.give(Given("c1", "down", correction="24 months", tags=("wrong",)), "key-1")
    (each,) = on_disk(bot).all
    assert each.id == stored.id
    user = user_hash(bot.feedback, "u1")
    assert (each.version, each.key, each.user, each.rating) == ("v0001", "key-1", user, "down")
    assert (each.row.answer, each.correction, each.tags) == ("12 months", "24 months", ("wrong",))
    assert stored.to_json()["object"] == "feedback"


def test_it_is_on_disk_before_it_is_answered(bot, desk, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), real(file)))
    desk.give(Given("c1", "up"), "ann")
    assert synced


def test_an_unknown_answer_is_refused(bot, desk):
    with pytest.raises(UnknownCompletionError, match="no answer 'c9'"):
        desk.give(Given("c9", "up"), "ann")
    with pytest.raises(UnknownCompletionError):
        desk.give(Given("c1", "up", index=1), "ann")
    assert on_disk(bot).all == ()


def test_the_same_key_and_body_is_stored_once_also_after_a_restart(bot, desk):
    first = desk.give(Given("c1", "down"), "ann", "k1")
    again = opened(bot).give(Given("c1", "down"), "ann", "k1")
    assert (first.is_new, again.is_new) == (True, False)
    assert first.to_json() == again.to_json()
    assert len(on_disk(bot).all) == 1


def test_the_same_key_with_another_body_is_refused(bot, desk):
    desk.give(Given("c1", "down"), "ann", "k1")
    for other in (Given("c1", "up"), Given("c2", "down"), Given("c1", "down", comment="x")):
        with pytest.raises(KeyReusedError):
            desk.give(other, "ann", "k1")
    assert desk.give(Given("c2", "up"), "bob", "k1").is_new  # another caller's key is another key


def test_an_old_request_sent_again_does_not_bring_its_rating_back(bot, desk):
    first = desk.give(Given("c1", "up"), "ann", "k1")
    second = desk.give(Given("c1", "down"), "ann", "k2")
    assert desk.give(Given("c1", "up"), "ann", "k1").id == first.id
    assert [each.id for each in on_disk(bot).current] == [second.id]


def test_later_feedback_of_the_same_caller_replaces_the_earlier(bot, desk):
    first = desk.give(Given("c1", "down"), "ann")
    other = desk.give(Given("c1", "down", user="bob"), "ann")
    second = desk.give(Given("c1", "down", correction="24 months"), "ann")
    assert second.replaces == first.id
    current = {each.id for each in on_disk(bot).current}
    assert current == {other.id, second.id}


def test_the_same_feedback_again_is_the_same(bot, desk):
    first = desk.give(Given("c1", "down", comment="no"), "ann")
    again = desk.give(Given("c1", "down", comment="no"), "ann")
    assert not again.is_new
    assert first.id == again.id


def test_private_data_in_corrections_and_comments_is_masked(bot, desk):
    given = Given(
        "c1", "down", correction="ask ann@x.org", comment="by bob@x.org", tags=("a@x.org",)
    )
    desk.give(given, "ann")
    (each,) = on_disk(bot).all
    assert (each.correction, each.comment, each.tags) == ("ask [EMAIL]", "by [EMAIL]", ("[EMAIL]",))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_is_said_and_leaves_nothing(bot, desk, monkeypatch, number):
    real = os.write

    def full(*_):
        raise OSError(number, os.strerror(number))

    desk.give(Given("c1", "down"), "ann")
    before = {path.name: path.read_bytes() for path in bot.feedback.glob("feedback-*")}
    with monkeypatch.context() as patch:
        patch.setattr(store, "append_records", full)
        with pytest.raises(NotStoredError, match="Nothing of it was kept"):
            desk.give(Given("c2", "down"), "ann", "k1")
    assert {path.name: path.read_bytes() for path in bot.feedback.glob("feedback-*")} == before
    assert desk.give(Given("c2", "down"), "ann", "k1").is_new
    assert real is os.write


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from llama_factory.versions.workspace import Workspace
from llama_factory.serving.settings import ServingSettings
from llama_factory.serving.conversations import Conversations
from llama_factory.serving.errors import NotStoredError
from llama_factory.serving.feedback import FeedbackStore, Given
bot = Workspace(Path(sys.argv[1]))
desk = FeedbackStore(bot, Conversations(bot, ServingSettings()))
size = max(p.stat().st_size for p in bot.feedback.glob("feedback-*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    desk.give(Given("c2", "down", comment="x" * 2000), "ann")
except NotStoredError as error:
    print("refused")
"""


@pytest.mark.slow
def test_a_line_that_does_not_fit_on_the_disk_is_gone_again(bot, desk):
    desk.give(Given("c1", "down"), "ann")
    (path,) = bot.feedback.glob("feedback-*.jsonl")
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(bot.folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "refused\n"
    assert path.read_bytes() == before


def test_many_callers_and_two_servers_lose_nothing(bot, desk):
    desks = [desk, opened(bot)]
    work = [
        threading.Thread(target=desks[n % 2].give, args=(Given("c1", "up", user=f"u{n}"), "ann"))
        for n in range(20)
    ]
    for each in work:
        each.start()
    for each in work:
        each.join()
    assert len({each.user for each in on_disk(bot).current}) == 20
    assert on_disk(bot).damaged == ()


def test_two_servers_agree_on_what_replaces_what(bot, desk):
    other = opened(bot)
    first = desk.give(Given("c1", "up"), "ann")
    second = other.give(Given("c1", "down"), "ann")
    third = desk.give(Given("c1", "up"), "ann")
    assert second.replaces == first.id
    assert third.replaces == second.id
