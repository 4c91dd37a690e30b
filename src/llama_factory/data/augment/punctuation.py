"""Punctuation noise: marks are dropped, doubled, taken for others, or typed in the other width."""

import re
from random import Random

from llama_factory.data.augment import AUGMENTATIONS, Augmentation
from llama_factory.text.words import HAN, KEPT, chosen, is_han

WIDE = dict(zip(",.!?;:()", "，。！？；：（）", strict=True))
NARROW = {wide: narrow for narrow, wide in WIDE.items()}
OTHERS = {
    **{",": ";", ".": "!;", "!": ".", "?": "!", ";": ",.", ":": ",;"},
    **{"，": "、；", "。": "！；", "！": "。", "？": "！", "；": "，。", "：": "，", "、": "，"},
}
"""What is typed for a mark by mistake."""

_MARKS = re.compile(
    rf"(?P<kept>{KEPT.pattern})|[，。！？；：、（）]|[.,!?;:()](?=\s|\Z|[{HAN}])",
    re.VERBOSE | re.DOTALL,
)
"""Narrow marks count only before white space: not in 3.14, 10:30 or file.txt."""


@AUGMENTATIONS.register("punctuation")
class Punctuation(Augmentation):
    """Mistypes a fraction of the punctuation marks; a text that ends without one may get one."""

    def change(self, text: str, rng: Random) -> str:
        """See `Augmentation.change`."""
        found = list(_MARKS.finditer(text))
        places = [match.start() for match in found if not match["kept"]]
        if text and text[-1].isalpha() and not (found and found[-1].end() == len(text)):
            places.append(len(text))
        characters = [*text, ""]
        for place in chosen(places, self.rate, rng):
            characters[place] = _mistyped(characters[place], text, rng)
        changed = "".join(characters)
        return changed if changed.strip() else text


def _mistyped(mark: str, text: str, rng: Random) -> str:
    if not mark:
        return rng.choice("。！" if is_han(text[-1]) else ".!")
    options = ["", mark * 2, *OTHERS.get(mark, ""), WIDE.get(mark) or NARROW.get(mark, "")]
    return rng.choice(options)
