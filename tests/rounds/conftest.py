"""A workspace of their own for tests of rounds."""

import pytest

from llama_factory import run
from llama_factory.reports import page as report
from tests.rounds.rounds import SETTINGS
from tests.tiny import make_tiny_model


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Half the time of a tiny round is the drawing of pictures, which have tests of their own."""
    monkeypatch.setattr(report, "_drawn", lambda *_: (b"", b""))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bot(tiny, tmp_path):
    workspace = run.init(tmp_path / "bot", str(tiny))
    workspace.settings.write_text(SETTINGS.format(model=tiny))
    return workspace
