"""Train the landmark network: 68 points and a confidence from a rough crop of a face.

    python training/landmarks.py --faces faces-128.npz --state landmarks.pt --minutes 42 --export models

Every crop is drawn anew: turned, scaled, shifted, in other surroundings, covered, blurred, grey, compressed. The
state is written every few minutes and on Ctrl-C, and the same command goes on from it; `--evaluate` only measures.
"""

from __future__ import annotations

import argparse
import copy
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import faces as data
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import nn

from realdrag.align.embedded import CROP_SHARE, CROP_SIDE, MIRROR, find_landmarks
from realdrag.align.landmarks import ERROR_SCALE, STRIDE, LandmarkNet, expected_places
from realdrag.align.quad import quad_from_landmarks

SIDE = CROP_SIDE
# Rolls (degrees), scales and shifts (of the crop's side) of the rough crop that a detector hands over, and of the
# second look, after the first one has straightened the face.
ROUGH = (50.0, (0.57, 1.45), 0.16)
STRAIGHT = (12.0, (0.87, 1.15), 0.05)
STATED = (45.0, (0.6, 1.4), 0.12)  # the range that is promised, and measured
ROUGH_SHARE, NO_FACE_SHARE = 0.5, 0.12


@dataclass(frozen=True)
class Batch:
    """crops [n, 3, 128, 128] in −1..1; points [n, 68, 2] in their pixels; eyes [n]: distance of the eyes' centres;
    weight [n]; face [n] bool.
    """

    crops: torch.Tensor
    points: torch.Tensor
    eyes: torch.Tensor
    weight: torch.Tensor
    face: torch.Tensor


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Between the centres of the eyes, [n] for points [n, 68, 2]."""
    return np.linalg.norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), axis=1)


def drawn(pose: tuple[float, tuple[float, float], float], rng: np.random.Generator) -> tuple[float, float, np.ndarray]:
    """Roll, scale and shift within `pose`."""
    roll, scales, shift = pose
    return rng.uniform(-roll, roll), float(np.exp(rng.uniform(*np.log(scales)))), rng.uniform(-shift, shift, 2)


def crop_matrix(points: np.ndarray, roll: float, scale: float, shift: np.ndarray) -> np.ndarray:
    """2×3 map from the picture to a crop in which the face of `points` [68, 2] is turned, scaled and shifted so."""
    quad = quad_from_landmarks(points)
    centre, x = quad.mean(0), (quad[3] - quad[0]) / 2
    angle = np.deg2rad(roll) - np.arctan2(x[1], x[0])
    factor = SIDE / (2 * np.linalg.norm(x) * CROP_SHARE) * scale
    turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    place = (SIDE - 1) / 2 + shift * SIDE
    return np.column_stack([turn, place - turn @ centre])


def surroundings() -> list[np.ndarray]:
    """Photographs without a face in the middle, for backgrounds and for what is no face."""
    from skimage import data as pictures

    names = ("coffee", "chelsea", "rocket", "brick", "grass", "gravel", "coins", "moon", "page", "text", "clock")
    found = []
    for name in names:
        try:
            picture = np.asarray(getattr(pictures, name)())
        except (OSError, ImportError):  # those that are not shipped would be downloaded
            continue
        found.append(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if picture.ndim == 2 else picture[..., :3].copy())
    return found


class Scenes:
    """Draws crops with their points."""

    def __init__(self, faces: data.Faces, seed: int) -> None:
        self.faces, self.rng = faces, np.random.default_rng(seed)
        self.others = surroundings()

    def background(self) -> np.ndarray:
        """Any piece of a picture without a face, or of a face so large that it is only skin and hair."""
        rng = self.rng
        if rng.random() < 0.4:
            picture = self.faces.pictures[rng.integers(len(self.faces.pictures))]
            side = rng.uniform(10, 42)
            corner = [0.0, 127 - side]
            x, y = corner[rng.integers(2)], rng.uniform(0, 127 - side)
        else:
            picture = self.others[rng.integers(len(self.others))]
            side = rng.uniform(0.1, 0.9) * min(picture.shape[:2])
            x, y = rng.uniform(0, picture.shape[1] - side), rng.uniform(0, picture.shape[0] - side)
        angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else 0.0
        f = SIDE / side
        turn = f * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        m = np.column_stack([turn, SIDE / 2 - turn @ np.array([x + side / 2, y + side / 2])])
        return cv2.warpAffine(picture, m, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def kept_part(self, points: np.ndarray) -> np.ndarray:
        """What of the 128 px picture to show, [128, 128] in 0..1: the face and a random margin on each side.

        Without it the picture's own border would tell where the face lies in it.
        """
        rng = self.rng
        low, high = points.min(0), points.max(0)
        share = rng.uniform(0.1, 1.0, (2, 2)) ** 0.7
        x0, y0 = low - share[0] * np.maximum(low, 4)
        x1, y1 = high + share[1] * np.maximum(127 - high, 4)
        mask = np.zeros((128, 128), np.float32)
        if rng.random() < 0.4:
            box = cv2.boxPoints((((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0), rng.uniform(-35, 35)))
            cv2.fillConvexPoly(mask, np.rint(box).astype(np.int32), 1.0)
        else:
            axes = (int((x1 - x0) * 0.68), int((y1 - y0) * 0.68))
            cv2.ellipse(mask, (int((x0 + x1) / 2), int((y0 + y1) / 2)), axes, rng.uniform(-35, 35), 0, 360, 1.0, -1)
        if rng.random() < 0.7:
            mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 5))
        mask[[0, -1]], mask[:, [0, -1]] = 0, 0
        return mask

    def cut(self, picture: np.ndarray, points: np.ndarray, m: np.ndarray) -> np.ndarray:
        """The picture seen through `m` (2×3), its kept part in other surroundings, [128, 128, 3] uint8."""
        crop = cv2.warpAffine(picture, m, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        inside = cv2.warpAffine(self.kept_part(points), m, (SIDE, SIDE), flags=cv2.INTER_LINEAR)[..., None]
        return np.rint(crop * inside + self.background() * (1 - inside)).astype(np.uint8)

    def spoil(self, x: np.ndarray, points: np.ndarray | None) -> np.ndarray:
        """Covered, blurred, coarse, off-colour, grey, noisy, compressed: each now and then."""
        rng = self.rng
        if points is not None and rng.random() < 0.3:
            centre = points[rng.integers(68)] + rng.normal(0, 6, 2)
            axes = rng.uniform(4, 22, 2)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            centre, axes = (tuple(int(v) for v in pair) for pair in (centre, axes))
            cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 255, -1)
            cover = self.background() if rng.random() < 0.6 else np.full_like(x, rng.integers(0, 256, 3))
            x = np.where(mask[..., None] > 0, cover, x)
        if rng.random() < 0.3:
            x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 2.2))
        if rng.random() < 0.2:
            side = int(rng.uniform(28, 100))
            x = cv2.resize(cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA), (SIDE, SIDE))
        if rng.random() < 0.25:
            ok, raw = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(12, 80))])
            assert ok
            x = cv2.imdecode(raw, cv2.IMREAD_COLOR)
        y = x.astype(np.float32) / 127.5 - 1
        if rng.random() < 0.2:
            y[:] = y.mean(2, keepdims=True)
        if rng.random() < 0.7:
            y = y * rng.uniform(0.55, 1.35) + rng.uniform(-0.35, 0.35)
            y *= rng.uniform(0.85, 1.15, 3).astype(np.float32)
        if rng.random() < 0.2:
            y += rng.normal(0, rng.uniform(0.02, 0.2), y.shape).astype(np.float32)
        return y.clip(-1, 1)

    def face(self, index: int, pose: tuple, spoilt: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """One crop [128, 128, 3] in −1..1 of face `index`, and its points [68, 2]."""
        rng = self.rng
        picture, points = self.faces.pictures[index], self.faces.landmarks[index]
        m = crop_matrix(points, *drawn(pose, rng))
        crop = self.cut(picture, points, m)
        placed = points @ m[:, :2].T + m[:, 2]
        if rng.random() < 0.5:
            crop, placed = np.ascontiguousarray(crop[:, ::-1]), placed[MIRROR] * [-1, 1] + [SIDE - 1, 0]
        return (self.spoil(crop, placed) if spoilt else crop.astype(np.float32) / 127.5 - 1), placed

    def no_face(self) -> np.ndarray:
        """A crop that holds no face, or one far outside what the network is to answer for."""
        rng = self.rng
        if rng.random() < 0.5:
            return self.spoil(self.background(), None)
        index = rng.integers(len(self.faces.pictures))
        picture, points = self.faces.pictures[index], self.faces.landmarks[index]
        kind, shift, roll, scale = rng.integers(3), rng.uniform(-0.15, 0.15, 2), rng.uniform(-40, 40), 1.0
        if kind == 0:
            shift = rng.uniform(0.42, 0.7, 2) * rng.choice([-1, 1], 2)
        elif kind == 1:
            roll = rng.uniform(85, 275)
        else:
            scale = rng.choice([rng.uniform(0.15, 0.36), rng.uniform(2.3, 3.5)])
        m = crop_matrix(points, roll, scale, shift)
        return self.spoil(self.cut(picture, points, m), None)

    def batch(self, n: int) -> Batch:
        """`n` crops, some without a face."""
        crops, points, index = [], [], self.rng.integers(len(self.faces.pictures), size=n)
        face = self.rng.random(n) >= NO_FACE_SHARE
        for i, shown in zip(index, face, strict=True):
            if shown:
                crop, placed = self.face(int(i), ROUGH if self.rng.random() < ROUGH_SHARE else STRAIGHT)
            else:
                crop, placed = self.no_face(), np.zeros((68, 2))
            crops.append(crop)
            points.append(placed)
        placed = np.array(points, np.float32)
        weight = 1 / (1 + (self.faces.spread[index] / 1.2) ** 2)
        return Batch(
            torch.from_numpy(np.array(crops, np.float32)).permute(0, 3, 1, 2),
            torch.from_numpy(placed),
            torch.from_numpy(np.maximum(eye_distance(placed), 8).astype(np.float32)),
            torch.from_numpy((weight * face).astype(np.float32)),
            torch.from_numpy(face),
        )


def loss_of(net: LandmarkNet, batch: Batch) -> dict[str, torch.Tensor]:
    """Places, heatmaps' shape, and how well the confidence foretells the error."""
    with torch.autocast("cpu", torch.bfloat16):
        heatmaps, quality = net.logits(batch.crops)
    found = expected_places(heatmaps)
    off = (found - batch.points) / batch.eyes[:, None, None]
    inside = ((batch.points > 0) & (batch.points < SIDE - 1)).all(2).float()  # [n, 68]: elsewhere there is no heatmap
    weight = inside * batch.weight[:, None]
    total = weight.sum() + 1e-6
    places = ((off.square().sum(2) + 1e-6).sqrt() * weight).sum() / total
    grid = (torch.arange(SIDE // STRIDE) + 0.5) * STRIDE - 0.5
    dx, dy = batch.points[..., :1] - grid, batch.points[..., 1:] - grid
    across, down = (torch.exp(-((d / STRIDE) ** 2) / 2) for d in (dx, dy))  # a Gaussian as wide as a cell
    wanted = torch.einsum("nky,nkx->nkyx", down, across).flatten(2)
    wanted = wanted / (wanted.sum(2, keepdim=True) + 1e-9)
    shape = (-(wanted * heatmaps.flatten(2).log_softmax(2)).sum(2) * weight).sum() / total
    error = (off.detach().norm(dim=2) * inside).sum(1) / inside.sum(1).clamp(min=1)
    target = torch.exp(-error / ERROR_SCALE) * batch.face
    sure = F.binary_cross_entropy_with_logits(quality, target)
    return {"places": places, "shape": shape, "sure": sure}


def folded(net: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of `net` with every batch normalisation folded into the convolution before it."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.BatchNorm2d):
            module[0] = nn.utils.fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    return {key: value.detach().contiguous() for key, value in net.state_dict().items()}


@torch.no_grad()
def evaluate(net: LandmarkNet, faces: data.Faces, rounds: int = 3) -> dict[str, float]:
    """On held-out faces; errors are means over 68 points in percent of the eyes' distance.

    upright: one look at the clean, straight crop. stated: the package's search, from a quad turned, scaled and shifted
    within `STATED`, in pictures spoilt as in training. rank: of confidence and error. Then what separates faces from
    what is none: the confidence that 95 of 100 faces exceed and 95 of 100 others do not.
    """
    scenes, upright, stated, sure, none = Scenes(faces, 1), [], [], [], []
    for i, points in enumerate(faces.landmarks):
        crop, placed = scenes.face(i, (0.0, (1.0, 1.0), 0.0), spoilt=False)
        found, _ = net(torch.from_numpy(crop)[None].permute(0, 3, 1, 2))
        upright.append(distance(found[0].numpy(), placed))
        for _ in range(rounds):
            inside = scenes.kept_part(points)[..., None]
            scene = scenes.faces.pictures[i] * inside + scenes.background() * (1 - inside)
            scene = np.rint((scenes.spoil(np.rint(scene).astype(np.uint8), points) + 1) * 127.5).astype(np.uint8)
            rough = crop_matrix(points, *drawn(STATED, scenes.rng))
            corners = np.array([[0, 0], [0, SIDE], [SIDE, SIDE], [SIDE, 0]]) - 0.5
            quad = (corners - rough[:, 2]) @ np.linalg.inv(rough[:, :2]).T
            quad = quad.mean(0) + (quad - quad.mean(0)) / CROP_SHARE
            seen = find_landmarks(net, scene, quad)
            stated.append(1.0 if seen is None else min(1.0, distance(seen.points, points)))
            sure.append(0.0 if seen is None else seen.confidence)
    for _ in range(300):
        _, confidence = net(torch.from_numpy(scenes.no_face())[None].permute(0, 3, 1, 2))
        none.append(float(confidence[0]))
    return {
        "upright": 100 * float(np.mean(upright)),
        "stated": 100 * float(np.mean(stated)),
        "stated median": 100 * float(np.median(stated)),
        "rank": float(-spearmanr(sure, stated)[0]),
        "5% of faces below": float(np.percentile(sure, 5)),
        "5% of others above": float(np.percentile(none, 95)),
    }


def distance(found: np.ndarray, points: np.ndarray) -> float:
    """Mean over the points, in distances of the eyes."""
    return float(np.linalg.norm(found - points, axis=1).mean() / eye_distance(points[None])[0])


class Trainer:
    """The network, its running mean and the optimiser; everything that the state file holds."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.seen, self.worked = args, 0, 0.0
        self.net = LandmarkNet(nn.BatchNorm2d).to(memory_format=torch.channels_last)
        self.mean = copy.deepcopy(self.net).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=args.lr, weight_decay=1e-3)
        if Path(args.state).exists():
            state = torch.load(args.state, weights_only=True)
            for name in ("net", "mean", "optimiser"):
                getattr(self, name).load_state_dict(state[name])
            self.seen, self.worked = state["seen"], state["worked"]

    def save(self) -> None:
        """Replaced by rename, so that a run that is killed leaves the last one."""
        state = {name: getattr(self, name).state_dict() for name in ("net", "mean", "optimiser")}
        part = Path(f"{self.args.state}.part")
        torch.save(state | {"seen": self.seen, "worked": self.worked}, part)
        part.replace(self.args.state)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One update."""
        left = 1 - min(self.worked / (self.args.minutes * 60), 1)  # warm up, stay, then fall to nothing
        for group in self.optimiser.param_groups:
            group["lr"] = self.args.lr * min(1.0, self.seen / 5000 + 0.05, left / 0.6 + 1e-3)
        losses = loss_of(self.net, batch)
        self.optimiser.zero_grad(set_to_none=True)
        (losses["places"] * 4 + losses["shape"] * 0.5 + losses["sure"] * 0.2).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimiser.step()
        self.seen += len(batch.crops)
        decay = min(0.998, 1 - 1 / (1 + self.seen / len(batch.crops) * 0.05))
        with torch.no_grad():
            for kept, new in zip(self.mean.state_dict().values(), self.net.state_dict().values(), strict=True):
                kept.lerp_(new, 1 - decay) if kept.is_floating_point() else kept.copy_(new)
        return losses

    def plain(self) -> LandmarkNet:
        """The running mean as the package runs it."""
        net = LandmarkNet().eval()
        net.load_state_dict(folded(self.mean))
        return net


def run(trainer: Trainer, faces: data.Faces, held_out: data.Faces) -> None:
    """Until the minutes are used up, over all runs, or the run is told to stop."""
    args, stop = trainer.args, []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.append(True))
    scenes = Scenes(faces, args.seed + trainer.seen)
    saved = last = time.time()
    while trainer.worked < args.minutes * 60 and not stop:
        losses = trainer.step(scenes.batch(args.batch))
        now = time.time()
        trainer.worked += now - last
        last = now
        if trainer.seen // args.batch % 100 == 0:
            values = " ".join(f"{key} {value.item():.4f}" for key, value in losses.items())
            print(f"{trainer.seen} crops, {trainer.seen / trainer.worked:.0f}/s, {values}", flush=True)
        if now - saved > 180:
            trainer.save()
            print(evaluate(trainer.plain(), held_out, 1), flush=True)
            saved = last = time.time()
    trainer.save()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--faces", required=True)
    p.add_argument("--state", required=True)
    p.add_argument("--minutes", type=float, default=45, help="of work, over all runs")
    p.add_argument("--export", help="folder for landmarks.safetensors")
    p.add_argument("--evaluate", action="store_true")
    p.add_argument("--batch", type=int, default=48)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    trainer, (faces, held_out) = Trainer(args), data.load(args.faces)
    if not args.evaluate:
        run(trainer, faces, held_out)
    net = trainer.plain()
    print(evaluate(net, held_out))
    if args.export:
        tensors = {key: value.half() for key, value in net.state_dict().items()}
        header = {"format": "realdrag-landmarks-1", "licence": "CC-BY-NC-SA-4.0", "crops": str(trainer.seen)}
        save_file(tensors, Path(args.export) / "landmarks.safetensors", metadata=header)


if __name__ == "__main__":
    main()
