"""The generator against the published program's own numbers, and what the other rooms rely on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realdrag.stylegan import Generator, to_picture, to_tensor

Golden = dict[str, np.ndarray]


def gap(ours: torch.Tensor, published: np.ndarray) -> float:
    assert ours.shape == published.shape
    assert ours.dtype == torch.float32
    return float((ours - torch.from_numpy(published)).abs().max())


def test_the_mapping_is_the_published_one(generator: Generator, golden: Golden) -> None:
    z = torch.from_numpy(golden["z"])
    for psi, name in ((1.0, "w"), (0.7, "w_psi07")):
        rows = generator.truncated(z, psi)
        assert rows.shape == (4, 8, 64)
        for row in rows.unbind(1):
            assert gap(row, golden[name]) <= 1e-5


@pytest.mark.parametrize(("psi", "name"), [(1.0, "image"), (0.7, "image_psi07")])
def test_pictures_from_z_are_the_published_ones(generator: Generator, golden: Golden, psi: float, name: str) -> None:
    z = torch.from_numpy(golden["z"])
    assert gap(generator.synthesize(generator.truncated(z, psi)), golden[name]) <= 1e-4


def test_each_row_of_w_plus_goes_where_it_is_published_to_go(generator: Generator, golden: Golden) -> None:
    assert gap(generator.synthesize(torch.from_numpy(golden["w_plus"])), golden["image_wplus"]) <= 1e-4


@pytest.mark.parametrize("block", ["b4", "b8", "b16", "b32"])
def test_features_are_the_published_ones(generator: Generator, golden: Golden, block: str) -> None:
    w_plus = generator.truncated(torch.from_numpy(golden["z"]))
    assert gap(generator.synthesize(w_plus, until=block), golden[f"feat/{block}"]) <= 1e-4


def test_one_picture_is_that_of_the_batch(generator: Generator, golden: Golden) -> None:
    w_plus = torch.from_numpy(golden["w_plus"])
    both = generator.synthesize(w_plus)
    torch.testing.assert_close(generator.synthesize(w_plus[1:]), both[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("until", "above"), [("b4", 4), ("b8", 8), ("b16", 16), ("b32", 32)])
def test_until_computes_nothing_above(generator: Generator, golden: Golden, until: str, above: int) -> None:
    """The blocks above and every colour layer are taken away; the features still come."""
    for r in (4, 8, 16, 32):
        if r > above:
            delattr(generator.synthesis, f"b{r}")
        else:
            del generator.synthesis.block(r).torgb
    w_plus = generator.truncated(torch.from_numpy(golden["z"]))
    # … and nothing is read of the rows that only they use.
    w_plus = w_plus.clone()
    w_plus[:, 2 * (above.bit_length() - 2) - 1 :] = torch.nan
    assert gap(generator.synthesize(w_plus, until), golden[f"feat/{until}"]) <= 1e-4


@pytest.mark.parametrize("name", ["b64", "b2", "32", ""])
def test_an_unknown_block_is_named(generator: Generator, name: str) -> None:
    with pytest.raises(ValueError, match="b4, b8, b16, b32"):
        generator.synthesize(torch.zeros(1, 8, 64), name)


@pytest.mark.parametrize("until", [None, "b16"])
def test_gradients_reach_w_plus_and_no_parameter(generator: Generator, golden: Golden, until: str | None) -> None:
    w_plus = torch.from_numpy(golden["w_plus"][:1]).requires_grad_()
    generator.synthesize(w_plus, until).square().mean().backward()
    assert w_plus.grad is not None
    reached = (w_plus.grad[0] != 0).any(1).tolist()
    assert reached == [True] * 8 if until is None else reached == [True] * 5 + [False] * 3
    assert not any(p.requires_grad or p.grad is not None for p in generator.parameters())
    assert not generator.training


def test_the_gradient_is_that_of_finite_differences(generator: Generator, golden: Golden) -> None:
    generator.double()
    generator.dtype = torch.float64
    w_plus = torch.from_numpy(golden["w_plus"][:1]).double().requires_grad_()
    direction = torch.randn(w_plus.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    feature = lambda w: generator.synthesize(w, "b16").square().mean()  # noqa: E731
    feature(w_plus).backward()
    with torch.no_grad():
        h = 1e-4
        slope = (feature(w_plus + h * direction) - feature(w_plus - h * direction)) / (2 * h)
    # `until` hands out float32, so the differences carry its rounding.
    assert float((w_plus.grad * direction).sum()) == pytest.approx(float(slope), rel=5e-3)


def test_bfloat16_shows_nearly_the_same_picture(generator: Generator, golden: Golden) -> None:
    w_plus = torch.from_numpy(golden["w_plus"])
    exact = generator.synthesize(w_plus)
    generator.dtype = torch.bfloat16
    rough = generator.synthesize(w_plus)
    assert rough.dtype == torch.float32
    assert generator.synthesize(w_plus, "b16").dtype == torch.float32
    error = (rough - exact).abs()
    assert 0 < error.mean() < 0.01 * exact.abs().mean() + 0.005
    assert error.max() < 0.1


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = np.stack([levels, levels.T, 255 - levels], axis=-1)
    x = to_tensor(picture)
    assert x.shape == (1, 3, 16, 16)
    assert (float(x.min()), float(x.max())) == (-1, 1)
    assert float(x[0, 1, 0, 1]) == pytest.approx(16 / 127.5 - 1)  # channel, row, column
    np.testing.assert_array_equal(to_picture(x), picture)


def test_levels_are_cut_as_published() -> None:
    """127.5·x + 128, the fraction dropped: grey is 128."""
    x = torch.tensor([0.0, 0.99 / 127.5, 1.01 / 127.5, -0.01 / 127.5]).expand(1, 3, 1, 4)
    np.testing.assert_array_equal(to_picture(x)[0, :, 0], [128, 128, 129, 127])


def test_what_is_beyond_white_and_black_is_cut() -> None:
    x = torch.tensor([-3.0, -1.01, 1.01, 3.0]).expand(1, 3, 2, 4)
    np.testing.assert_array_equal(to_picture(x)[0, :, 0], [0, 0, 255, 255])


def test_a_flipped_picture_can_be_read() -> None:
    """Negative strides are common in numpy, and refused by torch."""
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(to_picture(to_tensor(picture[:, ::-1])), picture[:, ::-1])
