"""Notices of the clouds, from a stand-in of their addresses, and what they lead to."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llama_factory.core import preemption
from llama_factory.core.signals import TRY_AGAIN, Stopped, stopping_safely


class Metadata(BaseHTTPRequestHandler):
    """Answers as the metadata services do; `server.is_leaving` says whether the notice is out."""

    def do_PUT(self):
        is_asked_rightly = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.reply("token" if is_asked_rightly else None)

    def do_GET(self):
        leaving = self.server.is_leaving
        if self.path == "/latest/meta-data/spot/instance-action":
            knows = self.headers["X-aws-ec2-metadata-token"] == "token"
            self.reply('{"action": "terminate"}' if leaving and knows else None)
        elif self.path == "/computeMetadata/v1/instance/preempted":
            knows = self.headers["Metadata-Flavor"] == "Google"
            self.reply(("TRUE" if leaving else "FALSE") if knows else None)
        elif self.path.startswith("/metadata/scheduledevents?api-version="):
            events = [{"EventType": "Reboot"}] + [{"EventType": "Preempt"}] * leaving
            self.reply(json.dumps({"Events": events}) if self.headers["Metadata"] else None)
        elif self.path == "/nonsense/metadata/scheduledevents?api-version=2020-07-01":
            self.reply("[1, 2")
        else:
            self.reply("leave" if leaving and self.path == "/leave" else None)

    def reply(self, body):
        content = (body or "").encode()
        self.send_response(404 if body is None else 200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Silent."""


@pytest.fixture
def metadata(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be asked
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.is_leaving = False
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_each_cloud_is_asked_in_its_way(metadata, cloud):
    notice = preemption.CLOUDS[cloud](metadata.address)
    assert not notice()
    metadata.is_leaving = True
    assert notice()


def test_an_address_and_a_file_may_tell_as_well(metadata, tmp_path):
    by_address = preemption.notice_of(f"{metadata.address}/leave")
    by_file = preemption.notice_of(str(tmp_path / "leave"))
    assert not by_address()
    assert not by_file()
    metadata.is_leaving = True
    (tmp_path / "leave").touch()
    assert by_address()
    assert by_file()


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_nobody_answers_where_there_is_no_cloud(cloud):
    assert not preemption.CLOUDS[cloud]("http://127.0.0.1:1")()


def test_nonsense_is_no_notice(metadata):
    assert not preemption.of_azure(f"{metadata.address}/nonsense")()


def test_a_notice_is_one_sigterm_to_this_process(tmp_path):
    heard, said, arrived = [], [], threading.Event()

    def hear(number, _frame):
        heard.append(number)
        arrived.set()

    before = signal.signal(signal.SIGTERM, hear)
    try:
        with preemption.leaving_on_notice(str(tmp_path / "leave"), said.append, every=0.001):
            assert heard == []
            (tmp_path / "leave").touch()
            while not arrived.wait(0.01):  # signals are handled between two waits
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert "about to be taken away" in said[0]
    assert len(said) == 1


def test_a_notice_is_heard_outside_the_main_thread_too(tmp_path):
    asked, num_threads = [], threading.active_count()

    def work():
        with (
            preemption.leaving_on_notice(str(tmp_path / "leave"), print, every=0.001),
            stopping_safely() as is_asked,
        ):
            asked.append(is_asked())
            (tmp_path / "leave").touch()
            while not is_asked():
                continue
            asked.append(is_asked())
        with stopping_safely() as is_asked:
            asked.append(is_asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [0, signal.SIGTERM, 0]
    assert threading.active_count() == num_threads


def test_without_a_source_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(os, "kill", None)
    with preemption.leaving_on_notice("", print):
        assert threading.active_count() >= 1


def test_who_is_sent_away_is_asked_to_come_again():
    assert Stopped(signal.SIGTERM).exit_code == TRY_AGAIN == os.EX_TEMPFAIL
    assert Stopped(signal.SIGINT).exit_code == 128 + signal.SIGINT
