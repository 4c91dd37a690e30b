"""A person with a browser: Debian's Chromium, which can reach this machine and nothing else."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from starlette.types import ASGIApp

from llama_factory.web.strings import translate

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
MISSING = "" if CHROMIUM.exists() and DRIVER.exists() else (
    "no Chromium: apt-get install chromium chromium-driver fonts-wqy-microhei"
)  # fmt: skip
SEVERE = ("serious", "critical")
OWN = ("data:", "blob:", "about:", "chrome:", "devtools:")
"""Addresses that are no request to anybody."""
PATIENCE = 60.0
"""Seconds in which a page must show what it is to show; a busy machine is slow."""
NOT_YET = WebDriverException
"""Not there, not to be pressed, or replaced while it was read: the page is live."""


@contextmanager
def page_process(folder: Path, *words: str) -> Iterator[str]:
    """`llama-factory web` in a process of its own.

    Args:
        folder: the workspace.
        words: more of the command.

    Yields:
        The page's address.
    """
    command = [sys.executable, "-m", "llama_factory", "web", str(folder), "--port", "0", *words]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADIO_")}
    with (folder.parent / "page.log").open("w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()
                process.communicate()


def _address(process: "subprocess.Popen[str]", log: Any) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if " page " in line:
            return line.split()[-1]
    log.seek(0)
    raise AssertionError(f"the page did not start: {log.read()[-2000:]}")


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """An app on a port of this process.

    Yields:
        The address of its first page.
    """
    how = uvicorn.Config(app, port=0, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(how)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def chromium(
    language: str = "en", *, size: tuple[int, int] = (1280, 900), more: Sequence[str] = ()
) -> Iterator["Person"]:
    """Somebody with a new browser.

    Args:
        language: that the browser asks for.
        size: of the window, in pixels.
        more: of the browser's flags.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in (
        *("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"window-size={size[0]},{size[1]}",
        *more,
    ):
        options.add_argument(f"--{word}")
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    try:
        yield Person(driver, language)
    finally:
        driver.quit()


class Person:
    """Looks, clicks and types. Everything waits until it is there, for `PATIENCE` seconds.

    Attributes:
        driver: selenium's.
        language: in which texts are looked for.
        address: of the first page; set by `visit`.
    """

    def __init__(self, driver: webdriver.Chrome, language: str) -> None:
        self.driver = driver
        self.language = language
        self.address = ""
        self._asked: list[str] = []

    def t(self, key: str, **values: object) -> str:
        """A text of the catalogue in this person's language."""
        return translate(self.language, key, values)

    def visit(self, address: str) -> None:
        """Open a page by its first address."""
        self.address = address
        self.driver.get(address)

    def open(self, path: str = "") -> None:
        """Open a page below the first one."""
        self.driver.get(f"{self.address}{path}")

    def sees(self, text: str, seconds: float = PATIENCE) -> str:
        """Wait for a text; gives all that is on the page then."""
        found: str = self._until(lambda: self._text_with(text), f"'{text}' is not shown", seconds)
        return found

    def _text_with(self, text: str) -> str:
        shown = self.driver.find_element(By.TAG_NAME, "body").text
        return shown if text in shown else ""

    def until_text(self, selector: str, text: str) -> None:
        """Wait until what a CSS selector finds has this text."""
        self._until(
            lambda: text in self.driver.find_element(By.CSS_SELECTOR, selector).text,
            f"{selector} has no '{text}'",
        )

    def find(self, selector: str, seconds: float = PATIENCE) -> WebElement:
        """What a CSS selector finds, once it is there."""
        found: WebElement = self._until(
            lambda: self.driver.find_element(By.CSS_SELECTOR, selector), f"no {selector}", seconds
        )
        return found

    def click(self, label: str, within: str = "body") -> None:
        """Press a button, link or summary of this text, or else one that begins with it."""

        def press() -> bool:
            places = f"{within} button, {within} a, {within} summary"
            there = self.driver.find_elements(By.CSS_SELECTOR, places)
            shown = [(each, each.text) for each in there if each.is_displayed()]
            exact = [e for e, t in shown if label in (t, e.get_attribute("aria-label"))]
            found = [*exact, *(each for each, text in shown if text.startswith(label))]
            if found:
                found[0].click()
            return bool(found)

        self._until(press, f"nothing to press says '{label}'")

    def sure(self, label: str, within: str = "main") -> None:
        """Press a button that asks back, and confirm."""
        self.click(label, within)
        self.click(self.t("frame.confirm"), "details[open]")

    def fill(self, name: str, text: str, within: str = "main") -> None:
        """Type into a field."""

        def write() -> bool:
            field = self.driver.find_element(By.CSS_SELECTOR, f"{within} [name='{name}']")
            field.clear()
            field.send_keys(text)
            return True

        self._until(write, f"no field '{name}'")

    def press(self, key: str) -> None:
        """Press a key while no field is being typed in."""
        self.driver.find_element(By.TAG_NAME, "body").send_keys(key)

    def drag_in(self, path: Path, selector: str) -> None:
        """Drop a file of the desktop onto an element."""
        target = self.find(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
        box = self.driver.execute_script(
            "const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.width, r.height]",
            target,
        )
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            at = {"x": box[0] + box[2] / 2, "y": box[1] + box[3] / 2}
            event = {"type": kind, "data": data, **at}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)

    def log_in(self, name: str, password: str) -> None:
        """As a user."""
        self.fill("user", name)
        self.fill("password", password)
        self.click(self.t("login.enter"), "main")

    def likes_dark(self, is_dark: bool) -> None:
        """What the system of this person prefers."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def narrow(self, size: tuple[int, int]) -> None:
        """Look on a screen of this size, as a phone's."""
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def asked(self) -> list[str]:
        """Every address that the browser has asked so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._asked.append(message["params"]["request"]["url"])
        return self._asked

    def asked_elsewhere(self) -> list[str]:
        """Addresses that are not this page's."""
        return [each for each in self.asked() if not each.startswith((self.address, *OWN))]

    def complaints(self) -> list[str]:
        """What the browser complained of: errors of scripts, refused styles, failed requests."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def violations(self, rules: str) -> list[str]:
        """What axe finds on the page that is open, in words.

        Args:
            rules: the text of axe's script.
        """
        self.driver.execute_script(rules)
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',"
            " 'best-practice']}).then((r) => done(r.violations), (e) => done(String(e)));"
        )
        assert isinstance(found, list), found
        return [_violation(each) for each in found if each["impact"] in SEVERE]

    def _until(self, look: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        until = time.monotonic() + seconds
        while True:
            try:
                if found := look():
                    return found
            except NOT_YET:
                pass
            if time.monotonic() > until:
                shown = self.driver.find_element(By.TAG_NAME, "body").text
                raise AssertionError(f"{what} on {self.driver.current_url}:\n{shown[:3000]}")
            time.sleep(0.1)


def axe_rules() -> str:
    """The script of axe; empty where the package that carries it is not installed.

    The package's own code is not imported: it wants another driver of browsers.
    """
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        return ""
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


def _violation(found: dict[str, Any]) -> str:
    places = [f"{each['html'][:160]} ({each['failureSummary'][:300]})" for each in found["nodes"]]
    return f"{found['impact']} {found['id']}: {found['help']}\n  " + "\n  ".join(places[:4])
