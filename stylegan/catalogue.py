"""The public StyleGAN2 models that have an address of their own. Needs no torch.

No hashes are published for them, and no sizes: those here are computed from the parameters that a file holds (the
generator, the discriminator and the averaged generator), so they are right to a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

from realdrag.settings import Aligner

ADA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/"
ADA_SOURCES = ADA + "transfer-learning-source-nets/"
NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/stylegan2-"
TF = "http://d36zk2xti64re0.cloudfront.net/stylegan2/networks/stylegan2-"  # this host has no https
DISTILLED = "https://storage.googleapis.com/self-distilled-stylegan/"

NVIDIA = "NVIDIA, research only"
CC_BY = "CC-BY-4.0"

# Megabytes of the three networks in fp32: resolution → size at full width; HALF: 256 px with half the channels.
SIZES = {32: 248, 256: 357, 512: 364, 1024: 381}
HALF = 296

BOX = "works best with --box around the animal"


@dataclass(frozen=True)
class Entry:
    """A model that can be fetched.

    name: ours, in kebab-case. resolution: side of its picture. url: of the published file. megabytes: that file's,
    computed. aligner: which square of a photo it was trained to see. note: what else to know, or "".
    """

    name: str
    domain: str
    resolution: int
    url: str
    megabytes: int
    licence: str
    aligner: Aligner
    note: str = ""

    @property
    def file(self) -> str:
        """The published file's name."""
        return self.url.rpartition("/")[2]


def _nvidia(name: str, domain: str, url: str, aligner: Aligner, note: str = "", megabytes: int | None = None) -> Entry:
    """An entry under NVIDIA's licence; the resolution is the name's last part."""
    resolution = int(name.rpartition("-")[2])
    return Entry(name, domain, resolution, url, megabytes or SIZES[resolution], NVIDIA, aligner, note)


def _distilled(name: str, note: str) -> Entry:
    """An entry of Self-Distilled StyleGAN; its aligner is the square around the animal, or the thing."""
    domain, _, resolution = name.partition("-")
    url = f"{DISTILLED}{domain}_{resolution}_pytorch.pkl"
    return Entry(name, domain, int(resolution), url, SIZES[int(resolution)], CC_BY, "square", note)


CATALOGUE: tuple[Entry, ...] = (
    _nvidia("ffhq-1024", "faces", ADA + "ffhq.pkl", "ffhq"),
    _nvidia("ffhq-512", "faces", NGC + "ffhq-512x512.pkl", "ffhq", "DragGAN's model of faces"),
    _nvidia("ffhq-mirror-512", "faces", ADA_SOURCES + "ffhq-res512-mirror-stylegan2-noaug.pkl", "ffhq"),
    _nvidia("ffhq-256", "faces", NGC + "ffhq-256x256.pkl", "ffhq"),
    _nvidia(
        "ffhq-half-256",
        "faces",
        ADA_SOURCES + "ffhq-res256-mirror-paper256-noaug.pkl",
        "ffhq",
        "half the channels: about twice as fast",
        HALF,
    ),
    _nvidia("ffhqu-1024", "faces", NGC + "ffhqu-1024x1024.pkl", "ffhq-upright"),
    _nvidia("ffhqu-256", "faces", NGC + "ffhqu-256x256.pkl", "ffhq-upright"),
    _nvidia(
        "celebahq-256",
        "faces",
        NGC + "celebahq-256x256.pkl",
        "ffhq",
        "trained on CelebA-HQ's own crop, to which FFHQ's is the nearest here",
    ),
    _nvidia("metfaces-1024", "painted faces", ADA + "metfaces.pkl", "ffhq"),
    _nvidia("metfacesu-1024", "painted faces", NGC + "metfacesu-1024x1024.pkl", "ffhq-upright"),
    _nvidia("afhq-cat-512", "cats' faces", ADA + "afhqcat.pkl", "square", BOX + "'s head"),
    _nvidia("afhq-dog-512", "dogs' faces", ADA + "afhqdog.pkl", "square", BOX + "'s head"),
    _nvidia("afhq-wild-512", "wild animals' faces", ADA + "afhqwild.pkl", "square", BOX + "'s head"),
    _nvidia("afhqv2-512", "animals' faces", NGC + "afhqv2-512x512.pkl", "square", BOX + "'s head"),
    _nvidia(
        "lsun-car-512",
        "cars",
        TF + "car-config-f.pkl",
        "letterbox",
        "trained on pictures of 4:3: works best with such a --box around the car",
    ),
    _nvidia("lsun-cat-256", "cats", TF + "cat-config-f.pkl", "square", BOX),
    _nvidia("lsun-church-256", "churches", TF + "church-config-f.pkl", "square"),
    _nvidia("lsun-horse-256", "horses", TF + "horse-config-f.pkl", "square", BOX),
    _nvidia("lsun-dog-256", "dogs", NGC + "lsundog-256x256.pkl", "square", BOX),
    _nvidia("brecahad-512", "tissue", ADA + "brecahad.pkl", "square"),
    _nvidia("cifar10-32", "ten kinds of things", ADA + "cifar10.pkl", "square", "conditional: ten classes"),
    _distilled("lions-512", BOX),
    _distilled("elephants-512", BOX),
    _distilled("giraffes-512", BOX),
    _distilled("parrots-512", BOX),
    _distilled("dogs-1024", BOX),
    _distilled("horses-256", BOX),
    _distilled("bicycles-256", "works best with --box around the bicycle"),
)

# Known models that lie behind pages made for browsers: fetched by hand, read as a file.
BY_HAND = "StyleGAN-Human (full bodies, 1024 × 512) and rosinality's faces (256 px)"


def find(name: str) -> Entry | None:
    """The entry called `name`, or None."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)
