"""The list of public models: what it promises, and the sizes that it computes."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args
from urllib.parse import urlsplit

import pytest
import torch

from realdrag.settings import Aligner
from realdrag.stylegan import Generator, GeneratorConfig
from realdrag.stylegan.catalogue import ADA, CATALOGUE, HALF, SIZES, TF, Entry, find


def test_names_and_files_are_unique() -> None:
    """Files too: one put there by hand under its published name must be one model's."""
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)
    assert len({entry.url for entry in CATALOGUE}) == len(CATALOGUE)
    assert len({entry.file for entry in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_every_entry_is_sound(entry: Entry) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.name)
    url = urlsplit(entry.url)
    assert url.scheme == "https" or entry.url.startswith(TF)
    assert not url.query
    assert "google.com" not in url.netloc  # Drive answers with a page
    assert entry.file.endswith(".pkl")
    assert entry.aligner in get_args(Aligner)
    assert entry.name.endswith(f"-{entry.resolution}")
    assert entry.domain
    assert entry.licence in ("NVIDIA, research only", "CC-BY-4.0")


def test_what_draggan_users_look_for_is_there() -> None:
    names = ("ffhq-512", "ffhq-1024", "afhq-cat-512", "lions-512", "dogs-1024", "elephants-512", "horses-256")
    assert all(find(name) for name in names)
    assert find("lsun-car-512").aligner == "letterbox"  # type: ignore[union-attr]
    assert find("ffhqu-256").aligner == "ffhq-upright"  # type: ignore[union-attr]
    assert find("afhq-cat-512").url == ADA + "afhqcat.pkl"  # type: ignore[union-attr]
    assert find("afhqcat") is None


def published_megabytes(resolution: int, channel_base: int, c_dim: int = 0, layers: int = 8) -> float:
    """Of a generator twice (its average too) and a discriminator, fp32."""
    config = GeneratorConfig(512, 512, resolution, layers, channel_base, 512, c_dim)
    with torch.device("meta"):
        generator = sum(t.numel() for t in Generator(config).state_dict().values())
    discriminator = 4 * config.channels(resolution)  # from colours
    for r in config.resolutions[1:]:
        top, low = config.channels(r), config.channels(r // 2)
        discriminator += 9 * top * top + top + 9 * top * low + low + top * low  # two convolutions and the shortcut
    discriminator += 9 * 513 * 512 + 512 + (512 * 16 + 1) * 512 + 513
    return (2 * generator + discriminator) * 4 / 1e6


@pytest.mark.parametrize("resolution", SIZES)
def test_sizes_are_those_of_the_parameters(resolution: int) -> None:
    c_dim, layers = (10, 2) if resolution == 32 else (0, 8)
    assert SIZES[resolution] == pytest.approx(published_megabytes(resolution, 32768, c_dim, layers), rel=0.01)


def test_half_the_channels() -> None:
    assert pytest.approx(published_megabytes(256, 16384), rel=0.01) == HALF


def test_it_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, realdrag.stylegan.catalogue; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
