"""What the READMEs name exists: commands, their options, make targets, files, settings."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from llama_factory.cli.app import app

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README_zh.md"]


def commands(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = re.findall(r"^llama-factory (.*)$", text, flags=re.MULTILINE)
    return [line.split("#")[0].split() for line in lines]


@pytest.mark.parametrize("name", READMES)
def test_every_command_and_option_exists(name):
    known = get_command(app).commands
    assert {words[0] for words in commands(name)} == known.keys() - {"version"}
    for words in commands(name):
        options = {o for p in known[words[0]].params for o in p.opts}
        used = {word for word in words if word.startswith("--")}
        assert used <= options, words


def test_both_languages_name_the_same_commands():
    assert commands("README.md") == commands("README_zh.md")


@pytest.mark.parametrize("name", READMES)
def test_make_targets_and_linked_files_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", text):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"configs/[a-z_]+\.yaml", text):
        assert (ROOT / path).exists(), path
    assert "@@" not in text
