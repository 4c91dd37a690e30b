"""A workspace whose versions differ by small random adapters; the newest but one is released."""

from pathlib import Path

import torch

from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.tiny import make_workspace, publish_adapter, random_adapter

SMALL = 0.005
"""Spread of the weights B: answers differ, and stay sentences."""


def make_versions(folder: Path, model: Path, number: int) -> Path:
    """So many versions on a base model."""
    workspace = make_workspace(folder, model)
    for seed in range(1, number + 1):
        publish_small(workspace, model, seed)
    releases.promote(workspace.releases, f"v{max(1, number - 1):04}", "benchmark")
    return workspace.folder


def publish_small(workspace: Workspace, model: Path, seed: int, spread: float = SMALL) -> str:
    """Publish a version whose adapter changes the answers a little; gives its id."""
    network = random_adapter(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_A" in name:
                weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)
            if "lora_B" in name:
                weight.normal_(0, spread, generator=generator)
    return publish_adapter(workspace, model, network).id
