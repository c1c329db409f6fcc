"""Adam with the published projector's rates, resumable to the same bytes: one piece for projection and tuning."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from realdrag.errors import WorkError
from realdrag.progress import Progress, stretch

SAVE_EVERY = 5.0  # seconds: the most work that an interruption may cost
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's
FALL = 0.25  # the share of a phase in which the rate falls (Karras et al. 2020, appendix D)
WINDOW = 15  # steps: a plateau is seen by comparing the last ones with as many before them
LAST_TWO = (-2 * WINDOW, -WINDOW), (-WINDOW, None)

Terms = Mapping[str, Tensor]  # of a loss: name → scalar; their sum is minimised, the first one is the perceptual loss


def total(terms: Terms) -> Tensor:
    """What is minimised, a scalar."""
    return torch.stack(list(terms.values())).sum()


class Checkpoint(Protocol):
    """Where unfinished work is kept; the caller's store."""

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, or None."""

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace what was saved, atomically."""


@dataclass(eq=False)
class Phase:
    """One optimisation: what is free, how long it may take, and where it is.

    lr: the highest rate. warm_up: the share of the steps in which it rises to that. stop: ends when the perceptual loss
    is at most this. plateau: the rate begins to fall early when WINDOW steps lower the loss by less than this share; 0
    never.
    """

    name: str
    parameters: Mapping[str, Tensor]
    lr: float
    steps: int
    warm_up: float
    stop: float = 0.0
    plateau: float = 0.0
    done: int = field(default=0, init=False)
    end: int = field(init=False)  # the step after the last, once a plateau has been seen less than `steps`
    curves: dict[str, list[float]] = field(default_factory=dict, init=False)  # term → value at each step done

    def __post_init__(self) -> None:
        self.end = self.steps
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.parameters.items()}

    def rate(self) -> float:
        """That of the step to come: up along a line, and down to zero along half a cosine."""
        up = (self.done + 1) / max(self.warm_up * self.steps, 1)
        left = min(1.0, (self.end - self.done) / (FALL * self.steps))
        return self.lr * min(1.0, up) * (0.5 - 0.5 * math.cos(math.pi * left))

    def descend(self, gradients: Iterable[Tensor]) -> None:
        """One step of Adam (Kingma and Ba 2015) against `gradients`, one for each of `parameters`.

        To the bit what `torch.optim.Adam` does on a processor, which imports torch's compiler first, for two seconds.
        """
        rate, n = self.rate(), self.done + 1
        with torch.no_grad():
            for (mean, square), parameter, gradient in zip(
                self.moments.values(), self.parameters.values(), gradients, strict=True
            ):
                mean.lerp_(gradient, 1 - BETAS[0])
                square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                root = (square.sqrt() / (1 - BETAS[1] ** n) ** 0.5).add_(EPSILON)
                parameter.addcdiv_(mean, root, value=-rate / (1 - BETAS[0] ** n))

    def counted(self, values: Mapping[str, float]) -> None:
        """A step was taken where the loss had these values."""
        for term, value in values.items():
            self.curves.setdefault(term, []).append(value)
        self.done += 1
        falling = self.end - self.done <= FALL * self.steps
        if self.plateau and not falling and self.done >= 2 * WINDOW:
            before, now = (sum(sum(curve[a:b]) for curve in self.curves.values()) for a, b in LAST_TWO)
            if now > (1 - self.plateau) * before:
                self.end = self.done + math.ceil(FALL * self.steps)

    def outcome(self) -> dict[str, Tensor]:
        """Where the phase is, under names that begin with its own: all that later phases need of a finished one."""
        kept = {f"{self.name}/step": torch.tensor([self.done, self.end])}
        kept |= {f"{self.name}/curve/{term}": torch.tensor(curve) for term, curve in self.curves.items()}
        for key, parameter in self.parameters.items():
            kept[f"{self.name}/{key}"] = parameter.detach().clone()
        return kept

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on: that, and Adam's moments."""
        kept = self.outcome()
        for key, (mean, square) in self.moments.items():
            kept |= {f"{self.name}/{key}/m": mean.clone(), f"{self.name}/{key}/v": square.clone()}
        return kept

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from `state()`, if there is one of this phase in `kept`."""
        if f"{self.name}/step" not in kept:
            return
        self.done, self.end = (int(n) for n in kept[f"{self.name}/step"])
        prefix = f"{self.name}/curve/"
        self.curves = {k.removeprefix(prefix): v.tolist() for k, v in kept.items() if k.startswith(prefix)}
        for key, parameter in self.parameters.items():
            parameter.data.copy_(kept[f"{self.name}/{key}"])
            for moment, which in zip(self.moments[key], "mv", strict=True):
                if (found := kept.get(f"{self.name}/{key}/{which}")) is not None:
                    moment.copy_(found)


class Phases:
    """Runs one optimisation after another and keeps, in one checkpoint, what is needed to go on.

    plan: the steps of all phases to come; the user is told how long they will take here once a few have been taken.
    costs: how much longer a step of a phase takes than one of the others; 1 where it is not named.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        progress: Progress,
        plan: Mapping[str, int],
        costs: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.checkpoint, self.progress, self.plan, self.costs = checkpoint, progress, plan, costs
        self.kept: dict[str, Tensor] = (checkpoint.load() or {}) if checkpoint else {}
        self.curves: dict[str, dict[str, list[float]]] = {}  # of finished phases
        self.saved_at = time.monotonic()
        self.told = False

    def run(self, phase: Phase, loss: Callable[[int], Terms], after: Callable[[], None] = lambda: None) -> None:
        """Minimise `loss`, which is told the step, over the phase's parameters (changed in place).

        after: called after each step. Resumed from the checkpoint if it has this phase. At most one call a name.
        """
        phase.restore(self.kept)
        if phase.done < phase.end:
            self._minimise(phase, loss, after)
        self.curves[phase.name] = phase.curves
        others = {name: value for name, value in self.kept.items() if not name.startswith(f"{phase.name}/")}
        self.kept = others | phase.outcome()

    def _minimise(self, phase: Phase, loss: Callable[[int], Terms], after: Callable[[], None]) -> None:
        free, warm = list(phase.parameters.values()), phase.done + 1  # the first step takes longer than the others
        whole = True  # parameters, moments and step number belong together
        with stretch(self.progress, phase.name, phase.steps) as progress:
            try:
                while phase.done < phase.end:
                    terms = loss(phase.done)
                    values = {term: float(value.detach()) for term, value in terms.items()}
                    if not all(map(math.isfinite, values.values())):
                        raise WorkError(
                            f"the inversion diverged: step {phase.done + 1} of {phase.name} has no finite loss",
                            "take a lower lr or tune_lr",
                        )
                    if next(iter(values.values())) <= phase.stop:
                        phase.end = phase.done
                        break
                    gradients = torch.autograd.grad(total(terms), free)
                    whole = False
                    phase.descend(gradients)
                    after()
                    phase.counted(values)
                    whole = True
                    progress.step(phase.done, f"loss {sum(values.values()):.3f}")
                    now = time.monotonic()
                    if phase.done == warm:
                        started = now
                    each = (now - started) / max(phase.done - warm, 1)
                    if phase.done == warm + 3:
                        self._tell(phase, each)
                    if now - self.saved_at + each > SAVE_EVERY:
                        self._save(phase)
            except KeyboardInterrupt:
                if whole:
                    self._save(phase)
                raise

    def _tell(self, phase: Phase, each: float) -> None:
        """How long all will take when a step of this phase takes `each` seconds; once, and not if over at once."""
        if self.told:
            return
        self.told = True
        names = list(self.plan)
        left = {name: self.plan[name] for name in names[names.index(phase.name) :]} | {
            phase.name: phase.end - phase.done
        }
        ahead = sum(steps * self.costs.get(name, 1.0) for name, steps in left.items())
        ahead *= each / self.costs.get(phase.name, 1.0)
        if ahead >= 1:
            steps = " + ".join(str(self.plan[name]) for name in left)
            self.progress.say(f"inversion: about {duration(ahead)} here ({steps} steps)")

    def _save(self, phase: Phase) -> None:
        if self.checkpoint is not None and (phase.done or self.kept):
            self.checkpoint.save(self.kept | (phase.state() if phase.done else {}))
            self.saved_at = time.monotonic()


def duration(seconds: float) -> str:
    """A length of time as people say it: "8 s", "3 min"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
