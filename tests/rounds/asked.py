"""A server of a workspace that is asked all the while, killed, and started again on its port."""

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx

from tests.serving.soak import free_port

PAUSE_SECONDS = 0.3


class AskedServer:
    """One client asks one question again and again.

    Attributes:
        versions: which version gave each answer, in order.
        failed: answers that were none, by their status; `cut` where the server was down.
    """

    def __init__(self, workspace, log: Path):
        self.versions: list[str] = []
        self.failed: Counter[str] = Counter()
        self._port, self._log = free_port(), log
        self._command = [sys.executable, "-m", "llama_factory", "serve", str(workspace.folder)]
        self._command += ["--port", str(self._port)]
        self._process = None
        self._stop = threading.Event()
        self._asking = threading.Thread(target=self._ask_on)

    def start(self):
        """Start what is not running."""
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        if not self._asking.is_alive():
            self._asking.start()

    def kill(self):
        """As if power failed; whether it answered before."""
        is_up = self._ask() == 200
        self._process.kill()
        self._process.wait()
        return is_up

    def answers_with(self, version):
        """Whether the last answer was this version's."""
        return self.versions[-1:] == [version]

    def stop(self):
        """Ask both to leave."""
        self._stop.set()
        if self._asking.is_alive():
            self._asking.join()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def _ask_on(self):
        while not self._stop.wait(PAUSE_SECONDS):
            self._ask(notes=True)

    def _ask(self, *, notes=False):
        asked = {
            "model": "production",
            "max_tokens": 4,
            "messages": [{"role": "user", "content": "Which page?"}],
        }
        url = f"http://127.0.0.1:{self._port}/v1/chat/completions"
        try:
            got = httpx.post(url, json=asked, timeout=60)
        except httpx.TransportError:
            self.failed["cut"] += notes
            return 0
        if notes and got.status_code == 200:
            self.versions.append(got.json()["model"])
        elif notes:
            self.failed[str(got.status_code)] += 1
        return got.status_code
