"""The engine answers with exactly the version that is asked for, whatever the architecture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_factory.core.errors import VersionError
from llama_factory.core.types import Message
from llama_factory.inference import places
from llama_factory.inference.places import Place
from llama_factory.inference.question import (
    Answer,
    Options,
    PromptTooLongError,
    Question,
    RequestError,
)
from llama_factory.inference.streamed_text import UNFINISHED
from llama_factory.inference.version_engine import VersionEngine
from llama_factory.model.base import load_network
from llama_factory.model.settings import ModelSettings
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace
from tests.model.adapting import fit, make, settings
from tests.serving.running import (
    make_released_workspace,
    settings_of,
    without_numbers,
)
from tests.tiny import (
    ARCHITECTURES,
    MAX_TOKENS,
    make_tiny_model,
    make_tokenizer,
    make_workspace,
    publish_adapter,
    render,
    taught_adapter,
)

GREEDY = Options(max_tokens=16, temperature=0.0)
HELLO = (Message("user", "hello"),)


def make_engine(model: Path) -> VersionEngine:
    return VersionEngine(settings_of(model))


def ask(
    engine: VersionEngine, version: str, options: Options = GREEDY, text: str = "hello"
) -> Answer:
    pieces: list[str] = []
    asked = Question((Message("user", text),))
    answer = engine.answer(version, asked, options, pieces.append, lambda: False)
    assert "".join(pieces) == answer.text
    return answer


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> VersionEngine:
    return make_engine(tiny_model)


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_versions_do_not_change_each_other(architecture: str, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", architecture)
    workspace = make_released_workspace(tmp_path / "bot", model)
    engine = make_engine(model)
    versions = [store.get(workspace, version_id) for version_id in store.ids(workspace)]
    alone = []
    for version in versions:
        engine.load(version)
        alone.append(ask(engine, version.id))
        engine.unload(version.id)
    assert len({answer.text for answer in alone}) == 3
    for version in versions:
        engine.load(version)
    for _ in range(2):
        assert [ask(engine, version.id) for version in versions] == alone
    engine.unload("v0001")
    assert [ask(engine, version.id) for version in versions[::2]] == alone[::2]


def test_the_base_version_is_the_plain_model(engine: VersionEngine, tiny_model: Path) -> None:
    network, tokenizer = load_network(tiny_model, settings_of(tiny_model)), make_tokenizer()
    prompt = torch.tensor([render(tokenizer, HELLO, ask=True)])
    out = network.generate(prompt, max_new_tokens=16, do_sample=False)[0, prompt.shape[1] :]
    assert ask(engine, "v0000").text == tokenizer.decode(out, skip_special_tokens=True).rstrip(
        UNFINISHED
    )


@pytest.mark.slow
def test_a_chinese_answer_arrives_in_whole_characters(tmp_path: Path, tiny_model: Path) -> None:
    question, taught = "你们的退货政策是什么？", "三十天内可以退货，谢谢您！😀"
    workspace = make_released_workspace(tmp_path / "bot", tiny_model)
    adapter = taught_adapter(tiny_model, question, taught)
    version = publish_adapter(workspace, tiny_model, adapter)
    engine = make_engine(tiny_model)
    engine.load(version)
    answer = ask(engine, version.id, replace(GREEDY, max_tokens=100), question)
    assert (answer.text, answer.finish_reason) == (taught, "stop")
    cut = ask(engine, version.id, replace(GREEDY, max_tokens=100, stop=("谢谢",)), question)
    assert (cut.text, cut.finish_reason) == ("三十天内可以退货，", "stop")
    assert cut.completion_tokens < answer.completion_tokens


def test_tokens_run_out_at_max_tokens(engine: VersionEngine) -> None:
    answer = ask(engine, "v0000", replace(GREEDY, max_tokens=5))
    assert (answer.completion_tokens, answer.finish_reason) == (5, "length")


def test_an_answer_stops_where_it_is_told_to(engine: VersionEngine) -> None:
    heard: list[str] = []
    long = replace(GREEDY, max_tokens=400)
    answer = engine.answer("v0000", Question(HELLO), long, heard.append, lambda: len(heard) >= 3)
    assert answer.completion_tokens < 20
    assert len(heard) <= 4


@pytest.mark.slow
def test_a_seed_gives_the_same_answer_again(engine: VersionEngine) -> None:
    drawn = Options(max_tokens=16, temperature=1.5, seed=7)
    first = ask(engine, "v0000", drawn)
    assert ask(engine, "v0000", drawn) == first
    others = {ask(engine, "v0000", replace(drawn, seed=seed)).text for seed in (None, 8, -1)}
    assert first.text not in others


@pytest.mark.slow
def test_a_tiny_temperature_and_top_p_are_greedy(engine: VersionEngine) -> None:
    greedy = ask(engine, "v0000")
    assert ask(engine, "v0000", Options(max_tokens=16, temperature=1e-30)) == greedy
    for temperature in (0.5, 1.0, 2.0):
        options = Options(max_tokens=16, temperature=temperature, top_p=0.0)
        assert ask(engine, "v0000", options) == greedy


def test_a_prompt_beyond_the_context_is_refused(engine: VersionEngine) -> None:
    with pytest.raises(PromptTooLongError, match=r"messages have \d+ tokens and .* reads 511"):
        ask(engine, "v0000", text="hello " * 600)


def test_of_a_very_long_prompt_only_the_beginning_is_read(engine: VersionEngine) -> None:
    message = r"messages have more than \d{3,4} tokens and .* reads 511"
    with pytest.raises(PromptTooLongError, match=message):
        ask(engine, "v0000", text="hello " * 200_000)


@pytest.mark.slow
def test_an_answer_ends_at_the_end_of_the_context(engine: VersionEngine) -> None:
    answer = ask(engine, "v0000", replace(GREEDY, max_tokens=10_000))
    assert answer.prompt_tokens + answer.completion_tokens <= MAX_TOKENS


def test_turns_that_the_template_refuses_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    engine = make_engine(tiny_model)
    engine._places[
        "v0000"
    ].tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RequestError, match=r"do not fit .* roles must alternate"):
        ask(engine, "v0000")


def test_a_version_of_another_base_model_is_refused(
    tmp_path: Path, tiny_model: Path, workspace: Workspace
) -> None:
    engine = make_engine(make_tiny_model(tmp_path / "other", seed=5))
    with pytest.raises(VersionError, match="v0001 was trained on another base model"):
        engine.load(store.get(workspace, "v0001"))


@pytest.mark.variants
@pytest.mark.parametrize("is_first", [True, False])
def test_an_adapter_that_cannot_be_read_leaves_no_trace(
    tmp_path: Path, tiny_model: Path, is_first: bool
) -> None:
    workspace = make_released_workspace(tmp_path / "bot", tiny_model)
    weights = workspace.versions / "v0001/adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    engine = make_engine(tiny_model)
    if not is_first:
        engine.load(store.get(workspace, "v0002"))
    before = {version: ask(engine, version) for version in engine.loaded}
    with pytest.raises(VersionError, match="v0001/adapter: this adapter cannot be loaded"):
        engine.load(store.get(workspace, "v0001", verify=False))
    assert {version: ask(engine, version) for version in engine.loaded} == before
    engine.load(store.get(workspace, "v0002"))


@pytest.mark.variants
@pytest.mark.parametrize("form", ["dora", "pissa", "ia3", "oft", "prompt"])
def test_every_kind_of_adapter_is_served_beside_its_base(tmp_path: Path, form: str) -> None:
    base = make_tiny_model(tmp_path / "llama")
    model = make(base, form)
    fit(model, tmp_path, learning_rate=0.3, max_steps=3)
    version = publish_adapter(make_workspace(tmp_path / "bot", base), base, model.network)
    engine = VersionEngine(settings(base, form))
    plain = ask(engine, "v0000").text
    engine.load(version)
    told = ask(engine, version.id)
    alone = _greedy(model.network.eval(), render(model.tokenizer, HELLO, ask=True))
    assert model.tokenizer.decode(alone, skip_special_tokens=True).startswith(told.text)
    assert told.text != plain
    assert ask(engine, "v0000").text == plain == ask(make_engine(base), "v0000").text


def _greedy(network: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = network.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False
    )
    return list(out[0, ids.shape[1] :])


@pytest.mark.slow
def test_vectors_before_every_row_take_their_room_from_the_context(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "llama")
    model = make(base, "prompt")
    version = publish_adapter(make_workspace(tmp_path / "bot", base), base, model.network)
    engine = VersionEngine(settings(base, "prompt"))
    engine.load(version)
    longest = ask(engine, version.id, Options(max_tokens=2 * MAX_TOKENS, temperature=0.0))
    assert longest.prompt_tokens + longest.completion_tokens <= MAX_TOKENS - 4


@pytest.mark.slow
@pytest.mark.parametrize("answering", ["v0000", "v0001"])
@pytest.mark.parametrize(
    "options", [GREEDY, Options(16, temperature=1.5, seed=7)], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_versions_come_and_go_between_the_tokens_of_an_answer(
    tmp_path: Path, architecture: str, options: Options, answering: str
) -> None:
    model = make_tiny_model(tmp_path / "model", architecture)
    workspace = make_released_workspace(tmp_path / "bot", model)
    broken = publish_adapter(workspace, model, without_numbers(model))
    _come_and_go(make_engine(model), workspace, answering, options, broken.id)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        "dora",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("ia3", "oft", "prompt", "bottleneck")),
    ],
)
@pytest.mark.parametrize("answering", ["v0000", "v0001"])
def test_every_kind_of_adapter_comes_and_goes_between_tokens(
    tmp_path: Path, form: str, answering: str
) -> None:
    base = make_tiny_model(tmp_path / "llama")
    workspace = make_workspace(tmp_path / "bot", base)
    for steps in (3, 6):
        model = make(base, form)
        fit(model, tmp_path / str(steps), learning_rate=0.3, max_steps=steps)
        publish_adapter(workspace, base, model.network)
    engine = VersionEngine(settings(base, form))
    _come_and_go(engine, workspace, answering, GREEDY)


def _come_and_go(
    engine: VersionEngine,
    workspace: Workspace,
    answering: str,
    options: Options,
    broken: str | None = None,
) -> None:
    """An answer is the same while others are loaded, unloaded and refused at each of its tokens."""
    if answering != "v0000":
        engine.load(store.get(workspace, answering))
    other = store.get(workspace, "v0002")
    engine.load(other)
    alone, others = ask(engine, answering, options), ask(engine, other.id)
    engine.unload(other.id)
    num_tokens = 0

    def disturb() -> bool:
        nonlocal num_tokens
        num_tokens += 1
        if broken:
            with pytest.raises(VersionError, match="no numbers"):
                engine.load(store.get(workspace, broken))
        engine.load(other) if num_tokens % 2 else engine.unload(other.id)
        return False

    asked = Question((Message("user", "hello"),))
    assert engine.answer(answering, asked, options, lambda _: None, disturb) == alone
    assert num_tokens > 2
    engine.load(other)
    assert ask(engine, other.id) == others
    assert ask(engine, answering, options) == alone


def test_a_version_counts_as_loaded_only_once_it_has_proven_that_it_answers(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads look at what is loaded, and take it over at once."""
    seen: list[frozenset[str]] = []
    workspace = make_released_workspace(tmp_path / "bot", tiny_model)
    engine = VersionEngine(settings_of(tiny_model))
    prove = places.prove

    def watched(place: Place, version_id: str) -> None:
        seen.append(engine.loaded)
        prove(place, version_id)

    monkeypatch.setattr(places, "prove", watched)
    engine.load(store.get(workspace, "v0001"))
    assert seen == [{"v0000"}]
    assert engine.loaded == {"v0000", "v0001"}


def test_greedy_is_the_likeliest_token_in_float32(tmp_path: Path) -> None:
    """Two values round to the same in bfloat16, and both ways of asking tell them apart."""
    folder = make_tiny_model(tmp_path / "model")
    network = load_network(folder, ModelSettings(dtype="float32"))
    prompt = torch.tensor([render(make_tokenizer(), HELLO, ask=True)])
    with torch.no_grad():
        hidden = network.model(prompt).last_hidden_state[0, -1]
        head = network.get_output_embeddings().weight
        head.mul_(0.01)
        head[[300, 301]] = hidden * 30 / hidden.square().sum()
        head[301] *= 1.001
    network.save_pretrained(folder)
    engine = VersionEngine(ModelSettings(base_model=str(folder), dtype="bfloat16"))
    expected = make_tokenizer().decode([301])
    for options in (Options(1, temperature=0), Options(1, top_p=0.0), Options(1, temperature=1e-9)):
        assert ask(engine, "v0000", options).text == expected
