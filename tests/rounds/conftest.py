"""A workspace of their own for tests of rounds."""

import pytest

from llama_factory import run
from llama_factory.reports import page as report
from tests.rounds.rounds import SETTINGS


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Half the time of a tiny round is the drawing of pictures, which have tests of their own."""
    monkeypatch.setattr(report, "_drawn", lambda *_: (b"", b""))


@pytest.fixture
def tiny(tiny_model):
    return tiny_model


@pytest.fixture
def bot(tiny, tmp_path):
    workspace = run.init(tmp_path / "bot", str(tiny))
    workspace.settings.write_text(SETTINGS.format(model=tiny))
    return workspace
