from pathlib import Path

from llama_factory.config.compatibility import guide
from llama_factory.config.dialects.keys import KEYS


def test_the_guide_in_docs_is_that_of_the_table():
    written = Path(__file__).parents[2] / "docs" / "compat.md"
    assert written.read_text(encoding="utf-8") == guide()


def test_the_guide_has_every_key():
    text = guide()
    assert all(f"| `{name}` |" in text for name in KEYS)
