"""What gate, loop and journal state, in Chinese: each kind has a text, and files keep the kinds."""

import copy
import html
import importlib
import pickle
import pkgutil
import re
import string

import pytest

from llama_factory import data, monitoring, oversee, rounds, versions
from llama_factory.core import files
from llama_factory.core.sentences import (
    KINDS,
    Sentence,
    SentenceKind,
    keep_kinds,
    kind_of_sentence,
    listed,
    restore_kinds,
)
from llama_factory.rounds import gate_sentences as gate
from llama_factory.rounds import loop_sentences as loop
from llama_factory.rounds.check import Check
from llama_factory.versions import releases
from llama_factory.versions.journal import Journal, JournalEntry
from llama_factory.versions.version import REPORT
from llama_factory.web.sentences import read_translations, translate_sentence


def names_of(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.fixture(scope="module")
def kinds():
    """All kinds that the rooms define."""
    for room in (data, monitoring, rounds, versions):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    return KINDS


def test_every_kind_has_a_chinese_text_with_the_same_values(kinds):
    chinese = read_translations("zh")
    assert len(kinds) > 60
    assert set(chinese) == set(kinds)
    for name, kind in kinds.items():
        assert names_of(chinese[name]) == names_of(kind.english), name
        has_words = any(letter.isalpha() for letter in re.sub(r"{\w+}", "", kind.english))
        assert any(letter >= "\u4e00" for letter in chinese[name]) or not has_words, name


def test_a_sentence_is_its_text_and_outlives_copies_and_files():
    inner = loop.DECIDED(version="v0003")
    outer = listed([gate.HELD(why=inner), "plain"])
    assert outer == "held: decided in v0003; plain"
    for made in (copy.deepcopy(outer), pickle.loads(pickle.dumps(outer))):
        assert translate_sentence("zh", made) == "暂缓：已在 v0003 中决定；plain"
    kept = keep_kinds({"why": outer, "all": [inner], "n": 1})
    assert kept["why"] == "held: decided in v0003; plain"
    back = restore_kinds(kept)
    assert back == {"why": outer, "all": [inner], "n": 1}
    assert translate_sentence("zh", back["all"][0]) == "已在 v0003 中决定"


def test_what_has_no_kind_stays_as_it_is_unless_its_text_is_known():
    assert translate_sentence("zh", "something old") == "something old"
    assert translate_sentence("zh", "rolled back") == "已回滚"
    assert translate_sentence("en", releases.ROLLED_BACK()) == "rolled back"
    strange = Sentence("x", "no.such_kind", {})
    assert translate_sentence("zh", strange) == "x"
    assert translate_sentence("zh", Sentence("y", "loop.decided", {})) == "y"


@pytest.mark.parametrize(
    "record",
    [
        {"why": "x", "sentences": 5},
        {"why": "x", "sentences": {"why": {"kind": "loop.decided"}}},
        {"why": "x", "sentences": {"why": {"text": "other", "kind": "a", "values": {}}}},
    ],
)
def test_damaged_kinds_leave_the_text(record):
    assert restore_kinds(record) == {"why": "x"}
    assert not isinstance(restore_kinds(record)["why"], Sentence)


def test_two_kinds_never_share_a_name():
    with pytest.raises(ValueError, match="two kinds"):
        kind_of_sentence("gate.held", "otherwise")
    assert KINDS["gate.held"] == SentenceKind("gate.held", "held: {why}")


def test_checks_journal_and_releases_keep_the_kinds(bot):
    check = Check("kept", False, gate.ONE_OF_MANY(text="v0001 faq", count=3))
    assert Check.from_json(check.to_json()) == check
    assert translate_sentence("zh", Check.from_json(check.to_json()).reason).startswith(
        "v0001 faq；"
    )
    assert Check.from_json({"name": "kept", "passed": True, "reason": "old"}).reason == "old"
    book = Journal(bot.journal)
    book.add(JournalEntry("round ended", "watcher", data={"text": loop.NOTHING_NEW(), "n": 1}))
    (event,) = book.events()
    assert event.data == {"text": "nothing new to learn", "n": 1}
    assert translate_sentence("zh", event.data["text"]) == "没有新内容可学"
    releases.hold(bot.releases, "v0002", gate.REFUSED(why=check.reason))
    assert translate_sentence("zh", releases.read(bot.releases).history[-1].why).startswith(
        "已拒绝"
    )


def test_the_pages_state_it_in_the_visitors_language(bot, page):
    reason = gate.OLD_BEYOND(task="v0001 faq", change="f1 0.9 -> 0.1", limit="0.02")
    path = bot.versions / "v0002" / REPORT
    checks = [Check("kept", False, reason).to_json()]
    report = files.read_json(path) | {"verdict": {"promoted": False, "checks": checks}}
    files.write_json(path, report)
    for address in ("/", "/versions/v0002", "/rounds"):
        text = html.unescape(page.text(address, **{"accept-language": "zh"}))
        assert "v0001 faq（旧）：f1 0.9 -> 0.1，超过允许的下降 0.02" in text
        assert "more than the allowed drop" in page.text(address)
    oversee.pause(bot, "ann")
    text = html.unescape(page.text("/", **{"accept-language": "zh"}))
    assert "没有等待学习的内容；ann 自 " in text
    assert "已在" not in text
    assert "暂停" in page.text("/monitor", **{"accept-language": "zh"})
