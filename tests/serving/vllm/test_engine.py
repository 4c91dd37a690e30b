"""vLLM as an engine, on a stand-in that speaks its calls and computes real answers."""

import asyncio
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.types import Message
from llama_factory.inference.question import (
    Options,
    PromptTooLongError,
    Question,
    RequestError,
    TextPrompt,
)
from llama_factory.inference.request import Constraint
from llama_factory.serving.errors import EngineDownError
from llama_factory.versions import proof, store
from tests.serving.running import wait_until
from tests.serving.vllm.stand_in import (
    ASKED,
    GREEDY,
    ask,
    command,
    engine_on,
    expected,
    make_proven_workspace,
    running,
    seen,
    settings_of,
    until_down,
    until_up,
    url_of,
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_model):
    return make_proven_workspace(tmp_path_factory.mktemp("bots") / "my bot", tiny_model)


@pytest.fixture
def own_workspace(tmp_path, tiny_model):
    return make_proven_workspace(tmp_path / "bot", tiny_model)


def on_engine(workspace, model, work, **settings):
    """Run work on an engine of these settings, and end it."""

    async def whole():
        async with engine_on(workspace, model, settings_of(**settings)) as engine:
            await work(engine)

    asyncio.run(whole())


@pytest.mark.slow
def test_versions_and_the_base_answer_as_transformers_computes(workspace, tiny_model):
    async def work(engine):
        for version_id in ("v0001", "v0002", "v0000"):
            version = store.get(workspace, version_id)
            await engine.load(version)
            ids = await engine.tokens(version_id, ASKED)
            new = expected(tiny_model, version.adapter, ids, GREEDY.max_tokens)
            answer = await ask(engine, version_id)
            text = (await engine.text(tuple(new))).replace("<|im_end|>", "")
            assert answer.text == text.rstrip("\ufffd")
            assert (answer.prompt_tokens, answer.completion_tokens) == (len(ids), len(new))
        assert engine.loaded == {"v0000", "v0001", "v0002"}
        adapters = await engine._server.adapters()
        assert [name.rpartition("-")[0] for name in adapters] == ["my_bot-v0001", "my_bot-v0002"]
        assert seen(url_of(engine))["loads"] == 2
        await engine.load(store.get(workspace, "v0001"))
        assert seen(url_of(engine))["loads"] == 2

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_options_arrive_in_vllms_words_with_nothing_left_to_the_models_files(workspace, tiny_model):
    options = Options(
        max_tokens=3,
        temperature=0.7,
        top_p=0.9,
        stop=("END",),
        seed=2**64 + 5,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={7: -100.0, 9: 4.5},
        min_tokens=2,
        stop_token_ids=(3,),
        constraint=Constraint("json_schema", '{"type": "object"}'),
        num_logprobs=2,
    )

    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        answer = await ask(engine, "v0001", options)
        body = seen(url_of(engine))["asked"][-1]
        ids = await engine.tokens("v0001", ASKED)
        assert body.pop("model").startswith("my_bot-v0001-")
        assert body == {
            "prompt": list(ids),
            "max_tokens": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "seed": 5,
            "repetition_penalty": 1.2,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "logit_bias": {"7": -100.0, "9": 4.5},
            "stop": ["END"],
            "stop_token_ids": [0, 3],
            "ignore_eos": False,
            "min_tokens": 2,
            "skip_special_tokens": True,
            "include_stop_str_in_output": False,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": 2,
            "return_tokens_as_token_ids": True,
            "structured_outputs": {"json": {"type": "object"}},
        }
        assert len(answer.logprobs) == answer.completion_tokens == 3
        assert all(len(each.alternatives) == 2 for each in answer.logprobs)
        assert "".join(each.text for each in answer.logprobs).startswith(answer.text[:1])

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_requests_that_vllm_would_answer_otherwise_are_refused_by_name(workspace, tiny_model):
    wrong = {
        "presence_penalty": Options(max_tokens=1, presence_penalty=3),
        "frequency_penalty": Options(max_tokens=1, frequency_penalty=-2.5),
        "logit_bias": Options(max_tokens=1, logit_bias={1: 101}),
        "logprobs": Options(max_tokens=1, num_logprobs=21),
    }

    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        for name, options in wrong.items():
            with pytest.raises(RequestError) as caught:
                await ask(engine, "v0001", options)
            assert caught.value.place == name
        long = Question((Message("user", "week " * 400),))
        with pytest.raises(PromptTooLongError):
            await ask(engine, "v0001", GREEDY, long)
        with pytest.raises(RequestError, match="embeddings"):
            await engine.embed("v0001", ASKED)
        assert (await ask(engine, "v0000", GREEDY, TextPrompt((9, 17, 33)))).prompt_tokens == 3

    on_engine(workspace, tiny_model, work, arguments={"max-model-len": 64})


def test_an_engine_that_dies_is_started_again_with_all_versions(workspace, tiny_model):
    async def work(engine):
        for version_id in ("v0001", "v0002"):
            await engine.load(store.get(workspace, version_id))
        before = await ask(engine, "v0002")
        command(url_of(engine), fault="die_midway")
        with pytest.raises(EngineDownError):
            await ask(engine, "v0001")
        await until_down(engine)
        with pytest.raises(EngineDownError, match="Ask again later"):
            await ask(engine, "v0001")
        assert engine.loaded == {"v0000", "v0001", "v0002"}
        await until_up(engine)
        assert len(await engine._server.adapters()) == 2
        assert await ask(engine, "v0002") == before

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_an_emptied_cache_is_filled_again_at_the_next_start(own_workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(own_workspace, "v0001"))
        before = await ask(engine, "v0001")
        shutil.rmtree(own_workspace.cache / "served_adapters")
        command(url_of(engine), fault="die")
        await until_down(engine)
        await until_up(engine)
        assert await ask(engine, "v0001") == before

    on_engine(own_workspace, tiny_model, work)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "hang_tokens"])
def test_an_engine_that_hangs_is_killed_and_started_again(workspace, tiny_model, fault):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        before = await ask(engine, "v0001")
        command(url_of(engine), fault=fault)
        with pytest.raises(EngineDownError):
            await ask(engine, "v0001")
        await until_down(engine)
        await until_up(engine)
        assert await ask(engine, "v0001") == before

    on_engine(workspace, tiny_model, work, silence_seconds=1)


@pytest.mark.slow
def test_a_dropped_stream_is_an_error_and_no_short_answer(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        command(url_of(engine), fault="drop")
        with pytest.raises(EngineDownError):
            await ask(engine, "v0001")
        command(url_of(engine), fault="")
        assert (await ask(engine, "v0001")).completion_tokens

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_status_500_tells_clients_to_come_again(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        command(url_of(engine), fault="500")
        with pytest.raises(EngineDownError) as caught:
            await ask(engine, "v0001")
        assert caught.value.status == 503

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_a_forgotten_adapter_is_loaded_and_proven_again_before_the_answer(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        before = await ask(engine, "v0001")
        command(url_of(engine), fault="forget")
        assert await ask(engine, "v0001") == before
        assert seen(url_of(engine))["loads"] == 2

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_base_answers_under_an_adapters_name_never_reach_anybody(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        command(url_of(engine), fault="base")
        with pytest.raises(VersionError, match=r"v0002.*base model's answers"):
            await engine.load(store.get(workspace, "v0002"))
        assert engine.loaded == {"v0000", "v0001"}
        assert len(await engine._server.adapters()) == 1
        command(url_of(engine), fault="forget")
        command(url_of(engine), fault="base")
        with pytest.raises(VersionError, match=r"v0001.*base model's answers"):
            await ask(engine, "v0001")

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_a_restart_that_serves_base_answers_takes_the_version_out(
    own_workspace, tiny_model, caplog
):
    async def work(engine):
        await engine.load(store.get(own_workspace, "v0001"))
        engine._settings.environment["STAND_IN_FAULT"] = "base"
        command(url_of(engine), fault="die")
        await until_down(engine)
        await until_up(engine)
        assert engine.loaded == {"v0000"}
        with pytest.raises(EngineDownError, match="v0001 is not loaded"):
            await ask(engine, "v0001")
        assert (await ask(engine, "v0000")).text

    with caplog.at_level(logging.ERROR):
        on_engine(own_workspace, tiny_model, work)
    assert "v0001 is not served any more" in caplog.text


@pytest.mark.slow
def test_another_base_model_behind_the_engine_is_seen(workspace, tiny_model, tmp_path):
    from tests.tiny import make_tiny_model

    other = make_tiny_model(tmp_path / "other", seed=1)

    async def work(engine):
        with pytest.raises(EngineDownError, match=r"v0000.*not this version's answers"):
            await engine.load(store.get(workspace, "v0001"))

    with running(other) as url:
        on_engine(workspace, tiny_model, work, python="", url=url)


def test_a_command_that_ends_says_why(workspace, tiny_model):
    async def work(engine):
        with pytest.raises(EngineDownError, match="RuntimeError: no GPU is left"):
            await engine.load(store.get(workspace, "v0001"))
        assert "started again" in engine.unavailable

    on_engine(workspace, tiny_model, work, arguments={"die-at-start": True})


def test_a_program_that_is_not_there_is_named(workspace, tiny_model):
    async def work(engine):
        with pytest.raises(EngineDownError, match="no-such-python"):
            await engine.load(store.get(workspace, "v0001"))

    on_engine(workspace, tiny_model, work, python="/no-such-python")


def test_a_start_that_takes_too_long_has_failed(workspace, tiny_model):
    async def work(engine):
        with pytest.raises(EngineDownError, match="not ready after"):
            await engine.load(store.get(workspace, "v0001"))

    arguments = {"slow-start": 3600}
    on_engine(workspace, tiny_model, work, arguments=arguments, start_seconds=0.5)


def test_an_old_vllm_is_refused(workspace, tiny_model):
    async def work(engine):
        with pytest.raises(EngineDownError, match=r"0\.20\.1 is older"):
            await engine.load(store.get(workspace, "v0001"))

    on_engine(workspace, tiny_model, work, environment={"STAND_IN_FAULT": "old"})


@pytest.mark.slow
def test_an_engine_at_an_address_is_met_with_what_it_has(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        assert (await ask(engine, "v0001")).text

    with running(tiny_model) as url:
        for _ in range(2):
            on_engine(workspace, tiny_model, work, python="", url=url)
        assert seen(url)["loads"] == 1


@pytest.mark.slow
def test_an_engine_at_an_address_may_come_back_without_its_adapters(workspace, tiny_model):
    from llama_factory.serving.remote.child import free_port

    port = free_port()

    async def work(engine):
        with running(tiny_model, port):
            await engine.load(store.get(workspace, "v0001"))
            before = await ask(engine, "v0001")
        await until_down(engine)
        with running(tiny_model, port):
            await until_up(engine)
            assert await ask(engine, "v0001") == before

    on_engine(workspace, tiny_model, work, python="", url=f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_an_address_without_runtime_loading_says_what_is_missing(workspace, tiny_model):
    async def work(engine):
        with pytest.raises(VersionError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
            await engine.load(store.get(workspace, "v0001"))

    with running(tiny_model, VLLM_ALLOW_RUNTIME_LORA_UPDATING="0") as url:
        on_engine(workspace, tiny_model, work, python="", url=url)


@pytest.mark.slow
def test_a_version_leaves_after_its_last_answer(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        command(url_of(engine), token_seconds=0.02)
        pieces = engine.answer("v0001", ASKED, GREEDY)
        await anext(pieces)
        await engine.unload("v0001")
        assert len(await engine._server.adapters()) == 1
        rest = [piece async for piece in pieces]
        assert rest
        assert await engine._server.adapters() == {}
        assert engine.loaded == {"v0000"}

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_leaving_an_answer_frees_the_version(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        command(url_of(engine), token_seconds=0.02)
        pieces = engine.answer("v0001", ASKED, GREEDY)
        await anext(pieces)
        await engine.unload("v0001")
        await pieces.aclose()
        assert await engine._server.adapters() == {}

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_a_version_that_is_wanted_again_stays(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        pieces = engine.answer("v0001", ASKED, GREEDY)
        await anext(pieces)
        await engine.unload("v0001")
        await engine.load(store.get(workspace, "v0001"))
        assert [piece async for piece in pieces]
        assert engine.loaded == {"v0000", "v0001"}

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_many_clients_at_once_get_their_own_versions_answers(workspace, tiny_model):
    async def work(engine):
        texts = {}
        for version_id in ("v0001", "v0002", "v0000"):
            await engine.load(store.get(workspace, version_id))
            texts[version_id] = (await ask(engine, version_id)).text
        assert len(set(texts.values())) == 3
        asked = [*texts] * 6
        given = await asyncio.gather(*(ask(engine, version_id) for version_id in asked))
        assert [each.text for each in given] == [texts[version_id] for version_id in asked]

    on_engine(workspace, tiny_model, work)


@pytest.mark.slow
def test_what_vllm_does_not_take_is_refused_with_the_reason(own_workspace, tiny_model):
    version = store.get(own_workspace, "v0001")
    path = version.folder / "adapter" / "adapter_config.json"
    files.write_json(path, files.read_json(path) | {"use_dora": True})

    async def work(engine):
        with pytest.raises(VersionError, match=r"v0001 cannot be served by vLLM.*DoRA"):
            await engine.load(store.get(own_workspace, "v0001", verify=False))
        assert engine.loaded == frozenset()

    on_engine(own_workspace, tiny_model, work)


@pytest.mark.slow
def test_a_version_of_an_earlier_program_needs_only_numbers(own_workspace, tiny_model):
    version = store.get(own_workspace, "v0002")
    (version.folder / proof.FILE).unlink()

    async def work(engine):
        await engine.load(store.get(own_workspace, "v0002", verify=False))
        assert (await ask(engine, "v0002")).text

    on_engine(own_workspace, tiny_model, work)


@pytest.mark.slow
def test_closing_ends_the_process(workspace, tiny_model):
    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        url = url_of(engine)
        await engine.close()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        with pytest.raises(EngineDownError, match="stopped"):
            await ask(engine, "v0001")

    on_engine(workspace, tiny_model, work)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_process_ends_even_where_whoever_started_it_is_killed(tmp_path):
    script = f"""
import asyncio
from pathlib import Path
from llama_factory.serving.remote.child import Child

async def main():
    child = await Child.start(["sleep", "600"], {{}}, Path({str(tmp_path / "log")!r}))
    print(child.id, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    assert child.exists()
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.exists() or ") Z " in child.read_text(), "the end of the child")
