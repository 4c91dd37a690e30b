"""Each text of the page exists in both languages, and is used."""

import re
import string
from pathlib import Path

import pytest

from llama_factory.web import strings
from llama_factory.web.strings import choose_language, read_catalogue

WEB = Path(strings.__file__).parent
USED = re.compile(r"""(?:\bt|\btext|\bwords)\(\s*(?:request,\s*)?f?['"]([a-z]+\.[a-z_]*)""")


def names_of(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def used():
    files = [*WEB.rglob("*.py"), *WEB.rglob("*.jinja")]
    found = [match for path in files for match in USED.findall(path.read_text(encoding="utf-8"))]
    routes = "".join(path.read_text("utf-8") for path in (WEB / "routes").glob("*.py"))
    more = re.findall(r"\"([a-z]+\.[a-z_]+)\" if|else \"([a-z]+\.[a-z_]+)\"", routes)
    return {*found, *(each for pair in more for each in pair if each)}


def test_each_text_is_there_in_both_languages_with_the_same_values():
    for key, both in read_catalogue().items():
        assert sorted(both) == ["en", "zh"], key
        assert all(both.values()), key
        assert names_of(both["en"]) == names_of(both["zh"]), key


def test_each_text_that_is_used_is_known_and_each_known_one_is_used():
    known, asked = set(read_catalogue()), used()
    prefixes = tuple(each for each in asked if each.endswith("_") or each.endswith("."))
    missing = {each for each in asked - known if not each.endswith(("_", "."))}
    unused = {each for each in known - asked if not each.startswith(prefixes)}
    assert (missing, unused) == (set(), set())


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "fr,en;q=0.5,zh;q=0.4", "en"),
        ("", "zh;q=nonsense, en;q=0.1", "en"),
        ("zh", "en", "zh"),
        ("fr", "en", "en"),
    ],
)
def test_the_language_is_the_persons_or_the_browsers(chosen, accepted, language):
    assert choose_language(chosen, accepted) == language
