import pytest
import torch

from llama_factory.core.errors import ModelError
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.masks import EncodeOptions
from llama_factory.model.log_probs import TokenLogProbs
from llama_factory.model.recomputation import is_recomputed, recompute
from llama_factory.model.settings import ModelSettings
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


def run(folder, adapter, *, again):
    """Gradients, and how many values a forward pass keeps for its backward pass."""
    settings = ModelSettings(base_model=str(folder), dtype="float32", adapter=adapter)
    model = adapt(settings, None, options=EncodeOptions(64), seed=0)
    if again:
        recompute(model.network)
    assert is_recomputed(model.network) is again
    model.network.train()
    kernel, sizes = TokenLogProbs(model.network), []
    ids = torch.randint(1, 300, (2, 40), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = -kernel(ids, ids.roll(-1, 1)).sum()
    kept = sum(sizes)
    loss.backward()
    return {name: weight.grad for name, weight in model.trainable().items()}, kept


@pytest.mark.parametrize(
    "adapter",
    ["lora", "full", {"type": "lora", "dropout": 0.3}, {"type": "freeze", "highest": 1}],
    ids=["lora", "full", "lora with dropout", "freeze"],
)
def test_recomputed_activations_give_the_same_gradients(llama, adapter):
    expected, much = run(llama, adapter, again=False)
    found, little = run(llama, adapter, again=True)
    assert list(found) == list(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)
    assert little < much


def test_a_model_that_cannot_says_what_to_do_instead():
    class Odd:
        def activation_checkpointing_enable(self, options):
            raise ValueError("Odd does not support activation checkpointing.")

    with pytest.raises(ModelError) as told:
        recompute(Odd())
    assert "training.gradient_checkpointing: Odd cannot compute its layers again" in str(told.value)
    assert "Set it to false and lower training.micro_batch_tokens instead." in str(told.value)
