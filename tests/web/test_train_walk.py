"""The page of runs in Chromium: what the form comes to while one writes, problems, search, axe."""

import pytest

pytest.importorskip("selenium")
from llama_factory.web.app import create_web
from tests.web import browser
from tests.web.test_train import put_rows, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING),
]


NO_NUMBER = {"en": "unable to parse string as a number", "zh": "必须是数字，此文本无法读作数字"}


def fields_shown(person):
    fields = person.driver.find_elements("css selector", "#settings [data-field]")
    return [each.get_attribute("data-field") for each in fields if each.is_displayed()]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_person_fills_the_form_and_compares_runs(bot, language):
    put_rows(bot.folder)
    write_run(bot.folder, "one", 4, [3.0, 2.0])
    write_run(bot.folder, "two", 8, [3.0, 1.0])
    with browser.served(create_web(bot.folder)) as address, browser.chromium(language) as person:
        person.visit(address)
        person.click(person.t("frame.train"), "nav")
        person.fill("training.epochs", "many")
        person.sees(NO_NUMBER[language])
        person.fill("training.epochs", "5")
        person.find("input[name='data.dataset']").click()
        person.until_text("#preview", "epochs: 5.0")
        person.until_text("#preview", "dataset: [faq]")
        person.find("[id='f-model.adapter'] option:nth-child(5)").click()  # another adapter
        person.until_text("[id='p-model.adapter']", "model.adapter.targets")
        person.until_text("#preview", "adapter: ia3")
        search = person.find("#search")
        search.send_keys("warmup steps")
        assert fields_shown(person) == ["training.warmup_steps"]
        search.clear()
        rules = browser.axe_rules()
        if rules:
            assert person.violations(rules) == []
        person.open("train/compare")
        for name in ("outputs/one", "outputs/two"):
            person.find(f"input[value='{name}']").click()
        person.click(person.t("train.compare"))
        person.until_text("tr.differs", "model.adapter.rank")
        if rules:
            assert person.violations(rules) == []
        assert person.asked_elsewhere() == []
        assert person.complaints() == []
