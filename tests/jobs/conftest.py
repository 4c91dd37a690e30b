"""A stand-in of a model hub."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(BaseHTTPRequestHandler):
    """Makes repositories, takes commits and keeps tags, as Hugging Face does."""

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
        elif "/tag/" in self.path:
            hub.tags.append(json.loads(body)["tag"])
            self.answer({})
        else:
            self.answer({"error": "no such place"}, 404)

    def do_GET(self):
        tags = [{"name": t, "ref": t, "targetCommit": "0" * 40} for t in self.server.tags]
        refs = {"branches": [], "converts": [], "tags": tags}
        self.answer(refs if self.path.endswith("/refs") else {"name": "me", "type": "user"})

    def do_DELETE(self):
        self.server.tags.remove(self.path.rpartition("/")[2])
        self.answer({})

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
    server.asked, server.files, server.tags, server.status = [], {}, [], None
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
