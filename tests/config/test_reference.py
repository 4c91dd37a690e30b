from pathlib import Path

from llama_factory.config.reference import reference


def test_the_reference_in_docs_is_that_of_the_schema():
    written = Path(__file__).parents[2] / "docs" / "settings.md"
    assert written.read_text(encoding="utf-8") == reference()


def test_every_setting_explains_itself():
    for line in reference().splitlines():
        if line.startswith("| `"):
            assert len(line.split("|")[3].strip()) > 10, line
