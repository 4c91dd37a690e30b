"""Versions that are proven, an engine on the stand-in for vLLM, and what it should answer."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from llama_factory.core.types import Message
from llama_factory.inference.question import Answer, Options, Question
from llama_factory.model.chat.prompt_format import USUAL
from llama_factory.model.settings import ModelSettings
from llama_factory.model.wrapping import without_adapter
from llama_factory.rounds.proving import mean_nlls
from llama_factory.serving.engines.vllm import Vllm
from llama_factory.serving.remote.child import free_port
from llama_factory.serving.vllm.engine import VllmEngine
from llama_factory.versions import proof
from llama_factory.versions.proof import ProofRow
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace
from tests.serving.running import wait_until
from tests.tiny import make_workspace, publish_adapter, random_adapter

STAND_IN = Path(__file__).with_name("process.py")
COMMAND = [sys.executable, str(STAND_IN)]
PAIRS = (((9, 17, 33), (41, 50, 61)), ((70, 81), (92, 103, 11, 12)), ((200, 201), (55, 7)))
ASKED = Question((Message("user", "How many days are there in a week?"),))
GREEDY = Options(max_tokens=8, temperature=0.0)


def publish_proven(workspace: Workspace, model: Path, seed: int) -> ModelVersion:
    """A version with a random adapter and its proof."""
    network = random_adapter(model, seed).eval()
    write_proof(network, workspace.building)
    return publish_adapter(workspace, model, network)


def write_proof(network: PeftModel, folder: Path) -> None:
    own = mean_nlls(network, PAIRS)
    with without_adapter(network):
        base = mean_nlls(network, PAIRS)
    rows = zip(PAIRS, own, base, strict=True)
    proof.write(folder, [ProofRow(*pair, n, b) for pair, n, b in rows])


def make_proven_workspace(folder: Path, model: Path) -> Workspace:
    """v0001 and v0002, each with its proof."""
    workspace = make_workspace(folder, model)
    for seed in (1, 2):
        publish_proven(workspace, model, seed)
    return workspace


@torch.no_grad()
def expected(model: Path, adapter: Path | None, ids: tuple[int, ...], count: int) -> list[int]:
    """The greedy continuation, computed by Transformers and PEFT without a cache."""
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    end, new = network.generation_config.eos_token_id, list[int]()
    while len(new) < count and (not new or new[-1] != end):
        logits = network.eval()(input_ids=torch.tensor([[*ids, *new]])).logits
        new.append(int(logits[0, -1].argmax()))
    return new


def settings_of(**more: Any) -> Vllm:
    quick = {"python": COMMAND, "probe_seconds": 0.2, "start_seconds": 60}
    return Vllm(**(quick | more))


@asynccontextmanager
async def engine_on(workspace: Workspace, model: Path, settings: Vllm) -> AsyncIterator[VllmEngine]:
    named = ModelSettings(base_model=str(model), dtype="float32")
    engine = VllmEngine(settings, workspace, named, USUAL)
    try:
        yield engine
    finally:
        await engine.close()


async def ask(
    engine: VllmEngine, version: str, options: Options = GREEDY, asked: Any = ASKED
) -> Answer:
    """The whole answer, after its pieces were seen to add up to it."""
    text = ""
    async for piece in engine.answer(version, asked, options):
        if isinstance(piece, Answer):
            assert text == piece.text
            return piece
        text += piece.text
    raise AssertionError("the answer has no end")


def url_of(engine: VllmEngine) -> str:
    assert engine._client is not None
    return engine._client.url


def command(url: str, **body: Any) -> None:
    """Make the stand-in misbehave."""
    httpx.post(f"{url}/stand_in", json=body).raise_for_status()


def seen(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/stand_in").json()


async def until_up(engine: VllmEngine) -> None:
    async with asyncio.timeout(60):
        while engine.unavailable:
            await asyncio.sleep(0.02)


async def until_down(engine: VllmEngine) -> None:
    async with asyncio.timeout(60):
        while not engine.unavailable:
            await asyncio.sleep(0.01)


@contextmanager
def running(model: Path, port: int | None = None, **environment: str) -> Iterator[str]:
    """A stand-in that somebody else started; gives its address."""
    port = port or free_port()
    command = [*COMMAND, "serve", str(model), "--port", str(port), "--max-lora-rank", "64"]
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} | environment
    process = subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        wait_until(lambda: answers(port), "the start of the stand-in")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/version").status_code == 200
    except httpx.HTTPError:
        return False
