"""Pictures of every page in both languages, light and dark, wide and on a phone: to be looked at.

Usage: page_pictures.py [FOLDER] [--only en-light-wide] [--guide]; the last makes the small ones of
the guide in `docs/pictures/`.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image

from llama_factory.serving.api import create_app
from llama_factory.serving.settings import ServingSettings
from llama_factory.web.app import beside_api, create_web
from tests.serving.scripted_answers import ScriptedEngine
from tests.web import browser
from tests.web.lively_bot import NOW, PAGES, PASSWORD, ROWS, USER, make_lively_bot

WIDE, PHONE = (1280, 900), (390, 844)
GUIDE = Path(__file__).parents[1] / "docs" / "pictures"
IN_GUIDE = ("overview", "rounds", "versions", "version", "data", "review", "chat", "train")
GUIDE_SIZE = (1120, 760)
TALLEST = 6000
COLOURS = 64


@contextmanager
def lively_page() -> Iterator[str]:
    """The page of a bot in the middle of its life; its answers are written down."""
    with tempfile.TemporaryDirectory() as scratch:
        bot = make_lively_bot(Path(scratch) / "lamp-bot")
        page = create_web(bot.folder, has_api=True, clock=lambda: NOW)
        api = create_app(bot, ServingSettings(), ScriptedEngine(ROWS[0][1]))
        with browser.served(beside_api(page)(api)) as address:
            yield address


def take(
    address: str, folder: Path, language: str, *, is_dark: bool, size: tuple[int, int], whole: bool
) -> list[Path]:
    """Take one picture of each page.

    Args:
        address: of the page.
        folder: for the pictures.
        language: of the browser.
        is_dark: whether the system prefers dark colours.
        size: of the screen.
        whole: also what is below the screen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with browser.chromium(language, size=size) as person:
        person.likes_dark(is_dark)
        person.narrow(size)
        person.visit(address)
        made.append(_shoot(person, folder / "login.png", size, whole=whole))
        person.log_in(USER, PASSWORD)
        person.sees(person.t("overview.now"))
        for name, path in PAGES.items():
            person.open(path)
            if name == "chat":
                _talk(person)
            made.append(_shoot(person, folder / f"{name}.png", size, whole=whole))
    return made


def _talk(person: browser.Person) -> None:
    person.fill("prompt", ROWS[0][0])
    person.click(person.t("chat.send"))
    person.sees(ROWS[0][1])


def _shoot(person: browser.Person, path: Path, size: tuple[int, int], *, whole: bool) -> Path:
    if whole:
        height = person.driver.execute_script("return document.documentElement.scrollHeight")
        person.narrow((size[0], max(size[1], min(TALLEST, height))))
    picture = Image.open(io.BytesIO(person.driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLOURS).save(path, optimize=True)
    if whole:
        person.narrow(size)
    return path


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("page-pictures"))
    parser.add_argument("--guide", action="store_true", help="those of docs/pictures")
    parser.add_argument("--only", default="", help="such as en-light-wide")
    chosen = parser.parse_args()
    with lively_page() as address:
        if chosen.guide:
            _guide(address)
            return
        for language in ("en", "zh"):
            for is_dark in (False, True):
                for shape, size in (("wide", WIDE), ("phone", PHONE)):
                    name = f"{language}-{'dark' if is_dark else 'light'}-{shape}"
                    if chosen.only in name:
                        folder = chosen.folder / name
                        take(address, folder, language, is_dark=is_dark, size=size, whole=True)
                        print(folder)


def _guide(address: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made = take(address, Path(scratch), "en", is_dark=False, size=GUIDE_SIZE, whole=False)
        for path in made:
            if path.stem in IN_GUIDE:
                target = GUIDE / f"web-{path.stem}.png"
                target.write_bytes(path.read_bytes())
                print(f"{target} {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
