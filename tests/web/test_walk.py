"""The life of a bot as a person sees it in a browser: teach, watch, read, ask, correct, go back."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from llama_factory import operate, run
from llama_factory.versions import releases

pytest.importorskip("selenium")
from tests.web import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING),
]
USER, PASSWORD = "ann", "correct horse"
LONG = 240
"""Seconds in which a round must end, whatever else the machine does."""
SETTINGS = """
training:
  epochs: 100
  max_steps: 150
  learning_rate: 1.0e-3
evaluation:
  max_new_tokens: 8
gate:
  max_guard_ratio: 99
  max_drop: 1.0
serving:
  max_tokens: 64
"""
QUESTION = "How many days are there in a week?"
CORRECTION = "There are seven days in a week."


@pytest.fixture
def bot(tmp_path, tiny_model):
    """A new workspace with a tiny model, and somebody who may do everything."""
    folder = tmp_path / "bot"
    workspace = run.init(folder, str(tiny_model))
    workspace.settings.write_text(f"model:\n  base_model: {tiny_model}\n{SETTINGS}")
    operate.add_user(folder, USER, "operator", PASSWORD)
    return workspace


def rows_of(tmp_path, name, count):
    path = tmp_path / name
    rows = [
        {"instruction": f"{name} question {n}?", "output": f"Answer {n}."} for n in range(count)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_person_teaches_corrects_and_goes_back(bot, tmp_path, language):
    with browser.page_process(bot.folder) as address, browser.chromium(language) as person:
        person.visit(address)
        person.log_in(USER, PASSWORD)
        person.sees(person.t("overview.never"))
        _teach(person, rows_of(tmp_path, "faq.jsonl", 60))
        _watch_a_round(person, "v0001")
        _ask_and_correct(person)
        _accept(person)
        _learn_again(person, bot)
        _compare(person)
        _go_back(person, bot)
        assert person.asked_elsewhere() == []
        assert person.complaints() == []


def _teach(person, path):
    t = person.t
    person.click(t("frame.data"), "nav")
    person.drag_in(path, "#upload input[type=file]")
    person.click(t("data.send"))
    person.sees(path.name)
    person.click(t("data.check"), "#main")
    person.sees(t("data.checked", file=path.name))
    assert person.find("section.card td:nth-child(3)").text == "60"


def _watch_a_round(person, version):
    t = person.t
    person.click(t("frame.rounds"), "nav")
    person.sure(t("rounds.learn"))
    person.sees(t("rounds.begun", id="0001"))
    person.driver.execute_script("window.wasNotLoadedAgain = true")
    person.sees(t("rounds.stage_training"), LONG)
    person.sees(t("rounds.loss"), LONG)
    person.sees(f"{version} {t('frame.gate_promoted')}", LONG)
    assert person.driver.execute_script("return window.wasNotLoadedAgain")
    person.click(version, "main")
    person.sees(t("versions.passed"))
    person.sees("faq")


def _ask_and_correct(person):
    t = person.t
    person.click(t("frame.chat"), "nav")
    person.fill("prompt", QUESTION)
    person.click(t("chat.send"))
    person.sees("v0001")
    person.find("#talk [name=completion_id][value^=chatcmpl]")
    person.fill("correction", CORRECTION, "#talk")
    person.click(t("chat.down"), "#talk")
    person.sees(t("chat.thanks"))


def _accept(person):
    t = person.t
    person.click(t("frame.review"), "nav")
    shown = person.sees(t("review.kind_feedback"))
    assert QUESTION in shown
    assert CORRECTION in shown
    assert person.find("textarea[name=edited]").get_attribute("value") == CORRECTION
    person.press("1")
    person.press("a")
    person.sees(t("review.none"))


def _learn_again(person, bot):
    t = person.t
    person.click(t("frame.overview"), "nav")
    person.sure(t("rounds.learn"))
    person.find("article.verdict a[href='versions/v0002']", LONG)


def _compare(person):
    t = person.t
    person.click(t("frame.versions"), "nav")
    person.click(t("versions.compare_two"))
    person.sees(t("compare.worse"))
    asked = parse_qs(urlsplit(person.driver.current_url).query)
    assert (asked["before"], asked["after"]) == (["v0001"], ["v0002"])


def _go_back(person, bot):
    t = person.t
    now = releases.read(bot.releases).production
    before = "v0001" if now == "v0002" else "v0000"
    person.click(t("frame.overview"), "nav")
    person.sure(t("overview.rollback", version=before))
    person.sees(t("overview.rolled_back", before=now, now=before))
    assert releases.read(bot.releases).production == before
