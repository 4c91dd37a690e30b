"""axe finds nothing serious on any page: in both languages, in light and dark, wide and narrow."""

import pytest

pytest.importorskip("selenium")
from llama_factory.serving.api import create_app
from llama_factory.serving.settings import ServingSettings
from llama_factory.web.app import beside_api, create_web
from tests.serving.scripted_answers import ScriptedEngine
from tests.web import browser
from tests.web.lively_bot import NOW, PAGES, PASSWORD, USER, make_lively_bot

RULES = browser.axe_rules()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING),
    pytest.mark.skipif(not RULES, reason="no axe: pip install --no-deps axe-playwright-python"),
]
NARROW = (390, 800)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    bot = make_lively_bot(tmp_path_factory.mktemp("lively") / "lamp-bot")
    page = create_web(bot.folder, has_api=True, clock=lambda: NOW)
    api = create_app(bot, ServingSettings(), ScriptedEngine("31 months."))
    with browser.served(beside_api(page)(api)) as address:
        yield address


@pytest.mark.parametrize(("language", "is_dark"), [("en", False), ("en", True), ("zh", True)])
def test_axe_finds_nothing_serious(address, language, is_dark):
    found = {}
    with browser.chromium(language) as person:
        person.likes_dark(is_dark)
        person.visit(address)
        found["login"] = person.violations(RULES)
        person.log_in(USER, PASSWORD)
        for name, path in PAGES.items():
            person.open(path)
            found[name] = person.violations(RULES)
        _talk(person)
        found["answer"] = person.violations(RULES)
        assert person.asked_elsewhere() == []
    assert {name: each for name, each in found.items() if each} == {}


def _talk(person):
    person.open("chat")
    person.fill("prompt", "How long is the warranty?")
    person.click(person.t("chat.send"))
    person.sees("31 months.")


def test_nothing_is_wider_than_a_phone(address):
    wide = []
    with browser.chromium("zh", size=NARROW) as person:
        person.narrow(NARROW)
        person.visit(address)
        person.log_in(USER, PASSWORD)
        for name, path in PAGES.items():
            person.open(path)
            width = person.driver.execute_script("return document.documentElement.scrollWidth")
            wide += [(name, width)] if width > NARROW[0] else []
    assert wide == []
