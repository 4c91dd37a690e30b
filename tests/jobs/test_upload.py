"""A finished folder is uploaded: to a stand-in of the hub that runs in this process."""

import pytest

from llama_factory.config.dialects.translate import translate
from llama_factory.core.errors import ConfigError
from llama_factory.jobs.upload import upload


@pytest.fixture
def folder(tmp_path):
    for name in ("adapter_config.json", "README.md", "checkpoint-2/a.json", "runs/e", ".lock"):
        path = tmp_path / "sft" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "sft"


@pytest.mark.slow
def test_a_folder_is_uploaded_without_what_is_of_the_run(hub, folder):
    said = []
    upload(folder, "me/sft", is_private=True, say=said.append)
    assert hub.asked[0]["visibility"] == "private"
    assert hub.files == {
        "adapter_config.json": b"adapter_config.json",
        "README.md": b"README.md",
    }
    assert said == [f"Uploaded to {hub.address}/me/sft."]


def test_a_refusal_says_how_to_do_it_later(hub, folder):
    hub.status = 403
    with pytest.raises(ConfigError, match="upload_to: 'me/sft' could not be written to .*403"):
        upload(folder, "me/sft", is_private=False, say=print)
    assert (folder / "adapter_config.json").is_file()


def test_their_keys_name_the_repository():
    def places(**keys):
        done = translate({"model_name_or_path": "tiny", "push_to_hub": True} | keys)
        return done.settings.get("upload_to"), done.settings.get("upload_is_private"), done.problems

    assert places(output_dir="saves/sft") == ("sft", False, [])
    assert places(hub_model_id="me/x", hub_private_repo=True) == ("me/x", True, [])
    assert places()[2][0][0] == "push_to_hub"
