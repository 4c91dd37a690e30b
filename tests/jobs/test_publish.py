"""A version is published: to a stand-in of a model hub, and to an MLflow on this machine."""

import json
from pathlib import Path

import pytest

from llama_factory import upkeep
from llama_factory.core.errors import VersionError
from llama_factory.model import provenance
from llama_factory.versions.version import ModelVersion
from tests.web.bots import make_bot


@pytest.fixture
def bot(tmp_path):
    return make_bot(tmp_path / "bot", 2)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def test_a_hub_holds_each_version_under_its_id_and_moves_the_aliases(hub, bot):
    upkeep.publish(bot.folder, "v0001", "hf:me/bot")
    done = upkeep.publish(bot.folder, "production", "hf:me/bot")
    assert done.version == "v0002"
    assert done.aliases == ("production",)
    assert done.place == f"{hub.address}/me/bot/tree/v0002"
    assert sorted(hub.tags) == ["previous", "production", "v0001", "v0002"]
    assert hub.asked[0]["visibility"] == "private"
    adapter = bot.versions / "v0002" / "adapter"
    assert hub.files["adapter_config.json"] == (adapter / "adapter_config.json").read_bytes()


def test_mlflow_knows_the_version_its_scores_and_its_aliases(bot, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    upkeep.publish(bot.folder, "v0001", "mlflow:bot")
    upkeep.note(bot.folder, "v0002", "good on returns", "Li")
    done = upkeep.publish(bot.folder, "production", "mlflow:bot")
    assert done.place == "models:/bot/2"
    client = mlflow.MlflowClient()
    held = client.get_model_version_by_alias("bot", "production")
    assert held.tags == {"version": "v0002", "parent": "v0001", "base_model": "tiny"}
    assert held.description.endswith("Li: good on returns")
    scores = ModelVersion.read(bot.versions / "v0002").scores.tasks
    shown = {f"{name}/{key}": n for name, t in scores.items() for key, n in t.scores.items()}
    metrics = client.get_run(held.run_id).data.metrics
    assert len(shown) > 1
    assert {name: metrics.get(name) for name in shown} == shown
    path = Path(mlflow.artifacts.download_artifacts(f"{held.source}/adapter_config.json"))
    assert json.loads(path.read_text())["peft_type"] == "LORA"


def test_a_hub_that_refuses_leaves_the_version_as_it_is(hub, bot):
    hub.status = 403
    with pytest.raises(VersionError, match="'hf:me/bot' could not be written to .*403"):
        upkeep.publish(bot.folder, "v0001", "hf:me/bot")
    assert not hub.files


@pytest.mark.parametrize("target", ["me/bot", "hf:", "s3:bot", ""])
def test_what_is_no_registry_is_refused(bot, target):
    with pytest.raises(VersionError, match=r"--to: .* is no registry\. Write hf:OWNER/NAME"):
        upkeep.publish(bot.folder, "v0001", target)


def test_what_plain_peft_cannot_load_is_refused(bot, tmp_path):
    with pytest.raises(VersionError, match="v0000 is the base model, tiny"):
        upkeep.publish(bot.folder, "v0000", "hf:me/bot")
    one, other = (bot.versions / name / "adapter" for name in ("v0001", "v0002"))
    provenance.record(other, provenance.Provenance("", (one,)))
    with pytest.raises(
        VersionError, match="v0002: adapter/merged_adapters"
    ):  # its files were changed
        upkeep.publish(bot.folder, "v0002", "hf:me/bot")
    manifest = bot.versions / "v0002" / "manifest.json"
    rewrite_checksums(manifest)
    with pytest.raises(VersionError, match="updates that were consolidated"):
        upkeep.publish(bot.folder, "v0002", "hf:me/bot")


def rewrite_checksums(manifest):
    from llama_factory.core import files

    hashes = files.hash_folder(manifest.parent, leave_out=frozenset({manifest.name}))
    files.write_json(manifest, files.read_json(manifest) | {"files": hashes})
