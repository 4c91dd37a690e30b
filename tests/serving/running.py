"""A real server in a thread, and an engine that tests can hold up."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from fastapi import FastAPI
from openai import OpenAI
from peft import PeftModel

from llama_factory.core.types import Message
from llama_factory.inference.question import Answer, AnswerPiece, Options, Prompt, Question
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.api import create_app
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.engines.local import LocalEngine
from llama_factory.serving.server import Server, listen
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace
from tests.tiny import make_workspace, publish_version, random_adapter

DEADLINE_SECONDS = 60.0

QUESTION = "你们的退货政策是什么？"

MAX_TOKENS = 16
"""Long enough for answers to differ."""


def wait_until(is_done: Callable[[], bool], what: str) -> None:
    """Return as soon as something is so; fail the test if it never is."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not is_done():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE_SECONDS:.0f} s"
        time.sleep(0.01)


def make_released_workspace(folder: Path, model: Path) -> Workspace:
    """v0001 is released, v0002 is not."""
    workspace = make_workspace(folder, model)
    for seed in (1, 2):
        publish_version(workspace, model, marker_seed=seed)
    releases.promote(workspace.releases, "v0001", "test")
    return workspace


def without_numbers(model: Path) -> PeftModel:
    """An adapter that a diverged run might leave behind: it reads well and computes NaN."""
    network = random_adapter(model, 1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.fill_(float("nan"))
    return network


def settings_of(model: Path) -> ModelSettings:
    return ModelSettings(base_model=str(model), dtype="float32")


def make_engine(model: Path) -> LocalEngine:
    return LocalEngine(settings_of(model))


def answer_alone(model: Path, workspace: Workspace, version: str, question: str) -> str:
    """What a version answers with nothing else around it."""

    async def answered() -> str:
        engine = make_engine(model)
        await engine.load(store.get(workspace, version))
        options = Options(max_tokens=MAX_TOKENS, temperature=0.0)
        asked = Question((Message("user", question),))
        events = [event async for event in engine.answer(version, asked, options)]
        await engine.close()
        return events[-1].text

    return asyncio.run(answered())


@contextmanager
def running(app: FastAPI) -> Iterator[OpenAI]:
    """Serve an app on a free port; gives a client that never retries."""
    listener = listen(ServingSettings(port=0))
    server = Server(app, gateway=app.state.gateway)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, "the start of the server")
        yield client_of(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    finally:
        server.should_exit = True
        thread.join()


def client_of(url: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=url, api_key=key, max_retries=0, timeout=DEADLINE_SECONDS)


@contextmanager
def serving(
    workspace: Workspace,
    engine: AnswerEngine,
    *,
    api_key: str | None = None,
    **more: Any,
) -> Iterator[OpenAI]:
    """Serve a workspace that is polled often; `more` are settings of the server."""
    settings = ServingSettings(max_tokens=MAX_TOKENS, poll_seconds=0.1, **more)
    with running(create_app(workspace, settings, engine, api_key=api_key)) as client:
        yield client


class HeldEngine(LocalEngine):
    """Gives one piece of text, then waits until it is let go or told to stop."""

    def __init__(self, model: Path) -> None:
        super().__init__(settings_of(model))
        self.gate = threading.Event()
        self.num_begun = self.num_stopped = 0

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        self.num_begun += 1
        try:
            yield AnswerPiece("*")
            await held_up(self.gate)
        except BaseException:
            self.num_stopped += 1
            raise
        async with aclosing(super().answer(version_id, prompt, options)) as events:
            async for event in events:
                yield event


async def held_up(gate: threading.Event) -> None:
    """Wait on the event loop until a gate is open."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not gate.is_set():
        assert time.monotonic() < end, "nothing opened the gate"
        await asyncio.sleep(0.01)


def ask(client: OpenAI, text: str = QUESTION, model: str = "production", **options: Any) -> Any:
    asked = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        model=model, messages=asked, **({"temperature": 0} | options)
    )


def stream(client: OpenAI, **options: Any) -> list[Any]:
    return list(ask(client, stream=True, **options))


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def health(client: OpenAI) -> dict[str, Any]:
    return httpx.get(str(client.base_url.join("/health"))).json()
