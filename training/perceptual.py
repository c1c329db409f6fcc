"""Train the perceptual network to follow LPIPS (SqueezeNet) on faces; LPIPS itself is only the teacher.

    python training/perceptual.py --faces faces-128.npz --teacher lpips-squeeze.safetensors \
        --generator models/faces-128.safetensors --state perceptual.pt --minutes 20 --export models

Pairs are a face and what distortions, blends, warps and the generator make of it. First every module learns alone to do
what the teacher's does with the same input, then the network as a whole learns the distances. The state is written
every few minutes and on Ctrl-C, and the same command goes on from it; `--evaluate` only measures.
"""

from __future__ import annotations

import argparse
import copy
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import faces as data
import numpy as np
import torch
import torch.nn.functional as F
from landmarks import surroundings
from lpips_teacher import SqueezeLPIPS
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from realdrag.inversion.perceptual import PerceptualNet, between
from realdrag.weights import load_encoder, load_generator, resolve_model

Rng = np.random.Generator
GROUP = 4  # a picture and three that were made of it
# The share of the work in which every module learns from what the teacher's one before it hands on: each is a shallow
# problem then, and soon solved. Afterwards the network runs as a whole, and distances count too.
APART = 0.55


def noise(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    return x + rng.normal(0, 0.5 * s, x.shape)


def blotches(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    """Coloured noise of a few pixels' size, as an unfinished inversion has."""
    small = rng.normal(0, 0.7 * s, (rng.integers(6, 40),) * 2 + (3,)).astype(np.float32)
    return x + cv2.resize(small, x.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def blur(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(x, (0, 0), 0.3 + 4 * s)


def coarse(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    side = round(x.shape[0] / (1 + 7 * s))
    return cv2.resize(cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA), x.shape[1::-1])


def jpeg(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    levels = np.rint((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    raw = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, max(3, int(70 * (1 - s)))])[1]
    return cv2.imdecode(raw, cv2.IMREAD_COLOR).astype(np.float32) / 127.5 - 1


def light(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    return x + rng.choice([-0.9, 0.9]) * s


def contrast(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    return x.mean() + (x - x.mean()) * np.exp(rng.choice([-1.2, 1.2]) * s)


def colour(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    tint = rng.normal(0, 1, 3)
    return x + 0.8 * s * (tint - tint.mean()) / np.abs(tint - tint.mean()).max()


def grey(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    return x + (x.mean(2, keepdims=True) - x) * min(1, 1.5 * s)


def warp(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    """A smooth motion of a few pixels, another one at each place."""
    h, w = x.shape[:2]
    cells = int(rng.integers(3, 9))
    coarse_flow = rng.normal(0, 0.045 * s * w, (cells, cells, 2)).astype(np.float32)
    flow = cv2.resize(coarse_flow, (w, h), interpolation=cv2.INTER_CUBIC)
    yy, xx = np.mgrid[:h, :w].astype(np.float32)
    return cv2.remap(x, xx + flow[..., 0], yy + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def shift(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    """Moved, turned and scaled as a whole."""
    h, w = x.shape[:2]
    m = cv2.getRotationMatrix2D((w / 2, h / 2), rng.normal(0, 10 * s), np.exp(rng.normal(0, 0.12 * s)))
    m[:, 2] += rng.normal(0, 0.06 * s * w, 2)
    return cv2.warpAffine(x, m, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def blend(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    return x + (other - x) * s


def patch(x: np.ndarray, s: float, rng: Rng, other: np.ndarray) -> np.ndarray:
    """A piece of another face in its place."""
    h, w = x.shape[:2]
    mask = np.zeros((h, w), np.float32)
    centre, axes = rng.uniform(0.2, 0.8, 2) * w, (0.04 + 0.4 * s) * w * rng.uniform(0.7, 1.3, 2)
    cv2.ellipse(mask, tuple(int(v) for v in centre), tuple(int(v) for v in axes), 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 2)[..., None]
    return x + (other - x) * mask


DISTORTIONS: tuple[Callable[[np.ndarray, float, Rng, np.ndarray], np.ndarray], ...] = (
    noise, blotches, blur, coarse, jpeg, light, contrast, colour, grey, warp, shift, blend, patch,
)  # fmt: skip


class Pairs:
    """Draws pairs of pictures."""

    def __init__(self, faces: data.Faces, model: str, seed: int) -> None:
        self.faces, self.rng = faces, np.random.default_rng(seed)
        found = resolve_model(model)
        self.generator, self.encoder = load_generator(found), load_encoder(found)
        self.others = surroundings()

    def picture(self, side: int = 128) -> np.ndarray:
        """A face, or now and then a sharp piece of any photograph, [side, side, 3] in −1..1."""
        rng = self.rng
        if rng.random() < 0.12:
            source = self.others[rng.integers(len(self.others))]
            size = int(rng.uniform(100, min(source.shape[:2])))
            y, x = (rng.integers(0, n - size + 1) for n in source.shape[:2])
            part = cv2.resize(source[y : y + size, x : x + size], (side, side), interpolation=cv2.INTER_AREA)
            return part.astype(np.float32) / 127.5 - 1
        found = self.faces.pictures[rng.integers(len(self.faces.pictures))]
        found = found[:, ::-1] if rng.random() < 0.5 else found
        if side != 128:
            found = cv2.resize(found, (side, side), interpolation=cv2.INTER_CUBIC)
        return found.astype(np.float32) / 127.5 - 1

    def group(self) -> list[np.ndarray]:
        """A picture and three that distortions, one or two each, make of it; a quarter are pieces of larger ones."""
        rng = self.rng
        side = 256 if rng.random() < 0.25 else 128
        x, other = self.picture(side), self.picture(side)
        found = [x]
        for _ in range(GROUP - 1):
            y = x
            for _ in range(1 if rng.random() < 0.7 else 2):
                y = DISTORTIONS[rng.integers(len(DISTORTIONS))](y, rng.uniform(0.02, 1) ** 1.5, rng, other)
            found.append(np.asarray(y, np.float32))
        top, left = rng.integers(0, side - 127, 2)
        return [y[top : top + 128, left : left + 128].clip(-1, 1) for y in found]

    @torch.no_grad()
    def invert(self, x: Tensor, share: Tensor, spread: float) -> Tensor:
        """Pictures on the way of an inversion: `share` [n] of the way from the mean to the encoder's estimate."""
        mean = self.generator.mapping.w_avg
        size = (self.generator.config.img_resolution,) * 2
        estimate = self.encoder(nn.functional.interpolate(x, size=size, mode="area"), mean)
        w = mean + (estimate - mean) * share[:, None, None]
        w = w + torch.from_numpy(self.rng.normal(0, spread, w.shape)).float()
        made = self.generator.synthesize(w).clamp(-1, 1)
        return nn.functional.interpolate(made, size=x.shape[2:], mode="bilinear", align_corners=False)

    def batch(self, groups: int) -> Tensor:
        """[groups · 4, 3, 128, 128]: of every four, the first is as found and the others are made of it."""
        pictures = np.stack([picture for _ in range(groups) for picture in self.group()])
        x = torch.from_numpy(pictures).float().permute(0, 3, 1, 2).contiguous()
        made = x[: groups // 2 * GROUP : GROUP]  # in half the groups the last one is the generator's
        share = torch.from_numpy(self.rng.uniform(0, 1.1, len(made))).float()
        x[GROUP - 1 : groups // 2 * GROUP : GROUP] = self.invert(made, share, self.rng.uniform(0, 0.3))
        return x


class Teacher:
    """LPIPS on SqueezeNet."""

    def __init__(self, path: str) -> None:
        self.net = SqueezeLPIPS(path).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.weights = [getattr(self.net, f"lin{k}").clamp(min=0).sqrt() for k in range(len(self.net.taps))]

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each of its modules hands on: the entry's map, then eight more."""
        x, found = (x.contiguous(memory_format=torch.channels_last) - self.net.shift) / self.net.scale, []
        for k, layer in enumerate(self.net.features):
            x = layer(x)
            if k not in (0, 2, 5, 8):  # before the ReLU, and the pools
                found.append(x)
        return found

    def weighed(self, maps: list[Tensor]) -> list[Tensor]:
        """Features whose squared differences are the distance."""
        units = [y.float() / (y.float().square().sum(1, keepdim=True) + 1e-20).sqrt() for y in maps]
        return [y * w for y, w in zip(units, self.weights, strict=True)]

    def __call__(self, x: Tensor) -> list[Tensor]:
        return self.weighed(tapped(self.maps(x)))


def tapped(maps: list[Tensor]) -> list[Tensor]:
    """Of the maps of all modules those that are compared."""
    return [maps[0], *(maps[k + 1] for k in PerceptualNet.tapped)]


def thinned(maps: list[Tensor]) -> list[Tensor]:
    """Every second place of large maps: neighbours say much the same, and cost the most."""
    return [y[:, :, ::2, ::2] if y.shape[-1] > 20 else y for y in maps]


def module_loss(net: PerceptualNet, x: Tensor, maps: list[Tensor]) -> Tensor:
    """How far each module alone, given what the teacher's module before it handed on, is from the teacher's.

    The early maps have the most places, so they need the fewest pictures.
    """
    enough = [max(1, len(x) * share // 8) for share in (1, 2, 2, 4, 4, 8, 8, 8, 8)]
    mine = [net.first(x[: enough[0]])]
    mine += [net.next(k, maps[k][:n]) for k, n in enumerate(enough[1:])]
    return torch.stack([off(a.float(), b[: len(a)].float()) for a, b in zip(mine, maps, strict=True)]).mean()


def off(a: Tensor, b: Tensor) -> Tensor:
    """Squared error of maps: of the values, channels scaled alike, and of the directions, which LPIPS compares."""
    scale = b.square().mean((0, 2, 3), keepdim=True) + 1e-3 * b.square().mean()
    turn = 1 - F.cosine_similarity(a + 1e-6, b + 1e-6, dim=1)
    return ((a - b).square() / scale).mean() + 2 * turn.mean()


def distance_loss(mine: list[Tensor], its: list[Tensor]) -> dict[str, Tensor]:
    """How far features and distances are from the teacher's: distances at each place, in each map, and as a whole.

    Both hold groups of four pictures: one, and three that were made of it; all six pairs of a group count.
    """
    features, places, all_mine, all_its = [], [], [], []
    i, j = torch.triu_indices(GROUP, GROUP, 1)
    for a, b in zip(mine, its, strict=True):
        features.append((a - b).square().mean() / (b - b.mean((0, 2, 3), keepdim=True)).square().mean())
        a, b = (v.unflatten(0, (-1, GROUP)) for v in (a, b))
        d, t = ((v[:, i] - v[:, j]).square().sum(2) for v in (a, b))
        places.append(((d + 1e-7).sqrt() - (t + 1e-7).sqrt()).abs().mean() / (t + 1e-7).sqrt().mean())
        all_mine.append(d.mean((2, 3)))
        all_its.append(t.mean((2, 3)))
    ratio = torch.log(sum(all_mine) + 1e-5) - torch.log(sum(all_its) + 1e-5)
    layers = torch.log(torch.stack(all_mine) + 1e-5) - torch.log(torch.stack(all_its) + 1e-5)
    return {
        "features": torch.stack(features).mean(),
        "places": torch.stack(places).mean(),
        "ratio": ratio.abs().mean(),
        "layers": layers.abs().mean(),
    }


@torch.no_grad()
def evaluate(net: PerceptualNet, teacher: Teacher, pairs: Pairs) -> dict[str, float]:
    """Spearman's rank correlation with the teacher on unseen pairs: all together, and within each kind at strengths
    of 0.15, 0.4 and 0.8 (the generator's: shares of the way of 0.2, 0.6 and 1).
    """
    pairs.rng = rng = np.random.default_rng(5)
    pictures = pairs.faces.pictures.astype(np.float32) / 127.5 - 1
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    mine_x, its_x = net(tensor), teacher(tensor)
    found, all_mine, all_its = {}, [], []
    for strength, share in ((0.15, 0.2), (0.4, 0.6), (0.8, 1.0)):
        changed = {"inversion": pairs.invert(tensor, torch.full((len(tensor),), share), 0.05)}
        for distort in DISTORTIONS:
            made = [distort(x, strength, rng, pictures[i - 1]) for i, x in enumerate(pictures)]
            changed[distort.__name__] = torch.from_numpy(np.stack(made).clip(-1, 1)).float().permute(0, 3, 1, 2)
        for kind, y in changed.items():
            mine, its = between(net(y), mine_x).numpy(), between(teacher(y), its_x).numpy()
            found[f"{kind} {strength}"] = float(spearmanr(mine, its)[0])
            all_mine.append(mine)
            all_its.append(its)
    mine, its = np.concatenate(all_mine), np.concatenate(all_its)
    worst = min(found, key=found.get)
    print(" ".join(f"{key}:{value:.2f}" for key, value in found.items()))
    print("worst:", worst)
    return {"all": float(spearmanr(mine, its)[0]), "worst": found[worst], "ratio": float(np.median(mine / its))}


class Trainer:
    """The network, its running mean and the optimiser; everything that the state file holds."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.seen, self.worked = args, 0, 0.0
        self.net = PerceptualNet().to(memory_format=torch.channels_last)
        self.mean = copy.deepcopy(self.net).requires_grad_(False)
        weights = list(self.net.weights)
        others = [p for name, p in self.net.named_parameters() if not name.startswith("weights")]
        # One optimiser for each part of the work: the second part's gradients are far larger than the first one's, and
        # by its moments Adam would take steps that destroy what was learnt.
        self.optimisers = [
            torch.optim.AdamW([{"params": others, "pace": pace}, {"params": weights, "pace": 4 * pace}])
            for pace in (1.0, 0.15)
        ]
        self.steps = [0, 0]
        if Path(args.state).exists():
            state = torch.load(args.state, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.mean.load_state_dict(state["mean"])
            for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(kept)
            self.seen, self.worked, self.steps = state["seen"], state["worked"], state["steps"]

    def save(self) -> None:
        """Replaced by rename, so that a run that is killed leaves the last one."""
        state = {"net": self.net.state_dict(), "mean": self.mean.state_dict(), "seen": self.seen}
        state |= {"optimisers": [each.state_dict() for each in self.optimisers]}
        part = Path(f"{self.args.state}.part")
        torch.save(state | {"worked": self.worked, "steps": self.steps}, part)
        part.replace(self.args.state)

    def step(self, x: Tensor, teacher: Teacher) -> dict[str, Tensor]:
        """One update on groups of pictures."""
        done = min(self.worked / (self.args.minutes * 60), 1)
        whole = done > APART
        optimiser = self.optimisers[whole]
        self.steps[whole] += 1
        for group in optimiser.param_groups:  # warm up, stay, then fall to nothing
            group["lr"] = self.args.lr * group["pace"] * min(1.0, self.steps[whole] / 100, (1 - done) / 0.4 + 1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                maps = teacher.maps(x)
            its = thinned(tapped(maps))
            if whole:
                mine, losses = thinned(self.net.maps(x)), {}
            else:  # the weights alone, on the teacher's maps: one group is enough
                losses = {"modules": module_loss(self.net, x, maps)}
                mine = its = [each[:GROUP] for each in its]
        losses |= distance_loss(self.net.weighed(mine), teacher.weighed(its))
        total = losses["places"] + losses["ratio"] + 0.5 * losses["layers"]
        total = total + (losses["features"] if whole else losses["modules"])
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        optimiser.step()
        self.seen += len(x)
        with torch.no_grad():
            for kept, new in zip(self.mean.parameters(), self.net.parameters(), strict=True):
                kept.lerp_(new, max(0.005, 1 / (1 + self.seen / len(x) * 0.1)))
        return losses


def run(trainer: Trainer, pairs: Pairs, teacher: Teacher, held_out: Pairs) -> None:
    """Until the minutes are used up, over all runs, or the run is told to stop."""
    args, stop = trainer.args, []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.append(True))
    saved = last = time.time()
    while trainer.worked < args.minutes * 60 and not stop:
        losses = trainer.step(pairs.batch(args.groups), teacher)
        now = time.time()
        trainer.worked += now - last
        last = now
        if trainer.seen // (args.groups * GROUP) % 100 == 0:
            values = " ".join(f"{key} {value.item():.4f}" for key, value in losses.items())
            print(f"{trainer.seen} pictures, {trainer.seen / trainer.worked:.0f}/s, {values}", flush=True)
        if now - saved > 240:
            trainer.save()
            print(evaluate(trainer.mean, teacher, held_out), flush=True)
            saved = last = time.time()
    trainer.save()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--faces", required=True)
    p.add_argument("--teacher", required=True)
    p.add_argument("--generator", required=True, help="a generator with its encoder beside it")
    p.add_argument("--state", required=True)
    p.add_argument("--minutes", type=float, default=20, help="of work, over all runs")
    p.add_argument("--export", help="folder for perceptual.safetensors")
    p.add_argument("--evaluate", action="store_true")
    p.add_argument("--groups", type=int, default=8, help="of four pictures, a step")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    trainer, teacher, (faces, held_out) = Trainer(args), Teacher(args.teacher), data.load(args.faces)
    unseen = Pairs(held_out, args.generator, 5)
    if not args.evaluate:
        run(trainer, Pairs(faces, args.generator, args.seed + trainer.seen), teacher, unseen)
    net = trainer.mean
    print(evaluate(net, teacher, unseen))
    if args.export:
        tensors = {key: value.half().contiguous() for key, value in net.state_dict().items()}
        header = {"format": "realdrag-perceptual-1", "licence": "CC-BY-NC-SA-4.0", "pictures": str(trainer.seen)}
        save_file(tensors, Path(args.export) / "perceptual.safetensors", metadata=header)


if __name__ == "__main__":
    main()
