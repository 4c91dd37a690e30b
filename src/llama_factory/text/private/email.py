"""E-mail addresses."""

import re
from collections.abc import Iterator

from llama_factory.text.private import PrivateKind, Span, register
from llama_factory.text.private.patterns import plain

# Bounded repeats keep the search linear on a text that is one long run of letters.
_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_NOBODYS = re.compile(
    r".*@\d+x\.(?:png|jpe?g|svg|webp)|your[._-]?(?:e?mail|name|address|username|account)?@.*"
    r"|.*@your[._-]?(?:domain|company|email|site)\..*",
    re.IGNORECASE,
)
"""Pictures for sharp screens (`logo@2x.png`), and addresses that the reader is to fill in."""
_IN_ADDRESS = re.compile(r"://[^\s/@?]*$")


def _find(text: str) -> Iterator[Span]:
    for match in _ADDRESS.finditer(text):
        if not _NOBODYS.fullmatch(match[0]) and not _is_login(text, match):
            yield match.span()


def _is_login(text: str, match: re.Match[str]) -> bool:
    """`git@github.com:team/app.git` and `ftp://user:password@host.org` are not for letters."""
    if _IN_ADDRESS.search(text, max(0, match.start() - 100), match.start()):
        return True
    return match[0].lower().startswith("git@") and text[match.end() : match.end() + 1] in (":", "/")


def _has_at_sign(text: str) -> bool:
    return "@" in text or "＠" in text


def _lower(value: str) -> str:
    return plain(value).lower()


register(PrivateKind("email", _find, (_has_at_sign,), _lower))
