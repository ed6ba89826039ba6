"""Stored weights to floats and back: to the bit as the `gguf` package has it; our own formats by their definition."""

from collections.abc import Iterator
from contextlib import contextmanager

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pagoda import _core

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

GGUF_QUANTISED = [
    "q8_0",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    "mxfp4",
]
GGUF_FORMATS = ["f32", "f16", "bf16", *GGUF_QUANTISED]
GGUF_WRITABLE = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
OWN_FORMATS = ["f8_e4m3", "int8", "int4"]
WRITABLE = GGUF_WRITABLE + OWN_FORMATS
COLS = 512
EDGE_HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]


def kind(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


@contextmanager
def quiet_numpy() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def dequantise(name: str, rows: Bytes) -> Floats:
    return np.frombuffer(_core.dequantise(name, rows, COLS), np.float32).reshape(-1, COLS)


def quantise(name: str, values: Floats) -> Bytes:
    rows = np.frombuffer(_core.quantise(name, values, values.shape[-1]), np.uint8)
    return rows.reshape(len(values), -1)


def assert_same_bits(got: Floats, expected: Floats) -> None:
    """Equal to the bit; NaNs may differ in sign and payload."""
    assert got.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def random_rows(name: str, num_rows: int) -> Bytes:
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind(name)]
    generator = np.random.default_rng(len(name) + ord(name[1]))
    return generator.integers(0, 256, (num_rows, COLS // block_values * block_bytes), np.uint8)


@pytest.mark.parametrize("name", GGUF_FORMATS)
def test_random_bytes_decode_as_the_gguf_package_decodes_them(name: str) -> None:
    rows = random_rows(name, 200)
    with quiet_numpy():
        assert_same_bits(dequantise(name, rows), gguf.quants.dequantize(rows, kind(name)))


@pytest.mark.parametrize("name", GGUF_QUANTISED)
def test_edge_scales_and_uniform_blocks_decode_as_the_gguf_package_decodes_them(name: str) -> None:
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind(name)]
    rows = random_rows(name, 2 * len(EDGE_HALVES))
    blocks = rows.reshape(len(rows), -1, block_bytes)
    for i, half in enumerate(EDGE_HALVES):
        for end in (0, 1):  # the f16 numbers of a block stand at its beginning or at its end
            place = slice(0, 4) if end == 0 else slice(block_bytes - 4, block_bytes)
            blocks[2 * i + end, :, place] = np.array([half, half], np.uint16).view(np.uint8)
    uniform = np.repeat(np.arange(256, dtype=np.uint8)[:, None], rows.shape[1], axis=1)
    for data in (rows, uniform):
        with quiet_numpy():
            assert_same_bits(dequantise(name, data), gguf.quants.dequantize(data, kind(name)))


def own_rows(name: str, scales: Floats, codes: Bytes, zeros: Floats) -> Bytes:
    """Rows of one of our formats: a scale and, for int4, a zero per block before the codes."""
    head = [scales[..., None].view(np.uint8)] + ([zeros[..., None].view(np.uint8)] if name == "int4" else [])
    return np.concatenate([*head, codes], axis=-1).reshape(len(scales), -1)


@pytest.mark.parametrize("name", OWN_FORMATS)
def test_our_own_formats_decode_by_their_definition(name: str) -> None:
    generator = np.random.default_rng(7)
    shape = (64, COLS // 32)
    scales = generator.normal(size=shape).astype(np.float32)
    zeros = generator.integers(0, 17, shape).astype(np.float32)
    codes = generator.integers(0, 256, (*shape, 16 if name == "int4" else 32), np.uint8)
    if name == "int4":
        numbers = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32) - zeros[..., None]
    elif name == "int8":
        numbers = codes.view(np.int8).astype(np.float32)
    else:
        numbers = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    expected = (scales[..., None] * numbers).reshape(-1, COLS)
    assert_same_bits(dequantise(name, own_rows(name, scales, codes, zeros)), expected)


def nasty_values() -> Floats:
    """Rows of finite values of many sizes, with the blocks where rounding and signs go wrong."""
    generator = np.random.default_rng(3)
    rows = [generator.normal(size=COLS) * 10.0**power for power in (-30, -8, -3, 0, 3, 6, 30)]
    rows.append(generator.integers(-8, 8, COLS) * 0.5)  # ties, and several values of the largest magnitude
    rows.append(generator.integers(-127, 128, COLS) + 0.5)
    rows.append(np.linspace(-1, 1, COLS))
    rows.append(np.full(COLS, 3.25))
    rows.append(np.full(COLS, -3.25))
    rows.append(np.where(np.arange(COLS) % 32 == 5, -7.0, 0.0))
    rows.append(np.zeros(COLS))
    rows.append(np.full(COLS, -0.0))
    rows.append(np.where(np.arange(COLS) % 2 == 0, 65520.0 * 127, -65519.0 * 127))  # the scale rounds to f16's infinity
    return np.array(rows, np.float32)


@pytest.mark.parametrize("name", GGUF_WRITABLE)
def test_values_encode_as_the_gguf_package_encodes_them(name: str) -> None:
    values = np.concatenate([nasty_values(), np.random.default_rng(5).normal(size=(400, COLS)).astype(np.float32)])
    with quiet_numpy():
        expected = gguf.quants.quantize(values, kind(name)).view(np.uint8).reshape(len(values), -1)
    np.testing.assert_array_equal(quantise(name, values), expected)


def half_step(name: str, blocks: Floats) -> NDArray[np.float64]:
    """The largest error per block that rounding to the nearest code can make, with f16 scales and minimums."""
    values = blocks.astype(np.float64)
    magnitude = np.abs(values).max(-1)
    span = values.max(-1) - values.min(-1)
    reach = np.maximum(values.max(-1), 0) - np.minimum(values.min(-1), 0)
    half = 2.0**-11  # relative error of an f16 number
    bounds = {
        "q8_0": magnitude / 254 + magnitude * half,
        "q4_0": magnitude / 8 + magnitude * half,  # the side away from the extreme has one code less
        "q4_1": span / 30 + (span + magnitude) * half,
        "q5_0": magnitude / 16 + magnitude * half,
        "q5_1": span / 62 + (span + magnitude) * half,
        "f8_e4m3": magnitude / 28,  # steps of 32 below 448
        "int8": magnitude / 254,
        "int4": reach / 30,
    }
    bound: NDArray[np.float64] = bounds[name] * (1 + 1e-5)
    return bound


@pytest.mark.parametrize("name", [name for name in WRITABLE if name not in ("f32", "f16", "bf16")])
def test_encoding_and_decoding_errs_by_at_most_half_a_step(name: str) -> None:
    generator = np.random.default_rng(11)
    values = (generator.normal(size=(300, COLS)) + generator.normal(size=(300, 1))).astype(np.float32)
    error = np.abs(dequantise(name, quantise(name, values)).astype(np.float64) - values).reshape(300, -1, 32)
    assert (error <= half_step(name, values.reshape(300, -1, 32))[..., None]).all()
    assert error.max() > 0


@pytest.mark.parametrize("name", OWN_FORMATS)
def test_our_own_formats_keep_zeros_and_extremes(name: str) -> None:
    values = np.zeros((1, COLS), np.float32)
    np.testing.assert_array_equal(dequantise(name, quantise(name, values)), values)
    values[0, 3::32] = -6.0
    values[0, 9::32] = 9.0
    got = dequantise(name, quantise(name, values))
    np.testing.assert_allclose(got[0, 3::32], -6.0, rtol=0.05)
    np.testing.assert_allclose(got[0, 9::32], 9.0, rtol=1e-6)
    assert (got[values == 0] == 0).all()


def test_f8_codes_are_the_nearest_as_torch_rounds_them() -> None:
    generator = np.random.default_rng(13)
    values = (generator.normal(size=(200, COLS)) * 10.0 ** generator.integers(-4, 2, (200, 1))).astype(np.float32)
    values[:, ::32] = 448  # the scale is 1 in every block
    values = np.clip(values, -448, 448)
    codes = quantise("f8_e4m3", values).reshape(-1, 36)[:, 4:]
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(-1, 32)
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("name", [name for name in WRITABLE if name not in ("f32", "f16", "bf16")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_block_with_a_value_that_is_not_finite_becomes_nans_and_its_neighbours_do_not(
    name: str, value: float
) -> None:
    values = np.ones((1, COLS), np.float32)
    values[0, 40] = value
    nan = np.isnan(dequantise(name, quantise(name, values)))[0]
    assert nan[32:64].all()
    assert not nan[:32].any()
    assert not nan[64:].any()


def test_plain_formats_keep_values_that_are_not_finite() -> None:
    values = np.full((1, COLS), np.nan, np.float32)
    values[0, :2] = [np.inf, -np.inf]
    for name in ("f32", "f16", "bf16"):
        np.testing.assert_array_equal(dequantise(name, quantise(name, values)), values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _core.dequantise("q9", b"", 32), "weight format must be one of f32, f16, .* got 'q9'"),
        (lambda: _core.dequantise("q4_k", b"", 32), "cols must be a multiple of 256 for format q4_k .* got 32"),
        (lambda: _core.dequantise("q8_0", b"", 0), "cols must be a multiple of 32 .* got 0"),
        (lambda: _core.dequantise("q8_0", bytes(35), 32), r"rows of 34 bytes \(32 values\), got 35 bytes"),
        (lambda: _core.quantise("q4_k", bytes(1024), 256), "cannot be converted to q4_k, only to f32, f16, bf16, q8_0"),
        (lambda: _core.quantise("q8_0", bytes(127), 32), r"rows of 128 bytes \(32 values\), got 127 bytes"),
        (lambda: _core.quantise("f32", b"", -(2**63)), "cols must be a multiple of 1 .* got -9223372036854775808"),
    ],
)
def test_a_wrong_format_or_size_is_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(_core.InvalidArgument, match=message):
        call()


def test_no_rows_give_no_bytes() -> None:
    assert _core.dequantise("q8_0", b"", 2**30) == b""
    assert _core.quantise("q8_0", b"", 2**40) == b""
