"""Whether quick layers compute what the layers that they stand for do, tried out in float32.

In half precision two ways to compute the same differ by rounding, so copies of a few layers in
float32 are compared, where a difference is one of kind.
"""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from llama_factory.model.quick.layer import PassContext, block_of, run
from llama_factory.model.quick.layout import Stretch


def layers_agree(backbone: Any, ids: Tensor, tolerance: float) -> bool:
    """Whether the first, the middle and the last layer compute what their quick form does.

    Args:
        backbone: whose layers are of a known kind.
        ids: [rows, seq] token ids, none of them padding.
        tolerance: largest difference, as a fraction of the largest value.
    """
    layers = list(backbone.layers)
    tried = {id(each): each for each in (layers[0], layers[len(layers) // 2], layers[-1])}
    found: list[bool] = []

    def compare(layer: Any, args: Any, options: Any, _: Any) -> None:
        found.append(_agrees(layer, args, options, tolerance))

    hooks = [each.register_forward_hook(compare, with_kwargs=True) for each in tried.values()]
    try:
        backbone(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return all(found)


def _agrees(layer: Any, args: tuple[Any, ...], options: dict[str, Any], tolerance: float) -> bool:
    wide = copy.deepcopy(layer).float()
    wide._forward_hooks.clear()
    args = _each(args, _widened)
    options = {name: _each(value, _widened) for name, value in options.items()}
    theirs = wide(*args, **options)
    theirs = theirs if isinstance(theirs, Tensor) else theirs[0]
    hidden = args[0] if args else options["hidden_states"]
    ours = run(hidden.flatten(0, 1), block_of(wide), _reading(hidden, options))
    difference = (ours.view_as(theirs) - theirs).abs().max()
    return bool(difference <= tolerance * theirs.abs().max())


def _reading(hidden: Tensor, options: dict[str, Any]) -> PassContext:
    """The rows of a layer's input end to end."""
    num_rows, size = hidden.shape[:2]
    stretches = tuple(Stretch(number * size, size) for number in range(num_rows))
    tables = []
    for table in options["position_embeddings"]:
        half = table.shape[-1] // 2
        tables.append(table[..., None, :half].expand(num_rows, -1, -1, -1).flatten(0, 1))
    return PassContext(stretches, *tables)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


def _widened(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if is_number else value
