"""Adam with a falling end, resumable to the same bytes: one piece for projection and tuning."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from realdrag.progress import Progress, stretch

SAVE_EVERY = 5.0  # seconds: what an interruption may cost
SAVE_SHARE = 0.05  # at most this share of the time goes into saving


class Checkpoint(Protocol):
    """Where unfinished work is kept; the caller's store."""

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, or None."""

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace what was saved, atomically."""


class Phases:
    """Runs one optimisation after another and keeps, in one checkpoint, what is needed to go on."""

    def __init__(self, checkpoint: Checkpoint | None, progress: Progress) -> None:
        self.checkpoint, self.progress = checkpoint, progress
        self.kept: dict[str, Tensor] = (checkpoint.load() or {}) if checkpoint else {}
        self.saved_at, self.pause = time.monotonic(), SAVE_EVERY

    def run(
        self,
        name: str,
        parameters: Mapping[str, Tensor],
        loss: Callable[[], Tensor],
        *,
        lr: float,
        steps: int,
    ) -> None:
        """Minimise `loss` over `parameters` (changed in place); at most one call a `name`.

        The rate falls to zero linearly over the last quarter. Resumed from the checkpoint if it has this phase.
        """
        optimizer = torch.optim.Adam(list(parameters.values()), lr=lr, betas=(0.9, 0.999))
        done = self._restore(name, parameters, optimizer)
        if done < steps:
            self._minimise(name, parameters, loss, optimizer, done, steps)
        self.kept |= {f"{name}/{k}": v.detach().clone() for k, v in parameters.items()}
        self.kept[f"{name}/step"] = torch.tensor(steps)

    def _minimise(
        self,
        name: str,
        parameters: Mapping[str, Tensor],
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Adam,
        done: int,
        steps: int,
    ) -> None:
        """Steps `done` … `steps` − 1."""
        free, lr = list(parameters.values()), optimizer.param_groups[0]["lr"]
        whole = True  # parameters, moments and step number belong together
        with stretch(self.progress, name, steps) as progress:
            try:
                for step in range(done, steps):
                    optimizer.param_groups[0]["lr"] = lr * min(1.0, (steps - step) / (steps / 4))
                    value = loss()
                    for parameter, gradient in zip(free, torch.autograd.grad(value, free), strict=True):
                        parameter.grad = gradient
                    whole = False
                    optimizer.step()
                    done, whole = step + 1, True
                    progress.step(done, f"loss {value.item():.3f}")
                    if time.monotonic() - self.saved_at > self.pause:
                        self._save(name, parameters, optimizer, done)
            except KeyboardInterrupt:
                if whole:
                    self._save(name, parameters, optimizer, done)
                raise
        for parameter in free:
            parameter.grad = None

    def _restore(self, name: str, parameters: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> int:
        if f"{name}/step" not in self.kept:
            return 0
        step = self.kept[f"{name}/step"]
        for key, parameter in parameters.items():
            parameter.data.copy_(self.kept[f"{name}/{key}"])
            if f"{name}/{key}/m" in self.kept:
                optimizer.state[parameter] = {
                    "step": step.float(),
                    "exp_avg": self.kept.pop(f"{name}/{key}/m").to(parameter),
                    "exp_avg_sq": self.kept.pop(f"{name}/{key}/v").to(parameter),
                }
        return int(step)

    def _save(self, name: str, parameters: Mapping[str, Tensor], optimizer: torch.optim.Adam, done: int) -> None:
        if self.checkpoint is None or not (done or self.kept):
            return
        started = time.monotonic()
        tensors = dict(self.kept)
        if done:
            tensors[f"{name}/step"] = torch.tensor(done)
        for key, parameter in parameters.items() if done else ():
            state = optimizer.state[parameter]
            tensors[f"{name}/{key}"] = parameter.detach()
            tensors[f"{name}/{key}/m"], tensors[f"{name}/{key}/v"] = state["exp_avg"], state["exp_avg_sq"]
        self.checkpoint.save(tensors)
        self.saved_at = time.monotonic()
        self.pause = max(SAVE_EVERY, (self.saved_at - started) / SAVE_SHARE)
