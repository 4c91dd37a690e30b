"""Keys, tokens and passwords: by their issuer's prefix, or as the value that a name is given.

A value without a prefix must look random, or like a password: placeholders and code stay.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from llama_factory.text.private import Found, PrivateKind, Span, claim, register

_ISSUED = {
    **dict.fromkeys(("AKIA", "ASIA"), r"[A-Z0-9]{16}"),  # AWS
    "LTAI": r"[A-Za-z0-9]{12,24}",  # Alibaba Cloud
    "AKID": r"[A-Za-z0-9]{32}",  # Tencent Cloud
    "AIza": r"[\w-]{35}",  # Google
    "ya29.": r"[\w-]{30,255}",
    "eyJ": r"[\w-]{8,4000}\.eyJ[\w-]{8,8000}\.[\w-]{0,4000}",  # JSON web tokens
}
_ISSUED_WITH_UNDERSCORE = {
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"[A-Za-z0-9]{36,255}"),
    "github_pat_": r"\w{50,255}",
    "hf_": r"[A-Za-z0-9]{30,64}",
    "npm_": r"[A-Za-z0-9]{36}",
    "gsk_": r"[A-Za-z0-9]{40,64}",
    "whsec_": r"[A-Za-z0-9]{24,64}",
    **dict.fromkeys(("sk_live_", "rk_live_", "sk_test_", "rk_test_"), r"[A-Za-z0-9]{16,255}"),
}
_ISSUED_WITH_DASH = {
    "sk-": r"(?=[\w-]*\d)[\w-]{20,255}",  # OpenAI, Anthropic and those that follow them
    "xox": r"[abeoprs]-[A-Za-z0-9-]{10,255}",  # Slack
    "glpat-": r"[\w-]{20,64}",
    "pypi-": r"[\w-]{40,255}",
}
_TOKENS = {
    prefix: re.compile(rf"{re.escape(prefix)}{rest}(?![A-Za-z0-9])", re.ASCII)
    for group in (_ISSUED, _ISSUED_WITH_UNDERSCORE, _ISSUED_WITH_DASH)
    for prefix, rest in group.items()
}
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]{0,10000}?-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*)"
)
_IN_ADDRESS = re.compile(r"://([^\s/:@\"'<>]{1,128}:[^\s/@\"'<>]{1,128})@")

_PASSWORD_NAMES = ("password", "passwd", "passphrase", "passcode", "pwd", "密码", "口令")
_KEY_NAMES = ("secret", "token", "bearer", "credential", "密钥", "秘钥", "令牌", "key")
_KEY_OF_WHAT = re.compile(
    r"(?:api|access|secret|private|public|account|app|master|signing|encryption|auth)[ _-]?$",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"(?:[ _-]?(?:key|id|token))?[\"'`]?\s{0,3}(?:=>|:=|={1,3}|:|is\b|是|为)?\s{0,3}"
    r"(?:(?P<quote>[\"'`“])(?P<quoted>[^\"'`”\n]{4,512})[\"'`”]"
    r"|(?P<bare>[^\s\"'`“”<>(){}\[\],;，。；、！？\u4e00-\u9fff]{6,512})(?![(\[]))",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"your|example|placeholder|change_?me|x{4}|\*{3}|\.{3}|…|\$\{|\{\{|<|dummy|redacted"
    r"|user(?:name)?:pass",
    re.IGNORECASE,
)
_FILLED_IN = re.compile(r"your|x{4}|placeholder|token_?here|key_?here", re.IGNORECASE)
_CODE = re.compile(
    r"[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]\w*)+|[a-z_]+|--[a-z-]+|/.*|[A-Za-z]+://.*"
)
_MIN_OPAQUE, _MIN_PASSWORD = 16, 6
_MIN_BITS = 3.0


def _find(text: str) -> Iterator[Span]:
    """All secrets; what an issuer's prefix gives away goes before what a name is given."""
    sure = [match.span() for match in _PEM.finditer(text)]
    sure += [m.span(1) for m in _IN_ADDRESS.finditer(text) if not _PLACEHOLDER.search(m[1])]
    taken: list[Found] = []
    for start, end in (*sure, *_issued(text), *_assigned(text)):
        claim(taken, (start, end, "secret"))
    yield from ((start, end) for start, end, _ in taken)


def _issued(text: str) -> Iterator[Span]:
    for prefix, pattern in _TOKENS.items():
        for at in _places(text, prefix):
            match = None if _is_inside_word(text, at) else pattern.match(text, at)
            if match and not _FILLED_IN.search(match[0]) and _bits(match[0]) >= _MIN_BITS:
                yield match.span()


def _assigned(text: str) -> Iterator[Span]:
    """Values that follow a name such as password, 密码 or api_key."""
    lower = _lower(text)
    for name in (*_PASSWORD_NAMES, *_KEY_NAMES):
        for at in _places(lower, name):
            if name == "key" and not _KEY_OF_WHAT.search(text, max(0, at - 12), at):
                continue
            span = _value(text, at + len(name), is_password=name in _PASSWORD_NAMES)
            if span:
                yield span


def _lower(text: str) -> str:
    """Small letters without a change of length: `İ` would become two characters."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _value(text: str, start: int, *, is_password: bool) -> Span | None:
    """The span of the value that stands at `start`, where it looks like a secret."""
    match = _VALUE.match(text, start)
    if match is None or (match.start("bare") == start and text[start - 1].isascii()):
        return None
    name = "quoted" if match["quoted"] else "bare"
    value = match[name].rstrip(".,:;!?" if name == "bare" else "")
    if " " in value or _PLACEHOLDER.search(value) or _CODE.fullmatch(value):
        return None
    begin = match.start(name)
    looks_secret = _is_password(value) if is_password else _is_random(value)
    return (begin, begin + len(value)) if looks_secret else None


def _places(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + len(word))


def _is_inside_word(text: str, at: int) -> bool:
    before = text[at - 1 : at]
    return before.isascii() and before.isalnum()


def _is_password(value: str) -> bool:
    """Six characters or more with a digit, or a symbol among the letters."""
    if len(value) < _MIN_PASSWORD or not any(c.isalnum() for c in value):
        return False
    return any(c.isdigit() for c in value) or any(c in "!@#$%^&*" for c in value)


def _is_random(value: str) -> bool:
    """Long, with letters and digits in no pattern; a name such as `get_token_for_user` is not."""
    if len(value) < _MIN_OPAQUE:
        return False
    is_mixed = any(c.isdigit() for c in value) or (value.lower() != value and len(value) > 30)
    return is_mixed and any(c.isalpha() for c in value) and _bits(value) >= _MIN_BITS


def _bits(value: str) -> float:
    """Shannon entropy of the characters, in bits each."""
    fractions = [count / len(value) for count in Counter(value).values()]
    return -sum(part * math.log2(part) for part in fractions)


def _has_secret_words(text: str) -> bool:
    if _has_any(text, _ISSUED) or ("@" in text and "://" in text):
        return True
    if "_" in text and _has_any(text, _ISSUED_WITH_UNDERSCORE):
        return True
    if "-" in text and ("PRIVATE KEY" in text or _has_any(text, _ISSUED_WITH_DASH)):
        return True
    if not text.isascii() and _has_any(text, _CHINESE_NAMES):
        return True
    return _has_any(text.lower(), _ENGLISH_NAMES)


def _has_any(text: str, words: Iterable[str]) -> bool:
    return any(map(text.__contains__, words))


_CHINESE_NAMES = tuple(n for n in (*_PASSWORD_NAMES, *_KEY_NAMES) if not n.isascii())
_ENGLISH_NAMES = tuple(n for n in (*_PASSWORD_NAMES, *_KEY_NAMES) if n.isascii() and n != "key")
_ENGLISH_NAMES += ("api key", "api_key", "api-key", "apikey", "_key", "access key", "private key")

register(PrivateKind("secret", _find, (_has_secret_words,), str))
