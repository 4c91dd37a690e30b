import shutil

import pytest
import torch

from llama_factory.core.errors import ConfigError
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.masks import EncodeOptions
from llama_factory.model.compiling import compile_layers, require_compiler
from llama_factory.model.log_probs import TokenLogProbs
from llama_factory.model.settings import ModelSettings
from tests.tiny import make_tiny_model

HAS_COMPILER = shutil.which("g++") is not None


def curve(folder, *, compiled):
    """Losses of three updates on rows of different lengths."""
    model = adapt(
        ModelSettings(base_model=str(folder), dtype="float32"),
        None,
        options=EncodeOptions(64),
        seed=0,
    )
    kernel = TokenLogProbs(model.network)
    if compiled:
        compile_layers(model.network)
    model.network.train()
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
    losses = []
    for length in (12, 20, 33):
        ids = torch.randint(1, 300, (2, length), generator=torch.Generator().manual_seed(length))
        loss = -kernel(ids, ids.roll(-1, 1)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="torch compiles with g++")
def test_compiled_layers_learn_alike_and_no_length_needs_a_program_of_its_own(tmp_path):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    folder = make_tiny_model(tmp_path)
    found = curve(folder, compiled=True)
    programs = counters["stats"]["unique_graphs"]
    assert found == pytest.approx(curve(folder, compiled=False), rel=1e-4)
    assert programs == 2  # the lowest layer's input has no gradient


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs no such compiler")
def test_a_machine_without_a_compiler_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError) as told:
        require_compiler()
    assert "training.compile: true needs a C++ compiler" in str(told.value)
    assert "Install g++ (apt install g++), or leave it false." in str(told.value)
