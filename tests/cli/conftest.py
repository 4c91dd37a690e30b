"""What the tests of commands share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def taught_bot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that was taught two rounds; see `tests/cli/taught.py`."""
    from tests.cli.taught import teach_two_rounds

    return teach_two_rounds(tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def bot(taught_bot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the tests of one file: what commands leave in it is not seen by others."""
    return shutil.copytree(taught_bot, tmp_path_factory.mktemp("copy") / "bot")
