"""Texts written the same way everywhere: line ends, invisible characters, mojibake, white space."""

import re
import unicodedata
from typing import Literal

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep

LOST_CHARACTERS = kind_of_sentence(
    "data.lost_characters", "characters lost by wrong decoding (U+FFFD or 锟斤拷)"
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_JOINED = (
    "\u0590-\u1cff\u2190-\u2bff\ua840-\uabff\ufb1d-\ufdff\ufe0f\ufe70-\ufefc\U0001f000-\U0001faff"
)
"""What a zero-width (non-)joiner may follow: Arabic and Indic letters, and emoji."""
_INVISIBLE = re.compile(
    "(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)"  # a flag spelled in tags, such as Scotland's
    "|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb]"
    "|[\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"
    f"|(?<![{_JOINED}])[\u200c\u200d]"
    "|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"  # Thai, Lao, Burmese, Khmer use it
)
_EATEN_BACKSLASH = {
    re.compile("\x0c(?=rac\\b|orall\\b)"): r"\\f",
    re.compile("\x08(?=egin\\b|eta\\b|oxed\\b|ar\\b)"): r"\\b",
    re.compile("\x07(?=lpha\\b|pprox\\b)"): r"\\a",
}
"""LaTeX that was written into JSON with one backslash: \\frac became a form feed and rac."""
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_SUSPECT = re.compile(
    "[\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f\x00-\x08\x0b-\x1f\xa0]"
)
_DIRECTION_MARK = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff]")
_MOJIBAKE = re.compile(
    "[\xc2-\xf4‚√РС](?:"  # one class to begin with: 6 times as fast as alternatives
    "(?<=[\xc2-\xf4])[\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013-\u203a\u20ac\u2122]"  # the first bytes of UTF-8 read as Latin-1 or Windows-1252
    "|(?<=‚)Ä|(?<=√)[†¢£§•¶ß®©™´¨¥µªºÆØæøà-ü]"  # as Mac Roman
    "|(?<=[РС])\\S(?:[РС]\\S){2})"  # as Windows-1251
)
_MOJIBAKE_GBK = re.compile("[锛銆鈥鐨鎴鏄涓浜€]")
"""What UTF-8 read as GBK leaves of Chinese punctuation, 的, 我, 是 and other frequent ones."""
_CHINESE = re.compile("[\x00-\x7f\u2010-\u203a\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]*")
_BROKEN = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯")
FEWEST_BROKEN = 3
"""A text with fewer lost characters than this is kept, and so is one that talks about them."""


@CLEANERS.register("unicode")
class Unicode(RowStep):
    """One spelling for the same text, so that equal rows are equal and no token is wasted."""

    form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form. NFC joins letters and their accents and changes nothing that one can
    see. NFKC also turns full-width characters into ASCII: it would make ，：？！ of Chinese texts
    into ,:?! and ² into 2."""
    fix_mojibake: bool = True
    """Mend text that was decoded with the wrong encoding (cafÃ© -> café, 浣犲ソ -> 你好)."""
    max_blank_lines: int = Field(2, ge=0)
    """Longer runs of blank lines are cut to this many."""
    max_broken_fraction: float = Field(0.02, ge=0, le=1)
    """A row is dropped when more than this fraction of its characters was lost by wrong decoding
    (U+FFFD, 锟斤拷). 1 keeps them all."""

    def clean(self, row: Example) -> Example | Dropped:
        """The row with its texts spelled well, or dropped because too much of it was lost."""
        cleaned = row.with_texts(self.clean_text)
        if any(self._is_broken(turn.content) for turn in cleaned.messages):
            return Dropped(LOST_CHARACTERS())
        return cleaned

    def clean_text(self, text: str) -> str:
        """One text spelled well; cleaning it again changes nothing."""
        while (cleaned := self._pass(text)) != text:
            # what one pass removes may have stood between two halves of a letter or of mojibake
            text = cleaned
        return text

    def _pass(self, text: str) -> str:
        if text.isascii():
            if _ASCII_CONTROL.search(text):
                text = _without_invisible(text)
        else:
            text = self._without_traps(text)
        return _tidy(text, self.max_blank_lines)

    def _without_traps(self, text: str) -> str:
        """What only texts beyond ASCII can have wrong."""
        if self.fix_mojibake:
            text = _mend(text)
        if _SUSPECT.search(text):
            text = _without_invisible(_without_surrogates(text))
        if self.form != "none" and not unicodedata.is_normalized(self.form, text):
            text = unicodedata.normalize(self.form, text)
        return text

    def _is_broken(self, text: str) -> bool:
        if text.isascii() or not _BROKEN.search(text):
            return False
        lost = _BROKEN.findall(text)
        return len(lost) >= FEWEST_BROKEN and (
            sum(map(len, lost)) > self.max_broken_fraction * len(text)
        )


def _mend(text: str) -> str:
    # looking for the tell-tale pairs takes 2 us, ftfy up to 300 us for any text that is not ASCII
    if _MOJIBAKE.search(text) and not _SURROGATE.search(text):
        from ftfy import fix_encoding

        text = fix_encoding(text)
    if _MOJIBAKE_GBK.search(text):
        text = "\n".join(map(_mend_gbk, text.split("\n")))
    return text


def _mend_gbk(line: str) -> str:
    """A line of UTF-8 that was read as GBK, where the byte 0x80 alone became €."""
    if not _MOJIBAKE_GBK.search(line):
        return line
    try:
        mended = line.replace("€", "\udc80").encode("gbk", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return line
    # two frequent characters such as 联通 can be valid UTF-8 by chance, but not as Chinese
    return mended if _CHINESE.fullmatch(mended) else line


def _without_surrogates(text: str) -> str:
    """Halves that stand together become their character, single ones go: they are not text."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


def _without_invisible(text: str) -> str:
    for pattern, begin in _EATEN_BACKSLASH.items():
        text = pattern.sub(begin, text)
    text = _LINE_END.sub("\n", text).replace("\xa0", " ")
    text = _INVISIBLE.sub(r"\1", text)
    if _DIRECTION_MARK.search(text) and not _RIGHT_TO_LEFT.search(text):
        text = _DIRECTION_MARK.sub("", text)
    return text


def _tidy(text: str, max_blank_lines: int) -> str:
    """No white space at the ends of lines and of the text; indentation stays."""
    if "\n" not in text:
        return text.strip()
    text = "\n".join([line.rstrip() for line in text.split("\n")]).strip("\n")
    most = "\n" * (max_blank_lines + 1)
    if most + "\n" in text:
        text = re.sub(most + "\n+", most, text)
    return text if _is_indented(text) else text.lstrip()


def _is_indented(text: str) -> bool:
    """Whether the lines after the first are indented too, as in a piece of code."""
    if not text[:1].isspace():
        return True
    rest = [line for line in text.split("\n")[1:] if line]
    return bool(rest) and rest[0][0].isspace()
