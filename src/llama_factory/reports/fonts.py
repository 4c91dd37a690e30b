"""Pictures whose names can be read, in Chinese too."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

CHINESE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "SimHei")
"""Looked for on the machine, so that groups with Chinese names can be read."""
CHINESE_FILES = ("notosanscjk", "wqy-microhei", "simhei")
"""How their files begin."""


@contextmanager
def readable(names: str) -> Iterator[None]:
    """Draw with a font that has the characters of `names`, or tell that there is none."""
    import matplotlib as mpl

    fonts: tuple[str, ...] = ()
    if any(character >= "\u2e80" for character in names) and not (fonts := _chinese()):
        _tell_of_boxes()
    with mpl.rc_context({"font.family": ["DejaVu Sans", *fonts]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _chinese() -> tuple[str, ...]:
    """Fonts with Chinese characters; matplotlib's own list may be older than what is installed."""
    return _known() or _found()


def _known() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    names = {font.name for font in fontManager.ttflist}
    return tuple(font for font in CHINESE_FONTS if font in names)


@cache
def _found() -> tuple[str, ...]:
    """Look through the machine's font files, once."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for file in findSystemFonts():
        if Path(file).name.lower().startswith(CHINESE_FILES):
            fontManager.addfont(file)
    return _known()


@cache
def _tell_of_boxes() -> None:
    """Once is enough, however many pictures there are."""
    logger.warning("Some names are drawn as boxes: install a font such as fonts-noto-cjk.")
