"""IP addresses of single machines, version 4 and 6.

Left alone: loopback, masks, multicast, networks written as 10.0.0.0/8, and the few addresses that
everybody shares (routers as they are sold, public name servers). Addresses inside a company
(192.168.7.20) count as private: they tell about its network. Four small numbers with dots are
a version or a section unless a word near them says otherwise.
"""

import ipaddress
import re
from collections.abc import Iterator

from llama_factory.text.private import PrivateKind, Span, register
from llama_factory.text.private.patterns import has_number, names_something_else, stands_near, words

_V4 = re.compile(r"(?<![\w.])(?<![\w.][-/])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)(?!-[A-Za-z])", re.ASCII)
_V6 = re.compile(
    r"(?<![\w.])(?<![0-9a-f]{4}:)(?<![0-9:]:)(?:[23][0-9a-f]{3}|f[cd][0-9a-f]{2}|fe80)(?:::?[0-9a-f]{1,4}){1,7}(?:::)?(?!\w|\.\w|::|:(?!\d{1,5}\b)\w)",
    re.IGNORECASE | re.ASCII,
)
_WORDS = words(
    r"ips?|ip[ _]?addr(?:ess)?|address|addr|hosts?|servers?|login|ssh|ping|client|remote|from|dns"
    r"|ip(?:v4|v6)|whitelist|blacklist|block|connect|https?:/",
    "地址|服务器|主机|登录|来源|网关|白名单|黑名单|连接|从|访问",
)
_VERSION = words(r"v[ .]?$|ver|version|release|build|section|chapter|rfc", "版本|第|章|节")
_SHARED = frozenset(
    (
        *("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "114.114.114.114", "223.5.5.5"),
        *("192.168.0.1", "192.168.1.1", "192.168.0.0", "10.0.0.1", "10.0.0.0", "172.16.0.0"),
        *("2001:4860:4860::8888", "2606:4700:4700::1111"),
    )
)
_SMALL = 32


def _find(text: str) -> Iterator[Span]:
    found = [match.span() for match in _V4.finditer(text) if _is_machine_v4(text, match)]
    found += [match.span() for match in _V6.finditer(text) if _is_machine(match[0])]
    yield from sorted(found)


def _is_machine_v4(text: str, match: re.Match[str]) -> bool:
    if not _is_machine(match[0]) or _is_network(text, match):
        return False
    if stands_near(_VERSION, text, match.start(), reach=12):
        return False
    is_small = max(map(int, match[0].split("."))) < _SMALL
    if is_small or names_something_else(text, match.start()):
        return stands_near(_WORDS, text, match.start())
    return True


def _is_machine(written: str) -> bool:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    shared = address.is_loopback or address.is_unspecified or address.is_multicast
    first = int(written.split(".")[0]) if address.version == 4 else 1
    return not shared and 0 < first < 240 and str(address) not in _SHARED


def _is_network(text: str, match: re.Match[str]) -> bool:
    return match[0].endswith(".0") and text[match.end() : match.end() + 1] == "/"


def _has_two_colons(text: str) -> bool:
    return ":" in text and _V6_CLUE.search(text) is not None


_V6_CLUE = re.compile(r":[0-9A-Fa-f]{0,4}:")

register(PrivateKind("ip", _find, (has_number, _has_two_colons), str.lower))
