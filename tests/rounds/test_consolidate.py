"""Consolidation: the updates go into the weights; answers, memory and the way back stay."""

import shutil

import pytest
import torch

from llama_factory import run, use
from llama_factory.config.loading import load_config
from llama_factory.core.errors import ConfigError, ModelError, VersionError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Memory, Message
from llama_factory.inference.question import Options, Question
from llama_factory.inference.version_engine import VersionEngine
from llama_factory.jobs.model_reference import ModelReference
from llama_factory.model import provenance
from llama_factory.model.adapted import adapt
from llama_factory.model.base import fingerprint, load_network
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.settings import ModelSettings
from llama_factory.rounds.consolidate import consolidated_memory
from llama_factory.versions import releases, store
from tests.rounds.rounds import Listener, drop, learn, teach

IDS = torch.tensor([[5, 9, 14, 77, 31]])


def consolidate(workspace, *changes):
    listener = Listener()
    return run.consolidate(workspace.folder, changes, listener).version, listener.said


def taught(workspace, name, *changes):
    drop(workspace, name)
    done, _ = learn(workspace, *changes)
    assert done.verdict.is_promoted
    return done.version


def logits(workspace, version_id):
    config = load_config(workspace.settings)
    reference = ModelReference(str(workspace.folder), version_id)
    model = reference.find(config.model).open(encode_options(config.data))
    with torch.no_grad():
        return model.network(IDS).logits


def answer(engine, version):
    engine.load(version)
    pieces = []
    options = Options(max_tokens=12, temperature=0.0)
    asked = Question((Message("user", "faq question 3?"),))
    return engine.answer(version.id, asked, options, pieces.append, lambda: False).text


@pytest.mark.slow
def test_answers_stay_rounds_go_on_and_rollback_undoes_it(bot, tiny):
    before = teach(bot, "faq")
    version, said = consolidate(bot)
    assert said == [f"Adding 1 update(s) to {tiny} in float32."]
    assert releases.read(bot.releases).production == version.id == "v0002"
    assert version.base_fingerprint == before.base_fingerprint == fingerprint(tiny)
    torch.testing.assert_close(logits(bot, "v0002"), logits(bot, "v0001"), rtol=1e-4, atol=1e-5)
    fresh = adapt(
        ModelSettings(base_model=str(tiny), adapter={"type": "lora", "rank": 4}, dtype="float32"),
        version.adapter,
        options=encode_options(load_config(bot.settings).data),
        seed=0,
    )
    assert not any(w.any() for name, w in fresh.trainable().items() if "lora_B" in name)
    third = taught(bot, "news")
    assert third.parent == "v0002"
    assert {row.group for row in third.memory.rows["replay"]} == {"faq", "news"}
    story = run.show(bot.folder, "v0003")
    matrix = story.matrices[-1]
    assert matrix.versions == ("v0001", "v0002", "v0003")
    assert matrix.tasks == ("v0001 faq", "v0003 news")
    assert matrix.base["v0003 news"] is not None
    assert run.rollback(bot.folder, "v0001") == ("v0003", "v0001")
    assert taught(bot, "other").parent == "v0001"


@pytest.mark.slow
def test_the_second_consolidation_begins_at_the_original_base(bot, tiny, tmp_path):
    teach(bot, "faq")
    consolidate(bot)
    before = taught(bot, "news")
    version, said = consolidate(bot)
    assert said == [f"Adding 2 update(s) to {tiny} in float32."]
    chain = provenance.read(version.adapter).merged
    first = store.get(bot, "v0001").adapter
    assert [provenance.WEIGHTS_FILE in {p.name for p in each.iterdir()} for each in chain] == [
        True
    ] * 2
    assert (chain[0] / provenance.WEIGHTS_FILE).read_bytes() == (
        first / provenance.WEIGHTS_FILE
    ).read_bytes()
    torch.testing.assert_close(
        logits(bot, version.id), logits(bot, before.id), rtol=1e-4, atol=1e-5
    )
    # every version is complete: those it was made of may be gone
    for each in ("v0001", "v0002", "v0003"):
        shutil.rmtree(bot.versions / each)
    exported = use.export(
        ModelReference(str(bot.folder), version.id),
        tmp_path / "whole",
        prompts=None,
        dtype="float32",
        shard_size="1GB",
        progress=SILENT,
    )
    whole = load_network(exported.folder, ModelSettings(dtype="float32"))
    with torch.no_grad():
        torch.testing.assert_close(whole(IDS).logits, logits(bot, version.id), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_weights_are_rounded_once(bot, tiny):
    teach(bot, "faq")
    consolidate(bot)
    taught(bot, "news")
    consolidate(bot)
    settings = {"base_model": str(tiny), "adapter": {"type": "lora", "rank": 4}}
    options = encode_options(load_config(bot.settings).data)
    chain = provenance.read(store.get(bot, "v0004").adapter).merged
    exact, short = (
        adapt(ModelSettings(**settings, dtype=dtype), None, options=options, seed=0, merged=chain)
        for dtype in ("float32", "bfloat16")
    )
    rounded = dict(short.network.named_parameters())
    compared = 0
    for name, weight in exact.network.named_parameters():
        if name not in exact.trainable():
            assert torch.equal(rounded[name], weight.to(torch.bfloat16)), name
            compared += 1
    assert compared > 10


@pytest.mark.slow
def test_a_server_answers_with_all_of_them_at_once(bot, tiny):
    first = teach(bot, "faq")
    version, _ = consolidate(bot)
    third = taught(bot, "news")
    engine = VersionEngine(ModelSettings(base_model=str(tiny), dtype="float32"))
    told = [answer(engine, each) for each in (first, version, third)]
    assert told[0] == told[1]
    again = [answer(engine, each) for each in (third, first, version)]
    assert again == [told[2], told[0], told[1]]
    engine.unload(third.id)
    assert answer(engine, version) == told[1]
    assert engine.loaded == {"v0000", "v0001", "v0002"}


@pytest.mark.slow
def test_what_strategies_remember_goes_through_bit_for_bit(bot):
    strategies = "strategies=[replay, ewc, anchor, {type: merge, method: interpolate}]"
    before = taught(bot, "faq", strategies).memory
    version, _ = consolidate(bot)
    after = version.memory
    assert after.rows == before.rows
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    assert after.numbers == {k: n for k, n in before.numbers.items() if k != "merge.digest"}
    third = taught(bot, "news", strategies)
    assert third.memory.numbers["merge.rounds"] == 3 - 1
    assert third.memory.numbers["ewc.rounds"] == pytest.approx(0.95 + 1)


@pytest.mark.slow
def test_directions_of_earlier_rounds_stay_taken(bot):
    olora = "strategies=[{type: olora, rank: 2}]"
    taught(bot, "faq", olora)
    before = taught(bot, "news", olora).memory
    version, _ = consolidate(bot)
    kept = version.memory
    assert "olora.used" not in kept.numbers
    name = next(key.removeprefix("olora.") for key in before.tensors)
    directions = before.tensors[f"olora.{name}"]
    assert torch.equal(kept.tensors[f"olora.consolidated.{name}"], directions)
    # the adapter's four ranks were full; the fresh one has room, at right angles to them
    after = taught(bot, "more", olora).memory
    own = after.tensors[f"olora.{name}"]
    assert own.shape[0] == 2
    cosines = torch.nn.functional.normalize(own) @ torch.nn.functional.normalize(directions).T
    assert cosines.abs().max() < 0.2
    assert torch.equal(after.tensors[f"olora.consolidated.{name}"], directions)
    again = consolidated_memory(after)
    assert torch.equal(again.tensors[f"olora.consolidated.{name}"], torch.cat([directions, own]))


def test_what_was_measured_of_an_adapter_s_own_weights_goes_with_it():
    kept = consolidated_memory(
        Memory(
            tensors={"ewc.weights.layer.lora_A": torch.ones(2), "merge.trained.x": torch.ones(1)},
            numbers={"ewc.rounds": 1.0, "ewc.norm": 2.0, "merge.rounds": 2.0, "merge.norm": 1.0},
        )
    )
    assert dict(kept.tensors) == {}
    assert dict(kept.numbers) == {"merge.rounds": 2.0}


@pytest.mark.slow
def test_the_base_is_still_the_one_that_drift_is_measured_from(bot):
    before = teach(bot, "faq").report
    version, _ = consolidate(bot)
    after = version.report
    assert after["base_guard_perplexity"] == before["base_guard_perplexity"]
    assert after["base_divergence"] == pytest.approx(before["base_divergence"], rel=0.01)
    assert after["base_divergence"] > 0
    third = taught(bot, "news").report
    assert third["base_guard_perplexity"] == before["base_guard_perplexity"]
    base = {task["task"]: task for task in third["base"]["tasks"]}
    taught_before = {task["task"]: task for task in third["before"]["tasks"]}
    name = "v0003 news"
    assert base[name]["perplexity"] != taught_before[name]["perplexity"]


@pytest.mark.slow
def test_a_rank_of_its_own_may_begin(bot):
    teach(bot, "faq")
    version, _ = consolidate(bot, "model.adapter.rank=8")
    assert run.files.read_json(version.adapter / "adapter_config.json")["r"] == 8
    assert taught(bot, "news", "model.adapter.rank=8").parent == version.id


@pytest.mark.slow
def test_a_gate_that_refuses_it_keeps_the_released_version(bot):
    teach(bot, "faq")
    version, _ = consolidate(bot, "gate.max_guard_ratio=0.01")
    found = releases.read(bot.releases)
    assert found.production == "v0001"
    assert found.aliases["candidate"] == version.id
    assert [check["name"] for check in version.report["verdict"]["checks"]] == ["kept", "general"]


@pytest.mark.slow
def test_what_cannot_be_consolidated_is_told_at_once(bot, tmp_path):
    with pytest.raises(VersionError, match="v0000, the released version, is the untouched base"):
        consolidate(bot)
    teach(bot, "faq")
    with pytest.raises(ConfigError, match="only those of plain LoRA layers add up"):
        consolidate(bot, "model.adapter.use_dora=true")
    bot.building.mkdir()
    (bot.building / "plan.json").write_text("{}")
    with pytest.raises(VersionError, match="a round was interrupted here"):
        consolidate(bot)
    shutil.rmtree(bot.building)
    consolidate(bot)
    with pytest.raises(VersionError, match="v0002 was consolidated and taught nothing since"):
        consolidate(bot)


@pytest.mark.slow
def test_an_adapter_of_another_kind_is_refused(bot):
    taught(bot, "faq", "model.adapter={type: lora, rank: 4, use_dora: true}")
    with pytest.raises(
        ModelError, match="only plain LoRA adapters add up, and this one has use_do"
    ):
        consolidate(bot)
