"""Train the generator of faces together with its encoder.

    python training/generator.py --faces faces-128.npz --lpips lpips-squeeze.safetensors --state state.pt --minutes 240
    python training/generator.py … --state state.pt --start models/faces-128 --minutes 60 --decay-last 0.5 --export .

Half of each batch is sampled (adversarial loss), half is reconstructed through the encoder (perceptual, pixel and
adversarial loss), so that the latent space is one in which photographs have a place. The state is written every few
minutes, at the end and on Ctrl-C or SIGTERM, and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import faces as data
import numpy as np
import torch
import torch.nn.functional as F
from critics import Discriminator, ProjectedDiscriminator
from lpips_teacher import SqueezeLPIPS
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from realdrag.stylegan import ENCODER_FORMAT, GENERATOR_FORMAT, Encoder, Generator, GeneratorConfig
from realdrag.stylegan.encoder import Pyramid
from realdrag.stylegan.networks import SQRT2, ModulatedConv

CRITICS_FORMAT = "realdrag-critics-1"
W_DIM, MAPPING_LAYERS = 256, 4
# Weights of the losses on reconstructions, and of what ties encoder and generator to each other.
LPIPS_WEIGHT, PIXEL_WEIGHT = 2.0, 2.0
BACK_WEIGHT = 0.5  # the encoder must find sampled latents again
PRIOR_WEIGHT = 0.02  # and stay near where samples lie
MIXING = 0.5  # share of batches in which the upper rows of w come from a second z
R1_EVERY = 16  # steps between gradient penalties ("lazy regularisation", Karras et al. 2020)
W_AVG_RATE = 0.005
ADA_PICTURES = 500_000  # in which the augmentation can go from nothing to always
CRITIC_RATE = 0.0005  # of the projected discriminator's heads
WARM_UP = 100  # steps in which fresh optimisers reach the full rate: their first moments are guesses
NETWORKS = ("G", "D", "E", "ema", "P")


def option(default: Any, text: str) -> Any:
    """A field of `Settings` with its help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """What someone may want to change; each field is an option of the command line."""

    resolution: int = option(128, "of the pictures; taken from --start where that is given")
    channel_base: int = option(4096, "channels at resolution r are channel-base / r …")
    channel_max: int = option(128, "… and at most this many")
    batch: int = option(16, "pictures a step, half sampled, half reconstructed")
    lr: float = option(0.0025, "rate of Adam for generator, encoder and discriminator")
    decay_last: float = option(0.0, "share of the minutes, at the end, in which the rate falls to nothing")
    r1: float = option(0.2, "weight of the gradient penalty")
    projected: float = option(0.5, "weight of the discriminator on perceptual features")
    augment: float = option(0.6, "probability of each augmentation (with ADA: at the start)")
    ada_target: float = option(0.0, "adapt it until the mean sign on real pictures is this (0.6); 0: leave it")
    ema_half_life: float = option(10_000, "pictures, of the average that is exported")
    synthetic: float = option(2.5, "how much oftener the synthetic faces are drawn: at 128 px only they are sharp")
    precision: str = option("bf16", "bf16 or fp32, of the convolutions")
    minutes: float = option(60.0, "of work, over all runs of a state")
    save_every: float = option(300.0, "seconds between states and sheets")
    seed: int = option(0, "of everything drawn")


def augment(x: Tensor, p: float) -> Tensor:
    """Brightness, saturation, contrast, shift and a hole, each with probability `p`; differentiable.

    The critics see real and made pictures only so (Zhao et al. 2020): few photographs are not learned by heart.
    """
    n, _, h, w = x.shape
    d = x.device

    def amount(width: float) -> Tensor:
        """Uniform in ±width / 2 where the augmentation is on, else 0, [n, 1, 1, 1]."""
        return (torch.rand(n, 1, 1, 1, device=d) - 0.5) * width * (torch.rand(n, 1, 1, 1, device=d) < p)

    x = x + amount(0.6)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + amount(1.2))
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (1 + amount(0.8))
    theta = torch.eye(2, 3, device=d).repeat(n, 1, 1)
    on = torch.rand(n, 1, device=d) < p
    theta[:, :, 2] = (torch.rand(n, 2, device=d) - 0.5) * 0.4 * on
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="reflection")
    y0 = torch.randint(h, (n, 1, 1, 1), device=d)
    x0 = torch.randint(w, (n, 1, 1, 1), device=d)
    rows = (torch.arange(h, device=d).view(1, 1, h, 1) - y0).abs() < h // 5
    columns = (torch.arange(w, device=d).view(1, 1, 1, w) - x0).abs() < w // 5
    on = torch.rand(n, 1, 1, 1, device=d) < p
    return x * ~(rows & columns & on)


def pixel_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over four sizes."""
    parts = [(a - b).abs().mean()]
    for _ in range(3):
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        parts.append((a - b).abs().mean())
    return torch.stack(parts).mean()


def perceptual_loss(lpips: SqueezeLPIPS, a: Tensor, b: Tensor) -> Tensor:
    """Mean LPIPS; its coarse layers have no room below 128 px."""
    if a.shape[-1] < 128:
        a, b = (F.interpolate(x, size=(128, 128), mode="bilinear", align_corners=False) for x in (a, b))
    distance: Tensor = lpips(a, b).mean()
    return distance


class Pool:
    """The faces on the device, uint8 [n, 3, r, r], and the drawing of batches from them."""

    def __init__(self, faces: data.Faces, synthetic: float, device: torch.device) -> None:
        pictures = torch.from_numpy(faces.pictures).permute(0, 3, 1, 2)
        self.pictures = pictures.contiguous().to(device)
        self.weights = torch.from_numpy(np.where(faces.synthetic, synthetic, 1.0))

    def draw(self, n: int) -> Tensor:
        """[n, 3, r, r] in −1..1, each mirrored or not."""
        index = torch.multinomial(self.weights, n, replacement=True)
        x = self.pictures[index.to(self.pictures.device)].float() / 127.5 - 1
        mirrored = (torch.rand(n) < 0.5).to(x.device)
        return torch.where(mirrored[:, None, None, None], x.flip(3), x)


@dataclass(frozen=True)
class Source:
    """Trained networks to start from: name (as in `NETWORKS`) → parameters; `state` is the whole state file, if any."""

    config: GeneratorConfig
    networks: dict[str, dict[str, Tensor]]
    seen: int
    augment_p: float
    state: dict[str, Any]


def read_state(path: Path) -> Source:
    """A state file. States written before this trainer name two fields of the configuration otherwise."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    old = {"resolution": "img_resolution", "layers": "num_layers"}
    config = GeneratorConfig(**{old.get(key, key): value for key, value in state["config"].items()})
    networks = {name: state[name] for name in NETWORKS if name in state}
    return Source(config, networks, state["seen"], state["augment_p"], state)


def read_exported(path: Path) -> Source:
    """FOLDER/NAME: what `export` wrote there. The generator starts as its own average."""
    tensors, headers = {}, {}
    for part in ("", "-encoder", "-critics"):
        with safe_open(f"{path}{part}.safetensors", "pt") as file:
            headers[part] = file.metadata()
            tensors[part] = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    networks = {"G": tensors[""], "ema": tensors[""], "E": tensors["-encoder"]}
    for name in ("D", "P"):
        networks[name] = {key[2:]: value for key, value in tensors["-critics"].items() if key.startswith(f"{name}.")}
    header = headers["-critics"]
    config = GeneratorConfig(**json.loads(headers[""]["config"]))
    return Source(config, networks, int(header["pictures"]), float(header["augment"]), {})


def read_source(path: Path) -> Source:
    """A state file, or FOLDER/NAME of exported ones."""
    return read_state(path) if path.is_file() else read_exported(path)


def grow_into(net: nn.Module, old: dict[str, Tensor]) -> None:
    """Take over a network of half the resolution, same channel settings, so that `net` does at first what that one did.

    The encoder's last layer holds one row of w after another: the new rows start as copies of the last old ones.
    """
    new = net.state_dict()
    for key, value in old.items():
        if key not in new or "fromrgb" in key:
            continue
        if new[key].shape == value.shape:
            new[key] = value
        elif key.startswith("out."):
            missing = len(new[key]) - len(value)
            new[key] = torch.cat([value, value[-missing:]])
    net.load_state_dict(new)
    with torch.no_grad():
        if isinstance(net, Generator):
            last = net.synthesis.block(net.config.img_resolution)
            last.torgb.weight.mul_(0.05)  # its features are noise still; not zero, or they would learn nothing
        else:
            halve_first(net.body, old["body.fromrgb.weight"], old["body.fromrgb.bias"])


def halve_first(body: Pyramid, weight: Tensor, bias: Tensor) -> None:
    """Set the first block of `body` to average 2 × 2 pixels and then do what the old `fromrgb` did.

    leaky(x) − leaky(−x) = 1.2 √2 x, so a pair of channels carries a colour through an activation unchanged; the
    pictures' colours take six channels. The other channels are as they were drawn, unused at first.
    """
    block = body.get_submodule(f"b{body.sizes[0]}")
    through = 1 / (1.2 * SQRT2)
    for layer in (body.fromrgb, block.conv0):
        layer.weight[:6].zero_()
        layer.bias[:6].zero_()
    block.skip.weight.zero_()
    block.conv1.weight.zero_()
    for c in range(3):
        for k, sign in ((c, 1.0), (c + 3, -1.0)):
            body.fromrgb.weight[k, c] = sign / body.fromrgb.gain
            block.conv0.weight[k, c, 1, 1] = sign * through / block.conv0.gain
            block.conv0.weight[k, c + 3, 1, 1] = -sign * through / block.conv0.gain
        # The block's sum of two paths is divided by √2; 3^−½ is the old layer's gain.
        carried = weight[:, c, 0, 0] * 3**-0.5 * through * SQRT2 / block.conv1.gain
        block.conv1.weight[:, c, 1, 1], block.conv1.weight[:, c + 3, 1, 1] = carried, -carried
    block.conv1.bias.copy_(bias * SQRT2)


@contextlib.contextmanager
def held(net: nn.Module) -> Iterator[None]:
    """`net` without gradients for its parameters; what was frozen before stays so."""
    free = [p for p in net.parameters() if p.requires_grad]
    for p in free:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in free:
            p.requires_grad_(True)


class Trainer:
    """All networks with their optimisers, and one step of training.

    G generator, ema its running average, E encoder, D discriminator, P projected discriminator.
    """

    def __init__(self, settings: Settings, config: GeneratorConfig, lpips: SqueezeLPIPS, device: torch.device) -> None:
        self.settings, self.config, self.device = settings, config, device
        self.seen, self.steps, self.worked = 0, 0, 0.0  # pictures, steps of these optimisers, seconds
        self.augment_p = settings.augment
        self.lpips = lpips.to(device).eval().requires_grad_(False)
        size = {"channel_base": config.channel_base, "channel_max": config.channel_max}
        r = config.img_resolution
        self.encoder_config = {"resolution": r, "num_ws": config.num_ws, "w_dim": config.w_dim, **size}
        self.G = Generator(config)
        self.ema = copy.deepcopy(self.G).requires_grad_(False)
        self.D = Discriminator(resolution=r, **size)
        self.E = Encoder(**self.encoder_config)
        self.P = ProjectedDiscriminator(self.lpips)
        for name in NETWORKS:
            getattr(self, name).to(device, memory_format=torch.channels_last)
        self.G.dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.noise = [m.noise_const for m in self.G.modules() if isinstance(m, ModulatedConv)]
        # No first moment where a critic moves the goal at every step.
        self.optimisers = {
            "opt_G": torch.optim.Adam(self.G.parameters(), betas=(0.0, 0.99)),
            "opt_D": torch.optim.Adam(self.D.parameters(), betas=(0.0, 0.99)),
            "opt_E": torch.optim.Adam(self.E.parameters(), betas=(0.9, 0.99)),
            "opt_P": torch.optim.Adam([p for p in self.P.parameters() if p.requires_grad], betas=(0.0, 0.99)),
        }

    def half(self) -> torch.autocast:
        """The precision in which encoder and critics run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.G.dtype == torch.bfloat16)

    def encode(self, x: Tensor) -> Tensor:
        """w_plus [n, num_ws, w_dim] of pictures."""
        with self.half():
            w_plus: Tensor = self.E(x, self.G.mapping.w_avg.detach())
        return w_plus.float()

    def discriminate(self, x: Tensor) -> Tensor:
        with self.half():
            logits: Tensor = self.D(x)
        return logits

    def project(self, x: Tensor) -> Tensor:
        with self.half():
            logits: Tensor = self.P(x)
        return logits

    def sample_w(self, n: int) -> tuple[Tensor, Tensor]:
        """w [n, w_dim] of fresh z, and w_plus [n, num_ws, w_dim] of it, now and then mixed with another."""
        num_ws, z_dim = self.config.num_ws, self.config.z_dim
        w = self.G.mapping(torch.randn(n, z_dim, device=self.device))
        w_plus = w[:, None].expand(-1, num_ws, -1)
        if torch.rand([]) < MIXING:
            cut = int(torch.randint(1, num_ws, []))
            other = self.G.mapping(torch.randn(n, z_dim, device=self.device))
            w_plus = torch.cat([w_plus[:, :cut], other[:, None].expand(-1, num_ws - cut, -1)], 1)
        return w, w_plus

    def step(self, real: Tensor, rate: float) -> dict[str, Tensor]:
        """One update of every network on the pictures `real` [n, 3, r, r] and as many sampled ones; the losses.

        `rate`: share of the settings' learning rates.
        """
        warm = min(1.0, (self.steps + 1) / WARM_UP) * rate
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = warm * (CRITIC_RATE if name == "opt_P" else self.settings.lr)
        # The package's generator knows constant noise only. Drawn anew at each step, for the whole batch; the average
        # keeps the maps that it was born with.
        for noise in self.noise:
            noise.normal_()
        made, losses = self.generator_step(real)
        losses |= self.critics_step(real, made)
        self.seen += 2 * len(real)
        self.steps += 1
        self.average(2 * len(real))
        if self.settings.ada_target:
            up = losses["sign"].item() > self.settings.ada_target
            change = 2 * len(real) / ADA_PICTURES
            self.augment_p = min(max(self.augment_p + (change if up else -change), 0.0), 0.9)
        return losses

    def generator_step(self, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Update generator and encoder; the pictures made [2n, 3, r, r], sampled ones first, and the losses."""
        n, w_avg = len(real), self.G.mapping.w_avg.detach()
        w, w_plus = self.sample_w(n)
        w_real = self.encode(real)
        made = self.G.synthesize(torch.cat([w_plus, w_real]))
        sampled, rebuilt = made[:n], made[n:]
        with held(self.D), held(self.P):
            seen = augment(made, self.augment_p)
            adversarial = F.softplus(-self.discriminate(seen)).mean()
            if self.settings.projected:
                adversarial = adversarial - self.settings.projected * self.project(seen).mean()
            lpips, pixel = perceptual_loss(self.lpips, rebuilt, real), pixel_loss(rebuilt, real)
            back = (self.encode(sampled.detach()) - w_plus.detach()).square().mean()
            prior = (w_real - w_avg).square().mean() / (w.detach().var(0).mean() + 1e-4)
            loss = adversarial + LPIPS_WEIGHT * lpips + PIXEL_WEIGHT * pixel + BACK_WEIGHT * back + PRIOR_WEIGHT * prior
            self.update(loss, "opt_G", "opt_E")
        with torch.no_grad():
            w_avg.lerp_(w.mean(0), W_AVG_RATE)
        return made.detach(), {"adv": adversarial, "lpips": lpips, "pixel": pixel, "back": back, "prior": prior}

    def critics_step(self, real: Tensor, made: Tensor) -> dict[str, Tensor]:
        """Update both critics on `real` [n, …] and half of `made` [2n, …]; their losses."""
        n, penalised = len(real), self.steps % R1_EVERY == 0
        shown = augment(real, self.augment_p).requires_grad_(penalised)
        part = augment(torch.cat([made[: n // 2], made[n : 2 * n - n // 2]]), self.augment_p)
        score, score_made = self.discriminate(shown), self.discriminate(part)
        loss = F.softplus(-score).mean() + F.softplus(score_made).mean()
        if penalised:
            (gradient,) = torch.autograd.grad(score.sum(), shown, create_graph=True)
            loss = loss + gradient.square().sum((1, 2, 3)).mean() * self.settings.r1 / 2 * R1_EVERY
        self.update(loss, "opt_D")
        losses = {"D": loss, "real": score.mean(), "sign": score.sign().mean()}
        if self.settings.projected:
            hinge = F.relu(1 - self.project(shown.detach())).mean() + F.relu(1 + self.project(part)).mean()
            self.update(hinge, "opt_P")
            losses["P"] = hinge
        return losses

    def update(self, loss: Tensor, *names: str) -> None:
        """One step of these optimisers down `loss`."""
        for name in names:
            self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        for name in names:
            self.optimisers[name].step()

    @torch.no_grad()
    def average(self, n: int) -> None:
        """Draw the average towards the generator; its half-life is short at first, when the generator is bad."""
        half_life = max(min(self.settings.ema_half_life, self.seen * 0.05), 1)
        kept, new = list(self.ema.parameters()), list(self.G.parameters())
        torch._foreach_lerp_(kept, new, 1 - 0.5 ** (n / half_life))
        self.ema.mapping.w_avg.copy_(self.G.mapping.w_avg)

    def start(self, source: Source) -> None:
        """Begin with the networks of `source`: of the same resolution, or of half."""
        grow = source.config != self.config
        for name, tensors in source.networks.items():
            net = getattr(self, name)
            if grow and name != "P":
                grow_into(net, tensors)
            else:
                net.load_state_dict(tensors)
        self.augment_p = source.augment_p
        self.seen = 0 if grow else source.seen  # of this resolution

    def resume(self, source: Source) -> None:
        """Go on where the run that wrote the state stopped, with the same draws where it was this trainer's."""
        self.start(source)
        state = source.state
        for name, optimiser in self.optimisers.items():
            if state.get(name):
                optimiser.load_state_dict(state[name])
        kept = self.seen // self.settings.batch if "opt_G" in state else 0
        self.steps, self.worked = state.get("steps", kept), state.get("worked", 0.0)
        if "rng" in state:
            torch.set_rng_state(state["rng"])
        else:
            torch.manual_seed(self.settings.seed + self.seen)
        if "rng_cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng_cuda"])

    def save(self, path: Path) -> None:
        """The state; replaced by rename, so that a run that is killed leaves the last one."""
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in NETWORKS}
        state |= {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        state |= {"config": asdict(self.config), "encoder_config": self.encoder_config, "augment_p": self.augment_p}
        state |= {"seen": self.seen, "steps": self.steps, "worked": self.worked, "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["rng_cuda"] = torch.cuda.get_rng_state()
        part = path.with_name(f"{path.name}.part")
        torch.save(state, part)
        part.replace(path)

    def export(self, folder: Path) -> None:
        """Three files in fp16: the average generator and the encoder as the package reads them, and the critics."""
        folder.mkdir(parents=True, exist_ok=True)
        common = {"licence": "CC-BY-NC-SA-4.0", "pictures": str(self.seen)}
        face = {"domain": "faces", "aligner": "ffhq", **common}
        critics = {f"D.{k}": v for k, v in self.D.state_dict().items()}
        critics |= {f"P.{k}": v for k, v in self.P.state_dict().items()}
        generator_header = {"format": GENERATOR_FORMAT, "config": json.dumps(asdict(self.config)), **face}
        encoder_header = {"format": ENCODER_FORMAT, "config": json.dumps(self.encoder_config), **face}
        critics_header = {"format": CRITICS_FORMAT, "augment": str(self.augment_p), **common}
        for part, tensors, header in (
            ("", self.ema.state_dict(), generator_header),
            ("-encoder", self.E.state_dict(), encoder_header),
            ("-critics", critics, critics_header),
        ):
            half = {key: value.detach().half().cpu().contiguous() for key, value in tensors.items()}
            save_file(half, folder / f"faces-{self.config.img_resolution}{part}.safetensors", metadata=header)

    @torch.no_grad()
    def sheet(self, path: Path, faces: Tensor) -> None:
        """32 samples at psi 0.7, always of the same z; below, `faces` [8, 3, r, r] and their reconstructions."""
        z = torch.randn(32, self.config.z_dim, generator=torch.Generator().manual_seed(7)).to(self.device)
        samples = self.ema.synthesize(self.ema.truncated(z, 0.7))
        rebuilt = self.ema.synthesize(self.encode(faces))
        rows = torch.cat([samples, faces, rebuilt]).cpu()
        grid = rows.unflatten(0, (-1, 8)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        picture = Image.fromarray((grid * 127.5 + 128).clamp(0, 255).byte().numpy())
        picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(path)


def rate_at(worked: float, settings: Settings) -> float:
    """Share of the learning rate after `worked` seconds: 1, then straight down to 0 over the last part."""
    left = 1 - worked / (settings.minutes * 60)
    return min(1.0, max(left, 0.0) / settings.decay_last) if settings.decay_last else 1.0


def run(trainer: Trainer, pool: Pool, held_out: Tensor, state: Path, log: int = 100) -> None:
    """Until the minutes are used up, over all runs, or the run is told to stop."""
    settings, stop, first = trainer.settings, [], trainer.seen
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.append(True))
    begun = last = saved = time.monotonic()

    def keep() -> None:
        trainer.save(state)
        trainer.sheet(state.with_suffix(".png"), held_out)

    while trainer.worked < settings.minutes * 60 and not stop:
        losses = trainer.step(pool.draw(settings.batch // 2), rate_at(trainer.worked, settings))
        now = time.monotonic()
        trainer.worked += now - last
        last = now
        if trainer.steps % log == 0:
            values = " ".join(f"{key} {value.item():.3f}" for key, value in losses.items())
            speed = (trainer.seen - first) / (now - begun)
            print(f"{trainer.seen} pictures, {speed:.1f}/s, augment {trainer.augment_p:.2f}, {values}", flush=True)
        if now - saved > settings.save_every:
            keep()
            saved = last = time.monotonic()
    keep()


def parse() -> tuple[argparse.Namespace, Settings]:
    """Files, and the settings as one option each."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--faces", type=Path, required=True, help="the data, see faces.py")
    p.add_argument("--lpips", type=Path, required=True, help="LPIPS on SqueezeNet, see lpips_teacher.py")
    p.add_argument("--state", type=Path, required=True, help="written, and gone on from; the sheet lies beside it")
    begin = p.add_mutually_exclusive_group()
    begin.add_argument("--start", type=Path, help="state file or FOLDER/NAME of exported files to begin with")
    begin.add_argument("--grow", type=Path, help="the same, of half the resolution")
    p.add_argument("--export", type=Path, help="folder for the trained files")
    for x in fields(Settings):
        choices = ("bf16", "fp32") if x.name == "precision" else None
        name = "--" + x.name.replace("_", "-")
        text = f"{x.metadata['help']} (default {x.default})"
        p.add_argument(name, type=type(x.default), default=x.default, choices=choices, help=text)
    args = p.parse_args()
    return args, Settings(**{x.name: getattr(args, x.name) for x in fields(Settings)})


def prepare(args: argparse.Namespace, settings: Settings) -> Trainer:
    """A trainer that goes on from --state, or begins with --start or --grow, or from nothing."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(settings.seed)
    path = args.state if args.state.exists() else args.start or args.grow
    source = read_source(path) if path else None
    if source is None:
        r, base, most = settings.resolution, settings.channel_base, settings.channel_max
        config = GeneratorConfig(W_DIM, W_DIM, r, MAPPING_LAYERS, base, most)
    elif path == args.grow:
        config = GeneratorConfig(**asdict(source.config) | {"img_resolution": 2 * source.config.img_resolution})
    else:
        config = source.config
    trainer = Trainer(settings, config, SqueezeLPIPS(args.lpips), device)
    if source is not None:
        (trainer.resume if path == args.state else trainer.start)(source)
    return trainer


def main() -> None:
    args, settings = parse()
    trainer = prepare(args, settings)
    faces, held_out = data.load(str(args.faces), trainer.config.img_resolution)
    pool = Pool(faces, settings.synthetic, trainer.device)
    first = Pool(held_out[slice(8)], 1.0, trainer.device).pictures.float() / 127.5 - 1
    run(trainer, pool, first, args.state)
    if args.export:
        trainer.export(args.export)


if __name__ == "__main__":
    main()
