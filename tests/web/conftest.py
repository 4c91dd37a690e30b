"""What the tests of the page share."""

import shutil
from pathlib import Path

import pytest

from llama_factory.versions.workspace import Workspace
from tests.web.bots import make_bot
from tests.web.browsing import Visitor


@pytest.fixture(scope="session")
def made_bot(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with three versions, one of them refused; not to be changed."""
    return make_bot(tmp_path_factory.mktemp("bots") / "bot", 3, refused=[2])


@pytest.fixture
def bot(made_bot: Workspace, tmp_path: Path) -> Workspace:
    """The same for one test."""
    return Workspace(shutil.copytree(made_bot.folder, tmp_path / "bot"))


@pytest.fixture
def page(bot: Workspace) -> Visitor:
    """Somebody at the machine who looks at it."""
    return Visitor.of(bot.folder)
