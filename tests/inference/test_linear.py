"""Products with weights in each number format: against torch's own, row by row."""

import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llama_factory.core.errors import ConfigError
from llama_factory.inference.linear import plain_suits_few_rows, product

FORMATS = ("float32", "bfloat16", "int8")
EXACT = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 2e-2}
"""Largest error beside a float32 product, as a fraction of the largest output."""
ALONE = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 0.0}
"""The same between a row alone and the row in a batch."""


def weight_of(outputs, inputs, seed=0, *, outlier=1.0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) * 0.05
    weight[0, 0] *= outlier
    return weight, torch.randn(outputs, generator=generator)


def rows_of(count, inputs, seed=1):
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed))


def error(result, wanted):
    return ((result.float() - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("count", [1, 3, 16, 70])
def test_products_are_those_of_the_weight(weights, has_bias, count):
    weight, bias = weight_of(96, 64)
    x = rows_of(count, 64)
    wanted = F.linear(x, weight, bias if has_bias else None)
    result = product(weight, bias if has_bias else None, weights)(x)
    assert error(result, wanted) < EXACT[weights]
    assert result.dtype == x.dtype


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (0, 5), (2, 0, 5), (1, 1, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_shape_and_format_keeps_its_own(weights, shape, dtype):
    weight, bias = weight_of(7, 5)
    x = torch.ones(shape, dtype=dtype)
    result = product(weight, bias, weights)(x)
    assert result.shape == (*shape[:-1], 7)
    assert result.dtype == dtype


@pytest.mark.parametrize("weights", FORMATS)
def test_inputs_and_weights_need_not_be_contiguous(weights):
    weight, bias = weight_of(64, 96)
    apply = product(weight.T, bias[:48].repeat(2), weights)
    x = rows_of(64, 8).T
    assert not x.is_contiguous()
    assert error(apply(x), apply(x.contiguous())) <= ALONE[weights]
    wide = rows_of(4, 128)[:, ::2]
    assert error(apply(wide), apply(wide.contiguous())) <= ALONE[weights]


@pytest.mark.parametrize("weights", FORMATS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(1e-3, 1e3),
    row=st.integers(0, 15),
    inputs=st.sampled_from([32, 64, 96, 192]),
)
def test_a_row_does_not_depend_on_its_neighbours(weights, seed, scale, row, inputs):
    weight, bias = weight_of(48, inputs, seed)
    x = rows_of(16, inputs, seed + 1)
    x[(row + 1) % 16] *= scale
    apply = product(weight, bias, weights)
    alone, among = apply(x[row : row + 1]), apply(x)[row : row + 1]
    assert error(alone, among.float()) <= ALONE[weights]


def test_a_packed_weight_may_be_freed():
    weight, bias = weight_of(32, 32)
    x = rows_of(2, 32)
    apply = product(weight, bias, "float32")
    before = apply(x)
    weight.zero_()
    assert torch.equal(apply(x), before)


def test_auto_keeps_the_format_of_the_weight():
    weight, bias = weight_of(64, 32)
    assert product(weight, bias, "auto").num_bytes == 4 * (64 * 32 + 64)
    assert product(weight.bfloat16(), None, "auto").num_bytes == 2 * 64 * 32


def test_int8_takes_a_quarter_of_the_memory():
    weight, bias = weight_of(256, 512)
    full = product(weight, bias, "float32").num_bytes
    assert product(weight, bias, "int8").num_bytes < 0.3 * full


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("inputs", [2, 3, 5, 63])
def test_int8_sums_do_not_overflow(sign, inputs):
    """Equal inputs and weights at the ends of their ranges: the largest sums there can be."""
    weight = torch.cat([torch.ones(4, inputs), -torch.ones(4, inputs)])
    x = torch.full((3, inputs), float(sign))
    assert error(product(weight, None, "int8")(x), F.linear(x, weight)) < 1e-2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), power=st.floats(0.2, 4), inputs=st.sampled_from([33, 66, 576]))
def test_int8_is_near_whatever_the_weights_look_like(seed, power, inputs):
    """An overflow would be an error of a tenth and more of the largest sum."""
    weight, _ = weight_of(24, inputs, seed)
    weight = weight.sign() * (weight.abs() / weight.abs().max()) ** power
    x = rows_of(5, inputs, seed + 1)
    x = x.sign() * x.abs() ** power
    wanted = F.linear(x.double(), weight.double())
    largest = x.double().norm(dim=1)[:, None] * weight.double().norm(dim=1)
    assert ((product(weight, None, "int8")(x) - wanted).abs() / largest).max() < 0.02


def test_int8_spreads_outliers():
    """One input a thousand times the others drowns them without the rotation."""
    weight, _ = weight_of(64, 576)
    x = rows_of(8, 576)
    x[:, 7] *= 100
    wanted = F.linear(x, weight)
    step = x.abs().amax(1, keepdim=True) / 127
    plain = F.linear((x / step).round() * step, weight)
    assert error(product(weight, None, "int8")(x), wanted) < 0.5 * error(plain, wanted)


def test_zeros_stay_zeros_in_int8():
    weight, bias = weight_of(32, 64)
    x = torch.zeros(3, 64)
    assert torch.equal(product(weight, bias, "int8")(x), bias.expand(3, -1))
    assert torch.equal(product(0 * weight, None, "int8")(rows_of(3, 64)), torch.zeros(3, 32))


def test_int8_leaves_no_trace_in_torch_and_warns_of_nothing():
    weight, bias = weight_of(32, 64)
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        product(weight, bias, "int8")(rows_of(2, 64))
    assert torch.backends.quantized.engine == before


def test_int8_is_refused_where_nothing_computes_it():
    weight = torch.empty(8, 8, device="meta")
    with pytest.raises(ConfigError, match=re.escape("inference.weights: 'int8' is fast on x86")):
        product(weight, None, "int8")


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_parts", [1, 3])
def test_a_weight_in_two_layouts_gives_the_same_products(count, has_bias, num_parts):
    weight, bias = weight_of(24, 40)
    bias = bias if has_bias else None
    both = product(weight, bias, "float32", plain=weight.chunk(num_parts))
    rows = rows_of(count, 40)
    assert error(both(rows), F.linear(rows, weight, bias)) < EXACT["float32"]
    assert both(rows[None]).shape == (1, count, 24)
    assert both(rows.bfloat16()).dtype == torch.bfloat16
    assert both.num_bytes == 2 * weight.nbytes + (bias.nbytes if has_bias else 0)


def test_which_layout_suits_few_rows_is_measured_once():
    plain_suits_few_rows.cache_clear()
    assert plain_suits_few_rows() in (True, False)
    assert plain_suits_few_rows.cache_info().misses == 1
    plain_suits_few_rows()
    assert plain_suits_few_rows.cache_info().misses == 1


@pytest.mark.parametrize("count", [1, 3, 16, 70])
def test_bfloat16_in_blocks_is_the_plain_product_where_it_is_fast(monkeypatch, count):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no products in bfloat16")
    weight, bias = weight_of(48, 64)
    plain = product(weight, bias, "bfloat16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    packed = product(weight, bias, "bfloat16")
    assert type(packed) is not type(plain)
    x = rows_of(count, 64)
    assert packed(x).dtype == x.dtype
    assert error(packed(x), plain(x)) < 1e-2
    assert packed.num_bytes == plain.num_bytes
