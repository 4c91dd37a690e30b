"""What a client of the gateway gets when the engine behind it misbehaves."""

import time
from contextlib import contextmanager

import openai
import pytest

from llama_factory.inference.settings import InferenceSettings
from llama_factory.model.chat.prompt_format import USUAL
from llama_factory.versions import releases
from tests.serving.running import ask, health, serving, stream, text_of, wait_until
from tests.serving.running import settings_of as model_settings
from tests.serving.vllm.stand_in import command, make_proven_workspace, seen, settings_of, url_of


@pytest.fixture
def workspace(tmp_path, tiny_model):
    workspace = make_proven_workspace(tmp_path / "bot", tiny_model)
    releases.promote(workspace.releases, "v0001", "test")
    return workspace


@contextmanager
def gateway(workspace, model, **settings):
    """A client, and the address of the stand-in behind the gateway."""
    engine = settings_of(**settings).open(
        model_settings(model), workspace, USUAL, InferenceSettings()
    )
    with serving(workspace, engine) as client:
        yield client, engine


@pytest.mark.slow
def test_answers_name_their_version_and_releases_move_them(workspace, tiny_model):
    with gateway(workspace, tiny_model) as (client, engine):
        first = ask(client)
        assert first.model == "v0001"
        assert ask(client, model="v0000").model == "v0000"
        assert text_of(stream(client)) == first.choices[0].message.content
        releases.promote(workspace.releases, "v0002", "test")
        wait_until(lambda: ask(client).model == "v0002", "the release of v0002")
        assert ask(client).choices[0].message.content != first.choices[0].message.content
        assert ask(client, model="v0001").choices == first.choices
        assert seen(url_of(engine))["asked"][-1]["model"].startswith("bot-v0001-")


@pytest.mark.slow
def test_a_dead_engine_is_503_with_a_pause_and_the_clients_own_retry_succeeds(
    workspace, tiny_model
):
    with gateway(workspace, tiny_model, arguments={"slow-start": 1}) as (client, engine):
        before = ask(client).choices
        command(url_of(engine), fault="die")
        wait_until(lambda: engine.unavailable, "the end of the engine")
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client)
        assert caught.value.status_code == 503
        assert caught.value.code == "engine_down"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert "/" not in caught.value.body["message"]
        patient = client.with_options(max_retries=20)
        assert ask(patient).choices == before


@pytest.mark.slow
def test_an_answer_that_is_cut_ends_in_an_error_event(workspace, tiny_model):
    with gateway(workspace, tiny_model) as (client, engine):
        command(url_of(engine), fault="drop")
        with pytest.raises(openai.APIError, match="engine"):
            stream(client)
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client)
        assert caught.value.status_code == 503


@pytest.mark.slow
def test_a_version_served_with_the_bases_answers_never_takes_over(workspace, tiny_model):
    with gateway(workspace, tiny_model) as (client, engine):
        command(url_of(engine), fault="base")
        releases.promote(workspace.releases, "v0002", "test")
        wait_until(lambda: health(client)["released"] == "v0002", "the look at the release")
        time.sleep(0.5)  # it may only come late: what must not come is looked for a while
        assert health(client)["version"] == "v0001"
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, model="v0002")
        assert caught.value.code == "version_unusable"
