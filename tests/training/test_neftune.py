"""Noise on the embeddings."""

import math
import shutil

import pytest
import torch

from tests.training.short_runs import fit, make, weights


@pytest.mark.slow
def test_noise_on_the_embeddings_is_bounded_and_resumes_exactly(tiny, tmp_path):
    options = {"neftune_alpha": 5.0, "max_steps": 4, "checkpoint_steps": 2}
    whole = fit(tiny, tmp_path / "a", **options)
    fit(tiny, tmp_path / "b", **options)
    shutil.rmtree(tmp_path / "b/checkpoints/step-00000004")
    assert torch.equal(weights(fit(tiny, tmp_path / "b", **options)), weights(whole))
    plain = fit(tiny, tmp_path / "c", **(options | {"neftune_alpha": None}))
    assert not torch.equal(weights(plain), weights(whole))


def test_the_noise_is_alpha_over_the_root_of_length_and_width(tiny):
    from llama_factory.model.padding import IGNORED
    from llama_factory.training.neftune import EmbeddingNoise

    model = make(tiny)
    ids = torch.arange(1, 21).repeat(2, 1)
    targets = torch.full((2, 20), IGNORED)
    targets[0, 7], targets[1, 18] = 5, 5  # rows of 9 and 20 tokens
    table = model.network.get_input_embeddings()
    with EmbeddingNoise(6.0).on(model, targets):
        noise = (table(ids) - table.weight[ids]).detach()
        with torch.no_grad():
            assert torch.equal(table(ids), table.weight[ids])
    width = noise.shape[-1]
    for row, length in enumerate((9, 20)):
        bound = 6.0 / math.sqrt(length * width)
        assert 0.9 * bound < float(noise[row].abs().max()) <= bound * 1.001
    assert torch.equal(table(ids), table.weight[ids])
