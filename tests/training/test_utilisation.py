import sys
from types import SimpleNamespace

import pytest
import torch

from llama_factory.training.device_memory import device_utilisation

GPU = torch.device("cuda")


class DriverError(Exception):
    """As the library's own: no RuntimeError."""


@pytest.fixture
def driver(monkeypatch):
    """The library that asks the driver, which this machine need not have."""
    library = SimpleNamespace(NVMLError=DriverError, __spec__="there")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return monkeypatch


def test_a_processor_has_no_such_number():
    assert device_utilisation(torch.device("cpu")) == {}


def test_without_the_library_there_is_no_number(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert device_utilisation(GPU) == {}


def test_a_share_of_one(driver):
    driver.setattr(torch.cuda, "utilization", lambda device: 87)
    assert device_utilisation(GPU) == {"gpu_utilisation": 0.87}


@pytest.mark.parametrize("error", [DriverError("Not Supported"), RuntimeError("no driver")])
def test_a_driver_that_does_not_tell_gives_no_number(driver, error):
    def fail(device):
        raise error

    driver.setattr(torch.cuda, "utilization", fail)
    assert device_utilisation(GPU) == {}
