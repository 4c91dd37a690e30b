"""A workspace of their own for tests of rounds."""

import pytest

from llama_factory import run
from tests.continual.rounds import SETTINGS
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bot(tiny, tmp_path):
    workspace = run.init(tmp_path / "bot", str(tiny))
    workspace.settings.write_text(SETTINGS.format(model=tiny))
    return workspace
