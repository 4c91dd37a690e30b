from pathlib import Path

from llama_factory.config.compatibility import guide
from llama_factory.config.dialects import optimizer_rules, rules, sharing_rules, training_rules
from llama_factory.config.dialects.keys import KEYS

RULES = (rules, training_rules, optimizer_rules, sharing_rules)


def test_the_guide_in_docs_is_that_of_the_table():
    written = Path(__file__).parents[2] / "docs" / "compat.md"
    assert written.read_text(encoding="utf-8") == guide()


def test_the_guide_has_every_key():
    text = guide()
    assert all(f"| `{name}` |" in text for name in KEYS)


def test_keys_that_belong_together_are_read_by_a_rule():
    text = "".join(Path(module.__file__).read_text("utf-8") for module in RULES)
    parts = [name for name, key in KEYS.items() if key.kind == "part"]
    assert "lora_rank" in parts
    assert [name for name in parts if f'"{name}"' not in text] == []
