"""A server that only answers, shared by the tests that change nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from llama_factory.versions.workspace import Workspace
from tests.serving.running import make_engine, make_released_workspace, serving


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """Has v0001 released and v0002 not; tests leave it as it is."""
    return make_released_workspace(tmp_path_factory.mktemp("workspaces") / "my-bot", tiny_model)


@pytest.fixture(scope="session")
def client(workspace: Workspace, tiny_model: Path) -> Iterator[OpenAI]:
    """A client of a server of that workspace."""
    with serving(workspace, make_engine(tiny_model)) as client:
        yield client


@pytest.fixture
def own_workspace(tmp_path: Path, tiny_model: Path) -> Workspace:
    return make_released_workspace(tmp_path / "my-bot", tiny_model)
