"""Nothing leaves the machine while it is offline, and everything is as before afterwards."""

import os
import socket
import urllib.request

import datasets
import httpx
import huggingface_hub
import pytest
from datasets import config
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from llama_factory.evaluation.offline import SWITCHES, VARIABLES, offline

URL = "http://data.example.com/rows.jsonl"


@pytest.fixture
def reached(monkeypatch):
    """Hosts that something tried to reach; none of them can be."""
    hosts = []

    def refuse(host, *rest, **options):
        hosts.append(host)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return hosts


def state():
    environment = {name: os.environ.get(name) for name in VARIABLES}
    return constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE, config.HF_DATASETS_OFFLINE, environment


def test_a_download_from_the_hub_is_refused_as_offline(reached, tmp_path):
    with pytest.raises(Exception, match="no such host"):
        huggingface_hub.get_session().get(URL)
    assert reached  # otherwise this says nothing about what follows
    reached.clear()
    with offline():
        assert huggingface_hub.is_offline_mode()
        with pytest.raises(OfflineModeIsEnabled):
            huggingface_hub.get_session().get(URL)
        with pytest.raises(OfflineModeIsEnabled):
            huggingface_hub.HfApi().model_info("none/such")
        with pytest.raises(LocalEntryNotFoundError):
            huggingface_hub.hf_hub_download("none/such", "config.json", cache_dir=tmp_path)
    assert not reached


def test_rows_that_are_not_on_this_machine_are_refused_as_offline(reached, tmp_path):
    with offline():
        with pytest.raises(ConnectionError, match="OfflineModeIsEnabled"):
            datasets.load_dataset("none/such", cache_dir=str(tmp_path))
        with pytest.raises(FileNotFoundError, match=URL):
            datasets.load_dataset("json", data_files=URL, cache_dir=str(tmp_path))
        with pytest.raises(OfflineModeIsEnabled):
            datasets.DownloadManager().download(URL)
    assert not reached


def test_rows_on_this_machine_are_read(reached, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    with offline():
        files = str(tmp_path / "rows.jsonl")
        found = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert list(found["train"]) == [{"a": 1}]
    assert not reached


@pytest.mark.parametrize("url", [URL, "http://192.0.2.1/rows.jsonl"])
def test_other_libraries_reach_nothing_either(reached, url):
    with offline(), pytest.raises(OSError, match="switched off here"):
        urllib.request.urlopen(url)
    with offline(), pytest.raises(httpx.ConnectError, match="switched off here"):
        httpx.get(url)
    assert not reached


def test_everything_is_as_before_even_after_an_error():
    before, lookup = state(), socket.getaddrinfo
    with offline():
        assert state() == (True, True, True, dict.fromkeys(VARIABLES, "1"))
    with pytest.raises(ConnectionError), offline():
        socket.create_connection(("data.example.com", 80))
    assert state() == before
    assert socket.getaddrinfo is lookup


def test_the_inner_of_two_leaves_the_outer_one_offline():
    with offline():
        with offline():
            pass
        assert constants.HF_HUB_OFFLINE
        assert config.HF_HUB_OFFLINE


def test_a_library_without_its_switch_is_an_error(monkeypatch):
    before = state()
    monkeypatch.setattr(
        "llama_factory.evaluation.offline.SWITCHES", (*SWITCHES, ("socket", "NO_NAME"))
    )
    with pytest.raises(AttributeError, match="NO_NAME"), offline():
        pass
    assert state() == before
