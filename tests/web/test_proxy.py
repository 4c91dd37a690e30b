"""The page behind a proxy, under a path, another port and TLS: log-in, forms, streams work."""

import pytest

pytest.importorskip("selenium")
from llama_factory import operate, run
from llama_factory.web.app import create_web
from tests.web import browser, proxies

needs_nginx = pytest.mark.skipif(proxies.NGINX is None, reason="no nginx: apt-get install nginx")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING),
    pytest.mark.skipif(proxies.OPENSSL is None, reason="no openssl: apt-get install openssl"),
]
PATH = "/some/path/"
PASSWORD = "correct horse"
ANY_CERTIFICATE = ("ignore-certificate-errors",)


@pytest.mark.parametrize(
    "proxy", [pytest.param(proxies.nginx, marks=needs_nginx), proxies.small]
)  # fmt: skip
def test_log_in_forms_and_the_stream_work(bot, tmp_path, proxy):
    operate.add_user(bot, "ann", "operator", PASSWORD)
    folder = tmp_path / "proxy"
    folder.mkdir()
    with (
        browser.served(create_web(bot.folder)) as page,
        proxy(page, PATH, folder) as address,
        browser.chromium(more=ANY_CERTIFICATE) as person,
    ):
        person.visit(address)
        assert person.driver.current_url == f"{address}login?then="
        person.log_in("ann", PASSWORD)
        person.sees(person.t("overview.now"))
        _has_a_safe_session(person)
        _changes_the_language(person)
        _writes_a_note(person)
        _follows(person, bot)
        assert person.asked_elsewhere() == []
        assert person.complaints() == []


def _has_a_safe_session(person):
    (cookie,) = [e for e in person.driver.get_cookies() if e["name"].startswith("lf_session")]
    assert cookie["secure"]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"


def _changes_the_language(person):
    person.click("中文", "header")
    person.language = "zh"
    person.sees(person.t("overview.now"))


def _writes_a_note(person):
    person.open("versions/v0001")
    person.fill("text", "behind a proxy")
    person.click(person.t("versions.note_add"), "main")
    person.sees(person.t("versions.noted"))
    assert person.driver.current_url.endswith(f"{PATH}versions/v0001")


def _follows(person, bot):
    person.open()
    person.driver.execute_script("window.wasNotLoadedAgain = true")
    assert "v0003" in person.find("#overview .big").text
    run.rollback(bot)
    person.until_text("#overview .big", "v0001")
    assert person.driver.execute_script("return window.wasNotLoadedAgain")
