"""Labels of a task, and which of them an answer names: sentences also mention others.

All mentions are located first, the longest where several begin at one place. Those that are denied
("not B", "A is wrong", 不是B), asked ("Is it A?") or other words (the article of "A good choice")
do not count. Of the rest a declared one wins ("the answer is B", 答案是B), then one that the answer
begins with, then one that is called right, then the first one.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from llama_factory.core.errors import suggest
from llama_factory.evaluation.task_rows import AnsweredRow, ScoredRow, TaskRow

FEW_LABELS = 20
"""Up to this many different expected answers are labels, even in a small task."""

THOUGHT = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
WITHOUT_SPACES = r"\u3040-\u30ff\u3400-\u9fff"
"""Scripts that put no spaces between words: a label in them may stand inside others."""
IN_WORD = rf"[^\W{WITHOUT_SPACES}]"
SENTENCE_END = rf"[?!;。]|\.(?!{IN_WORD})"
"""In a text whose full-width signs are normalised."""
OPEN = r"[\s\"'`*_(\[{“”‘’「『【《<$\\]*"
"""What may stand between a cue and a label, and before a label that an answer begins with."""
CLOSE = r"[\s\"'`*_)\]}“”‘’」』】》>$]*"

VERBS = "is|was|has|because|since|as|seems|looks|fits|matches|applies|works|best|clearly"
AFTER_A = rf"(?:{VERBS}|and|or|but|would|will|can|cannot|should|must|does|makes|gives|means|if|by)"
"""Words that follow the label A; others follow the article."""
AFTER_I = rf"(?:{VERBS})"
NO_DOUBT = r"(?:doubt|question|wonder|problem|need|matter)s?\b"
AFTER_NO = (
    "it|he|she|they|this|that|these|those|there|i|we|you|the|a|an|not|but|because|since|as|is|was|"
    "if|sorry|thanks|sir"
)
"""Words that follow the answer no; before others it belongs to them, as in 'no evidence'."""

_DENIAL = (
    "not|never|neither|nor|cannot|rather than|instead of|except|non|no|without|exclude|excluding|"
    "eliminate|reject|rule out|ruled out|rules out"
)
_ADVERB = "(?:really|clearly|probably|likely|definitely|simply|actually|strictly|obviously|quite)"
_THINK = r"(?:think|believe|say|see|find|mean|choose|pick|select|consider)"
DENIED_BEFORE = re.compile(
    rf"(?:(?<!\w)(?:{_DENIAL})|n't|n’t)"
    rf"(?:\s+(?:{_ADVERB}|{_THINK}|that|it|this|it's|is|be|an?|the|option|answer|choice|label|to))*"
    rf"\s*{OPEN}$"
    rf"|(?:不是|并非|绝非|而非|不能选|不应选|不该选|不选|不属于|排除|没有|不|非|无|未)"
    rf"(?:选项|答案|是|选)*{OPEN}$"
)
DENIED_AFTER = re.compile(
    rf"{CLOSE}(?:(?:is|are|was|seems|looks|would be|must be|can be)\s+(?:{_ADVERB}\s+|also\s+"
    r"|an?\s+|the\s+)*(?:wrong|incorrect|false|not|no|ruled out|eliminated|excluded|out)\b"
    r"|(?:is|was|does|do|would|could|can)n[o'’]*t\b|(?:does|would|could|can|do|did) not\b"
    r"|(?:选项|项|也|都|是|明显|显然)*(?:错|不对|不正确|不符|不是|不合|不成立|被排除|有误))"
)
SEVERAL = re.compile(rf"{CLOSE}(?:are\b|都|均|皆)")
JOINED = re.compile(rf"{CLOSE}(?:and|or|nor|&|/|和|或|、|与){OPEN}(?:option|neither|nor)?{OPEN}")
LISTED = re.compile(rf"{CLOSE}(?:,|、|,? ?and|or|&|/|和|或|与){OPEN}(?:option)?{OPEN}")
"""Between labels in one list: a denial of one is a denial of all."""
RIGHT_AFTER = re.compile(
    rf"{CLOSE}(?:(?:is|seems|looks|would be|must be|fits|it is|as)\s*(?:{_ADVERB}\s+)?(?:the\s+)?"
    r"(?:(?:only|most|final|likely|best|correct|right|my|one)\s+)*"
    r"(?:correct|right|answer|best|choice)\b"
    r"|fits\b|it is\b|(?:选项|项|是|最|才|应该)*(?:正确|对的|合适|答案))"
)
_NOUN = (
    "answer|choice|option|label|class|category|verdict|conclusion|prediction|sentiment|topic|"
    "result|response|decision|judgment|judgement|solution|relation|relationship"
)
_FILLING = "(?:option|choice|answer|letter|label|class|the|that|it's|it is|it|an?|to be)"
DECLARED_BEFORE = re.compile(
    rf"(?:(?:\b(?:{_NOUN}|correct|right one|right|best|final)\b{CLOSE}(?:\s+[\w’']+){{0,4}}?\s*"
    rf"(?:\b(?:is|was|be|becomes|would be|should be|must be)\b|[:=→]|[-=]>)"
    rf"|\b(?:i|we|i'd|i'll|i’d|to|would|must|should|will|can)\s+(?:{_ADVERB}\s+)?"
    rf"(?:choose|pick|select|say|go with|answer with|answer|take|vote for)\b"
    rf"|\b(?:choosing|picking|selecting|going with|boxed|text|therefore|thus|hence|so)\b)"
    rf"[,:]?\s*(?:{OPEN}{_FILLING}\b)*"
    rf"|(?<!不)(?:答案|选择|选项|应选|故选|选|正确的|正确|结论|类别|标签|分类|判断|结果|属于|答)"
    rf"(?:选择|选项|应该|应当|应|是|为|就|的|了|选|[:：,，])*(?<!选项)(?<!正确)(?<!判断))"
    rf"[:：]?{OPEN}$"
)


def score_labels(rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
    """1 for every row whose answer names the expected label; the label is its answer."""
    known = labels_of([row.row for row in rows])
    scored = []
    for row in rows:
        labels = row.row.options or known
        named = find_label(row.text, labels)
        is_right = same(named, row.row.expected)
        scored.append(ScoredRow(row.row.expected, named, float(is_right), options=labels))
    return scored


def unfit_labels(rows: Sequence[TaskRow]) -> str:
    """Why the expected answers of these rows are no labels; empty where they are."""
    for row in rows:
        if row.options and not any(same(row.expected, option) for option in row.options):
            hint = suggest(row.expected, row.options)
            return (
                f"{row.place} expects '{row.expected}', which is not among its options "
                f"({', '.join(row.options)}).{hint}"
            )
    num_labels = len(labels_of(rows))
    if num_labels > max(FEW_LABELS, len(rows) / 2) and not all(row.options for row in rows):
        return (
            f"its {len(rows)} rows have {num_labels} different expected answers, so these are no "
            "labels. Give the rows options, or use exact_match."
        )
    return ""


def labels_of(rows: Iterable[TaskRow]) -> tuple[str, ...]:
    """The different expected answers, in order of appearance."""
    return tuple({plain(row.expected): row.expected for row in rows}.values())


def same(first: str, second: str) -> bool:
    """Whether two labels differ by case and white space at most."""
    return plain(first) == plain(second)


def plain(label: str) -> str:
    """Lower case, single spaces."""
    return " ".join(label.casefold().split())


@dataclass(frozen=True)
class _Mention:
    """A label where it stands in a text."""

    label: str
    start: int
    end: int


def find_label(answer: str, labels: Sequence[str]) -> str:
    """The label that an answer names; thoughts before the answer do not count.

    Case, white space, and whether words are joined by spaces, hyphens or underscores do not count;
    a word in spaced scripts is never matched inside another one.

    Returns:
        The label as it stands in `labels`, or nothing.
    """
    raw = _folded(_without_thoughts(answer))
    text = raw.casefold()
    if len(text) != len(raw):  # some letters have two small ones
        raw = text
    mentions = [each for each in _mentions(text, labels) if _is_meant(raw, text, each)]
    denied = _denied(text, mentions)
    counted = [each for each in mentions if each not in denied]
    answered = [each for each in counted if not _is_asked(text, each)]
    chosen = _chosen(text, answered or counted)
    return chosen.label if chosen else ""


def _chosen(text: str, mentions: Sequence[_Mention]) -> _Mention | None:
    declared = [each for each in mentions if _is_declared(text, each, mentions)]
    if declared:
        return declared[-1]
    if not mentions:
        return None
    first = mentions[0]
    if re.fullmatch(OPEN, text[: first.start]):
        return first
    right = [each for each in mentions if RIGHT_AFTER.match(text, each.end)]
    return right[-1] if right else first


def _without_thoughts(answer: str) -> str:
    """The text after the last thought; empty where that was cut off."""
    return THOUGHT.split(THOUGHT_END.split(answer)[-1])[0]


def _folded(text: str) -> str:
    """Plain letters, words joined by single spaces; lines stay lines."""
    plain = unicodedata.normalize("NFKC", text)
    plain = re.sub(r"(?<![^\W_])_+|_+(?![^\W_])", " ", plain)  # _emphasis_
    plain = re.sub(r"(?<=\w)[-_‐‑](?=\w)", " ", plain)
    plain = re.sub(r"[^\S\n]+", " ", plain)
    return re.sub(r"\s*\n\s*", "\n", plain).strip()


def _mentions(text: str, labels: Sequence[str]) -> list[_Mention]:
    known: dict[str, str] = {}
    for label in labels:
        known.setdefault(_name(label), label)
    pattern = _pattern(tuple(known))
    matches = pattern.finditer(text)
    return [_Mention(known[_name(each[0])], each.start(), each.end()) for each in matches]


def _name(label: str) -> str:
    return _folded(label).casefold().replace("\n", " ")


@lru_cache(maxsize=256)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds any of the names, the longest of those that begin at one place."""
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    return re.compile("|".join(map(_one, longest_first)) or r"(?!)")


def _one(name: str) -> str:
    """Finds a name that is not part of a longer word or number."""
    before = rf"(?<!{IN_WORD})" if re.match(IN_WORD, name[:1]) else ""
    after = rf"(?!{IN_WORD})" if re.match(IN_WORD, name[-1:]) else ""
    if name.isdigit():
        before, after = before + r"(?<!\d[.,])(?<![-+])", after + r"(?![.,]\d|%)"
    elif len(name) == 1 and name.isascii() and name.isalpha():
        # of "don't", "e.g.", "C++", "U.S."
        before, after = before + r"(?<!\w['’])(?<!\w\.)", after + r"(?!['’]\w|[+#]|\.\w\b)"
    return before + re.escape(name).replace(r"\ ", r"\s") + after


def _is_meant(raw: str, text: str, mention: _Mention) -> bool:
    """Whether a mention is the label, and not another word that is written alike."""
    word, rest = text[mention.start : mention.end], text[mention.end :]
    follows = re.match(r" (?=\w)", rest)
    if not follows:
        return True
    if word == "a":
        return bool(re.match(rf" {AFTER_A}\b", rest)) or not raw[mention.end + 1].islower()
    if word == "i":
        return bool(re.match(rf" {AFTER_I}\b", rest))
    if word == "no":
        at_start = bool(re.fullmatch(OPEN, text[: mention.start]))
        is_answer = bool(re.match(rf" (?:{AFTER_NO})\b", rest))
        return is_answer or (at_start and not re.match(rf" {NO_DOUBT}", rest))
    return True


def _clause(text: str, mention: _Mention) -> str:
    """The text before a mention in its sentence, which ends with its line."""
    return re.split(rf"{SENTENCE_END}|\n", text[: mention.start])[-1]


def _denied(text: str, mentions: Sequence[_Mention]) -> set[_Mention]:
    """The mentions that are denied: alone, or in a row as 'A, B and C are wrong'."""
    return _denied_before(text, mentions) | _denied_after(text, mentions)


def _denied_before(text: str, mentions: Sequence[_Mention]) -> set[_Mention]:
    """Those with the denial before them or before a row that they are in."""
    before = {each for each in mentions if DENIED_BEFORE.search(_clause(text, each))}
    for one, next_one in pairwise(mentions):
        is_joined = JOINED.fullmatch(text, one.end, next_one.start)
        if one in before and is_joined and not RIGHT_AFTER.match(text, next_one.end):
            before.add(next_one)
    return before


def _denied_after(text: str, mentions: Sequence[_Mention]) -> set[_Mention]:
    """Those with the denial behind them or behind a row that they are in."""
    after = {each for each in mentions if DENIED_AFTER.match(text, each.end)}
    many = {each for each in after if SEVERAL.match(text, each.end)}
    for one, next_one in reversed(list(pairwise(mentions))):
        if next_one in many and LISTED.fullmatch(text, one.end, next_one.start):
            many.add(one)
    return after | many


def _is_asked(text: str, mention: _Mention) -> bool:
    end = re.search(rf"{SENTENCE_END}|\n", text[mention.end :])
    return bool(end and end[0] == "?")


def _is_declared(text: str, mention: _Mention, others: Sequence[_Mention]) -> bool:
    """Whether the text declares this as its answer, or the last line is this label alone."""
    line = text.rfind("\n") + 1
    if line and mention.start >= line and _stands_alone(text[line:], mention, line):
        return True
    cue = DECLARED_BEFORE.search(_sentence(text, mention))
    if cue is None:
        return False
    begin = mention.start - len(cue[0])
    return not any(begin < each.start < mention.start for each in others)


def _sentence(text: str, mention: _Mention) -> str:
    """The text before a mention in its sentence; a cue may end the line above."""
    return re.split(SENTENCE_END, text[: mention.start])[-1]


def _stands_alone(line: str, mention: _Mention, offset: int) -> bool:
    before, after = line[: mention.start - offset], line[mention.end - offset :]
    return bool(re.fullmatch(OPEN, before) and re.fullmatch(CLOSE + r"[.。!]?" + CLOSE, after))
