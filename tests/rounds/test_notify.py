"""Messages: each receiver gets each once it takes them, whatever becomes of the others."""

import hashlib
import hmac
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llama_factory.config.loading import load_config
from llama_factory.core.errors import ConfigError
from llama_factory.rounds.commands import run_command
from llama_factory.rounds.notify import RECEIVERS, NotDeliveredError, Receiver
from llama_factory.rounds.notify.webhook import is_public
from llama_factory.rounds.outbox import MAX_TRIES, Outbox
from llama_factory.versions.journal import Journal, JournalEntry
from llama_factory.versions.workspace import Workspace

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Taker(Receiver):
    """Keeps what it is sent, and fails as often as a test wants."""

    title: str

    @property
    def name(self):
        return self.title

    def send(self, key, message, folder):
        taken.setdefault(self.title, []).append((key, message["event"]["what"]))
        if fails.get(self.title, 0):
            fails[self.title] -= 1
            raise NotDeliveredError("not now")


taken: dict[str, list] = {}
fails: dict[str, int] = {}


@pytest.fixture
def outbox(tmp_path):
    taken.clear()
    fails.clear()
    outbox = Outbox(Workspace(tmp_path))
    yield outbox
    outbox.close()


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.db")


def send(outbox, receivers, now=NOW):
    outbox.collect(receivers, now)
    outbox.send_due(receivers, now)
    outbox.finish()


def test_each_receiver_gets_each_message_once_and_nothing_from_before_it_came(outbox, journal):
    journal.add(JournalEntry("alert", "watcher"))
    both = [Taker(title="a"), Taker(title="b")]
    send(outbox, both[:1])
    journal.append([JournalEntry("released", "watcher"), JournalEntry("file seen", "watcher")])
    send(outbox, both)
    send(outbox, both)
    assert taken == {"a": [("event-2", "released")]}
    journal.add(JournalEntry("parked", "watcher"))
    send(outbox, both)
    assert taken == {
        "a": [("event-2", "released"), ("event-4", "parked")],
        "b": [("event-4", "parked")],
    }


def test_one_that_fails_neither_repeats_nor_blocks_the_others(outbox, journal):
    both = [Taker(title="good"), Taker(title="bad")]
    send(outbox, both)
    fails["bad"] = 2
    journal.append([JournalEntry("released", "watcher"), JournalEntry("parked", "watcher")])
    for seconds in (0, 10, 30, 60, 90):
        send(outbox, both, NOW + timedelta(seconds=seconds))
    assert taken["good"] == [("event-1", "released"), ("event-2", "parked")]
    assert taken["bad"] == [("event-1", "released")] * 3 + [("event-2", "parked")]


@pytest.mark.slow
def test_waits_grow_and_a_message_is_given_up_with_an_alert_for_the_others(outbox, journal):
    both = [Taker(title="good"), Taker(title="bad")]
    send(outbox, both)
    fails["bad"] = 1000
    journal.add(JournalEntry("released", "watcher"))
    for minutes in range(0, 12 * 60, 5):
        send(outbox, both, NOW + timedelta(minutes=minutes))
    assert len(taken["bad"]) == MAX_TRIES
    (alert,) = journal.events(what=["alert"])
    assert alert.data["receiver"] == "bad"
    assert taken["good"][-1] == (f"event-{alert.number}", "alert")


def test_a_clock_that_is_set_back_holds_no_message_for_years(outbox, journal):
    bad = [Taker(title="bad")]
    send(outbox, bad)
    fails["bad"] = 1
    journal.add(JournalEntry("released", "watcher"))
    send(outbox, bad, NOW + timedelta(days=900))
    send(outbox, bad, NOW)
    assert len(taken["bad"]) == 2


@pytest.fixture
def server():
    """A receiver by HTTP; `answer` is the status that it gives."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.got.append((dict(self.headers), body))
            self.send_response(server.answer)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.answer = [], 204
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def hook(server, **more):
    url = f"http://127.0.0.1:{server.server_port}/hooks?x=1"
    return RECEIVERS.parse({"type": "webhook", "url": url} | more)


def test_a_webhook_is_signed_with_the_secret(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    to = hook(server, secret_env="HOOK_SECRET", allow_internal=True)
    to.send("event-7", {"event": {"what": "发布"}}, tmp_path)
    ((headers, body),) = server.got
    assert json.loads(body) == {"event": {"what": "发布"}}
    signed = f"{headers['X-Timestamp']}.".encode() + body
    digest = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert headers["X-Signature"] == f"sha256={digest}"
    assert headers["Idempotency-Key"] == "event-7"


def test_an_address_of_this_machine_is_refused_unless_it_is_meant(server, tmp_path):
    with pytest.raises(NotDeliveredError, match="127.0.0.1, an address of this machine"):
        hook(server).send("event-1", {}, tmp_path)
    assert server.got == []


@pytest.mark.parametrize("status", [302, 307, 500])
def test_redirects_are_not_followed_and_errors_are_no_delivery(server, tmp_path, status):
    server.answer = status
    with pytest.raises(NotDeliveredError, match=f"status {status}; 2xx is expected"):
        hook(server, allow_internal=True).send("event-1", {}, tmp_path)
    assert len(server.got) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.8",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
    ],
)
def test_addresses_inside_are_known(address):
    assert not is_public(address)


def test_addresses_outside_are_known():
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


@pytest.mark.parametrize("url", ["ftp://x/y", "https://", "file:///etc/passwd", "x"])
def test_what_is_no_address_of_http_is_refused(tmp_path, url):
    path = tmp_path / "factory.yaml"
    path.write_text(f"loop: {{notify: [{{type: webhook, url: '{url}'}}]}}\n")
    with pytest.raises(ConfigError, match="is no address of http or https"):
        load_config(path)


def test_a_command_gets_the_message_and_its_failure_is_quoted(tmp_path):
    script = tmp_path / "tell.sh"
    script.write_text("#!/bin/sh\ncat > got.json\necho no room >&2\nexit 3\n")
    script.chmod(0o755)
    to = RECEIVERS.parse({"type": "command", "run": "./tell.sh"})
    with pytest.raises(NotDeliveredError, match=r"\./tell.sh: ended with exit code 3: no room"):
        to.send("event-1", {"event": {"number": 1}}, tmp_path)
    assert json.loads((tmp_path / "got.json").read_text()) == {
        "event": {"number": 1},
        "key": "event-1",
    }


def test_a_command_that_hangs_is_killed_with_all_it_started(tmp_path):
    script = tmp_path / "hang.sh"
    script.write_text("#!/bin/sh\nsleep 1000 & echo $! > child\nwait\n")
    script.chmod(0o755)
    words, soon = ["./hang.sh"], timedelta(seconds=0.5)
    done = run_command(words, "", folder=tmp_path, timeout=soon)
    assert done.problem == "killed: it ran for 0.5s"
    child = int((tmp_path / "child").read_text())
    while is_alive(child):  # whoever was killed may wait for its parent to notice
        time.sleep(0.01)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_command_that_does_not_exist_is_named(tmp_path):
    done = run_command(["./none.sh"], "", folder=tmp_path, timeout=timedelta(seconds=1))
    assert done.problem == "cannot be run: No such file or directory"
