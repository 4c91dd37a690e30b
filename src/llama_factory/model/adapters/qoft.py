"""QOFT: OFT on a base model whose weights are packed. Qiu et al. 2025, section 4.3,
https://arxiv.org/abs/2506.19847
"""

from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.adapters.oft import Oft
from llama_factory.model.adapters.packing import OnPackedBase


@ADAPTERS.register("qoft")
class Qoft(OnPackedBase, Oft):
    """Rotations of the inputs of packed layers. Needs bitsandbytes."""
