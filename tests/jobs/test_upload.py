"""A finished folder is uploaded: to a stand-in of the hub that runs in this process."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llama_factory.config.dialects.translate import translate
from llama_factory.core.errors import ConfigError
from llama_factory.jobs.upload import upload


class Hub(BaseHTTPRequestHandler):
    """Makes repositories and takes commits, as Hugging Face does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        hub = self.server
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            hub.asked.append(json.loads(body))
            self.answer({"url": f"{hub.address}/me/{hub.asked[-1]['name']}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            kinds = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            self.answer({"files": [kind | {"shouldIgnore": False} for kind in kinds]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitOid": "0" * 40, "commitUrl": f"{hub.address}/me/sft/commit/0"})
        else:
            self.answer({"error": "no such place"}, 404)

    def do_GET(self):
        self.answer({"name": "me", "type": "user"})

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(self.server.status or status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Nothing is shown."""


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.files, server.status = [], {}, None
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(hf_api, "ENDPOINT", server.address, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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
