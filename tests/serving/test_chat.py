"""The terminal chat's conversation."""

from pathlib import Path

import pytest

from llama_factory.core.types import Message
from llama_factory.inference.question import PromptTooLongError
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.chat import open_model
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace
from tests.serving.running import MAX_TOKENS, answer_alone


@pytest.mark.slow
def test_a_conversation_remembers_its_turns(workspace: Workspace, tiny_model: Path) -> None:
    settings = ModelSettings(base_model=str(tiny_model), dtype="float32")
    version = store.get(workspace, "production")
    session = open_model(settings, version, max_tokens=MAX_TOKENS).conversation()
    assert session.model.version_id == "v0001"
    heard: list[str] = []
    first = session.answer("hello", heard.append)
    assert "".join(heard) == first.text == answer_alone(tiny_model, workspace, "v0001", "hello")
    assert session.history == [Message("user", "hello"), Message("assistant", first.text)]
    second = session.answer("hello", heard.append)
    assert second.prompt_tokens > 2 * first.prompt_tokens
    with pytest.raises(PromptTooLongError):
        session.answer("hello " * 600, heard.append)
    assert len(session.history) == 4
    session.reset()
    assert session.answer("hello", heard.append) == first
