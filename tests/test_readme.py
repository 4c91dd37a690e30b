"""What the READMEs name exists: commands, their options, make targets, files, settings."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from llama_factory.cli.app import app
from llama_factory.config.loading import load_config
from llama_factory.continual.presets import PRESETS, default_strategies
from llama_factory.data.cleaning import CLEANERS
from llama_factory.data.settings import DataSettings
from llama_factory.model.adapters import ADAPTERS
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.optimizers import OPTIMIZERS
from llama_factory.training.schedules import SCHEDULES
from llama_factory.training.strategy import STRATEGIES

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README_zh.md"]
PAGES = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md"))
OVERVIEWS = ["docs/guide.md", "docs/guide_zh.md"]
GUIDES = [
    *OVERVIEWS,
    *(f"docs/{name}.md" for name in ("data", "training", "evaluation", "continual", "python")),
]


def commands(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = re.findall(r"^llama-factory (.*)$", text, flags=re.MULTILINE)
    return [line.split("#")[0].split() for line in lines]


def find(words):
    """The command that a line runs, and its own words."""
    command, rest = get_command(app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command, rest


def names(group, before=()):
    for name, command in group.commands.items():
        yield from (
            names(command, (*before, name)) if hasattr(command, "commands") else [(*before, name)]
        )


@pytest.mark.variants
@pytest.mark.parametrize("name", [*READMES, *GUIDES])
def test_every_command_and_option_exists(name):
    for words in commands(name):
        command, rest = find(words)
        options = {o for p in command.params for o in p.opts}
        assert {word for word in rest if word.startswith("--")} <= options, words


@pytest.mark.variants
@pytest.mark.parametrize("name", OVERVIEWS)
def test_every_command_is_shown(name):
    shown = {find(words)[0].name for words in commands(name)}
    assert shown == {path[-1] for path in names(get_command(app))} - {"version"}


def test_settings_and_code_in_the_guide_to_data_work(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    path = tmp_path / "factory.yaml"
    path.write_text(settings, encoding="utf-8")
    config = load_config(path)
    assert config.data.cleaning[0] == CLEANERS.parse("unicode")
    assert [type(step) for step in config.data.cleaning] == [
        type(s) for s in DataSettings().cleaning
    ]
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    values = {}
    exec(code, values)
    assert values["more"][1]["augmented_by"] == "synonym_replacement"
    assert values["more"][1]["output"] == "In two days."


def test_both_languages_name_the_same_commands():
    assert commands("README.md") == commands("README_zh.md")
    assert commands("docs/guide.md") == commands("docs/guide_zh.md")


@pytest.mark.parametrize("name", READMES)
def test_make_targets_and_settings_files_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", text):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(r"configs/[a-z_]+\.yaml", text):
        assert (ROOT / path).exists(), path


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*READMES, *map(str, PAGES)])
def test_links_lead_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", [*READMES, *map(str, PAGES)])
def test_nothing_is_left_to_be_filled_in(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"@[A-Z_]+@|@@|\b(?:TODO|FIXME|TBD)\b|\?\?\?", text) == []


def test_the_guide_to_training_names_every_objective_adapter_and_schedule(tmp_path):
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    path = tmp_path / "run.yaml"
    path.write_text(settings, encoding="utf-8")
    assert load_config(path).training.objective == OBJECTIVES.parse({"type": "dpo"})
    for registry in (OBJECTIVES, ADAPTERS, SCHEDULES, OPTIMIZERS):
        assert [name for name in registry.parts if f"`{name}`" not in text] == []


def test_the_guide_to_learning_names_every_strategy_and_preset_and_the_default_one(tmp_path):
    text = (ROOT / "docs" / "continual.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    path = tmp_path / "factory.yaml"
    path.write_text(settings, encoding="utf-8")
    assert list(load_config(path).strategies) == default_strategies()
    assert [name for name in (*STRATEGIES.parts, *PRESETS) if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_settings_file_loads(path):
    assert load_config(path).output_dir is not None
