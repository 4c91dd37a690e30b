"""Every parameter of OpenAI's API is accepted, ignored on purpose, or refused by its name."""

import asyncio
from pathlib import Path

import pytest
from openai.types import completion_create_params as of_completions
from openai.types.chat import completion_create_params as of_chat

from tests.serving.parameters import CHAT, COMPLETIONS, parameters_of, small_workspace, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "openai_parameters.md"


def test_the_table_holds_every_parameter_that_openais_package_knows() -> None:
    chat = {*parameters_of(of_chat.CompletionCreateParamsBase), "stream"}
    assert chat - CHAT.keys() == set()
    completions = {*parameters_of(of_completions.CompletionCreateParamsBase), "stream"}
    assert completions - COMPLETIONS.keys() == set()


@pytest.mark.slow
def test_the_table_is_what_the_server_does(tmp_path: Path) -> None:
    written = asyncio.run(table(small_workspace(tmp_path)))
    assert written == DOCUMENT.read_text(encoding="utf-8"), "run `make docs`"
