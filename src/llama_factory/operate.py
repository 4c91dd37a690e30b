"""The verbs of whoever runs a server, each in a few lines; `run.py` has all others.

In all of them `changes` are settings for this call alone. What a person can mend is a
`FactoryError` whose message tells how. Heavy layers are imported inside the verbs.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from llama_factory.config.changes import Changes
from llama_factory.config.loading import load_to_answer
from llama_factory.jobs.model_reference import ModelLike, ModelReference


def serve(model: ModelLike, changes: Changes = (), log: Callable[[str], None] = print) -> None:
    """Answer OpenAI-style requests until stopped; the key is the environment's API_KEY.

    Args:
        model: a workspace, whose release is followed; else as in `load`.
        changes: settings, such as `{"serving.port": 8000}`.
        log: takes what happens, a line at a time.
    """
    with ModelReference.of(model).opened() as workspace:
        config = load_to_answer(workspace.settings, changes)
        from llama_factory.model.chat.encoding import encode_options
        from llama_factory.serving.server import serve as run_server

        usual, key = encode_options(config.data).format, os.environ.get("API_KEY")
        run_server(workspace, config.serving, config.model, api_key=key, say=log, usual=usual)
