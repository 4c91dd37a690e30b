"""What many look at is read once, and again as soon as its files or the time say so."""

import threading

import pytest

from llama_factory import oversee, upkeep
from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.web.shared import OF_LOOP, OF_VERSIONS, SECONDS, SharedReads


class Reading:
    """Counts how often it is read."""

    def __init__(self):
        self.now, self.count = 0.0, 0
        self.shared = SharedReads(lambda: self.now)

    def __call__(self):
        self.count += 1
        return self.count

    def ask(self, bot, topics=OF_LOOP):
        return self.shared.read(bot, "it", topics, self)


def test_what_did_not_change_is_read_once_until_some_time_passed(bot):
    reading = Reading()
    assert [reading.ask(bot), reading.ask(bot)] == [1, 1]
    reading.now = SECONDS
    assert reading.ask(bot) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda bot: files.write_text(bot.inbox / "a.jsonl", "{}\n"),
        lambda bot: (bot.inbox / "waits.jsonl").write_text("{}\n{}\n"),
        lambda bot: oversee.pause(bot, "ann"),
        lambda bot: upkeep.note(bot, "v0001", "x", "ann"),
        lambda bot: bot.building.mkdir(),
    ],
)
def test_what_changed_is_read_again(bot, change):
    (bot.inbox / "waits.jsonl").write_text("{}\n")
    reading = Reading()
    reading.ask(bot)
    change(bot)
    assert reading.ask(bot) == 2


def test_what_cannot_be_read_is_tried_again(bot):
    def broken():
        raise VersionError("damaged")

    reading = Reading()
    with pytest.raises(VersionError):
        reading.shared.read(bot, "it", OF_VERSIONS, broken)
    assert reading.ask(bot, OF_VERSIONS) == 1


def test_who_asks_meanwhile_waits_for_the_same_reading(bot):
    shared, begun, go_on, count = SharedReads(), threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        go_on.wait(30)
        count.append(1)
        return "read"

    def ask():
        answers.append(shared.read(bot, "it", OF_VERSIONS, slow))

    answers = []
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for each in threads:
        each.start()
    begun.wait(30)
    go_on.set()
    for each in threads:
        each.join(30)
    assert (answers, count) == (["read"] * 5, [1])
