"""What comes out of an inversion: nearer to the crop, showable again to the byte, and resumable to the byte."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realdrag.devices import threads
from realdrag.errors import WorkError
from realdrag.inversion import Embedded, Lpips, Spread, invert
from realdrag.inversion.optimise import Phase, Phases
from realdrag.inversion.projection import measure, starting_point
from realdrag.inversion.spread import samples
from realdrag.progress import Silent
from realdrag.settings import InversionSettings
from realdrag.stylegan import Encoder, Generator, delta_fault, to_picture, to_tensor, with_delta
from realdrag.values import Latent
from realdrag.weights import load_perceptual

QUICK = InversionSettings(steps_w_from_mean=12, steps_w_plus=16, tune_steps=10, tune_lr=0.003, tune="none")
PHASES = ("w", "w+", "tune")


class Interrupter(Silent):
    """Ctrl-C at step `at` of the stretch `phase`; keeps what was reported."""

    def __init__(self, phase: str = "", at: int = 0) -> None:
        self.phase, self.at, self.now = phase, at, ""
        self.seen: list[tuple[str, int]] = []

    def begin(self, name: str, total: int) -> None:
        self.now = name

    def step(self, done: int, note: str = "") -> None:
        self.seen.append((self.now, done))
        if (self.now, done) == (self.phase, self.at):
            raise KeyboardInterrupt


class Memory:
    """A checkpoint as a file keeps it: contiguous copies."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] | None = None
        self.saves = 0

    def load(self) -> dict[str, torch.Tensor] | None:
        return None if self.tensors is None else {k: v.clone() for k, v in self.tensors.items()}

    def save(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
        self.saves += 1


@functools.cache
def embedded() -> Embedded:
    loss = load_perceptual("embedded", torch.device("cpu"))
    assert isinstance(loss, Embedded)
    return loss


@functools.cache
def spread(generator: Generator) -> Spread:
    return Spread(generator)


def run(crop: np.ndarray, generator: Generator, settings: InversionSettings = QUICK, **more: object) -> Latent:
    arguments = {"model_sha256": "0" * 64, "progress": Silent()} | more
    return invert(crop, generator, None, embedded(), spread(generator), settings, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["lowrank", "full"])
def tuning(request: pytest.FixtureRequest) -> InversionSettings:
    """All three phases."""
    return replace(QUICK, tune=request.param)


@pytest.fixture(scope="module")
def whole(generator: Generator, crop: np.ndarray, tuning: InversionSettings) -> Latent:
    """All three phases without a break."""
    with threads(1):
        return run(crop, generator, tuning)


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def mean_picture(generator: Generator) -> np.ndarray:
    return to_picture(generator.synthesize(generator.mapping.w_avg.expand(1, 8, -1)))


def assert_same(a: Latent, b: Latent) -> None:
    assert a.w_plus.tobytes() == b.w_plus.tobytes()
    assert a.picture.tobytes() == b.picture.tobytes()
    assert a.metrics == b.metrics
    assert (a.delta is None) == (b.delta is None)
    for name in a.delta or {}:
        assert b.delta is not None
        assert a.delta is not None
        assert a.delta[name].tobytes() == b.delta[name].tobytes(), name


def test_a_picture_of_the_generator_is_found_again(generator: Generator, crop: np.ndarray) -> None:
    latent = run(crop, generator, replace(QUICK, steps_w_from_mean=30, steps_w_plus=40))
    assert latent.w_plus.shape == (8, 64)
    assert latent.w_plus.dtype == np.float32
    assert latent.delta is None
    assert (latent.loss, latent.model_sha256) == ("embedded", "0" * 64)
    assert error(latent.picture, crop) < 0.4 * error(mean_picture(generator), crop)
    assert latent.metrics.items() > measure(latent.picture, crop, embedded()).items()
    assert {phase: len(terms["perceptual"]) for phase, terms in latent.curves.items()} == {"w": 30, "w+": 40}


def test_each_phase_brings_it_nearer(generator: Generator, crop: np.ndarray) -> None:
    other = np.ascontiguousarray(crop[:, ::-1])  # not a picture the generator makes
    steps = {"steps_w_from_mean": 20, "steps_w_plus": 25, "tune_steps": 15}
    found = [
        run(other, generator, replace(QUICK, **steps, space=space, tune=tune))
        for space, tune in (("w", "none"), ("w+", "none"), ("w+", "full"))
    ]
    errors = [error(latent.picture, other) for latent in found]
    assert error(mean_picture(generator), other) > errors[0] > errors[1] > errors[2]
    assert found[0].w_plus.tobytes() == np.tile(found[0].w_plus[:1], (8, 1)).tobytes()  # w: one row, eight times
    assert np.ptp(found[1].w_plus, axis=0).max() > 0.01


def test_a_large_crop_is_reduced_to_the_generator_s_size(generator: Generator, crop: np.ndarray) -> None:
    large = crop.repeat(4, 0).repeat(4, 1)
    assert_same(run(large, generator), run(crop, generator))


def test_the_picture_shown_is_the_picture_optimised(generator: Generator, crop: np.ndarray) -> None:
    """The published projectors optimise noise maps and show others."""
    seen: list[torch.Tensor] = []

    class Spy(Embedded):
        def to(self, target: torch.Tensor):  # type: ignore[no-untyped-def]
            inner = super().to(target)
            return lambda picture: (seen.append(picture.detach()), inner(picture))[1]

    latent = invert(
        crop, generator, None, Spy(embedded().net), spread(generator), QUICK, model_sha256="", progress=Silent()
    )
    shown, optimised = latent.picture.astype(int), to_picture(seen[-1]).astype(int)
    assert np.abs(shown - optimised).max() <= 4  # one step on, at the last and lowest rate
    assert len(seen) == QUICK.steps_w_from_mean + QUICK.steps_w_plus + 1  # one to see how near W came
    again = to_picture(generator.synthesize(torch.from_numpy(latent.w_plus)[None]))
    assert again.tobytes() == latent.picture.tobytes()


def test_a_tuned_generator_shows_the_same_bytes_when_loaded(generator: Generator, whole: Latent) -> None:
    latent = whole
    assert latent.delta
    assert {value.dtype for value in latent.delta.values()} == {np.dtype(np.float16)}
    assert all(name.startswith("synthesis.") for name in latent.delta)
    assert not any("torgb" in name for name in latent.delta)
    tuned = with_delta(generator, latent.delta)
    shown = to_picture(tuned.synthesize(torch.from_numpy(latent.w_plus)[None]))
    assert shown.tobytes() == latent.picture.tobytes()


def test_the_generator_is_left_as_it_was(generator: Generator, crop: np.ndarray, tuning: InversionSettings) -> None:
    before = copy.deepcopy(generator.state_dict())
    run(crop, generator, tuning)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(p.requires_grad or p.grad is not None for p in generator.parameters())


def test_an_inversion_is_the_same_each_time(
    generator: Generator, crop: np.ndarray, whole: Latent, tuning: InversionSettings
) -> None:
    torch.manual_seed(2)
    assert_same(run(crop, generator, tuning), whole)


@pytest.mark.parametrize("at", [1, 7, "last"])
@pytest.mark.parametrize("phase", PHASES)
def test_interrupted_work_goes_on_to_the_same_bytes(
    generator: Generator, crop: np.ndarray, whole: Latent, phase: str, at: int | str, tuning: InversionSettings
) -> None:
    total = {"w": tuning.steps_w_from_mean, "w+": tuning.steps_w_plus, "tune": tuning.tune_steps}[phase]
    step = total if at == "last" else int(at)
    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        run(crop, generator, tuning, checkpoint=memory, progress=Interrupter(phase, step))
    assert memory.saves >= 1
    resumed = Interrupter()
    latent = run(crop, generator, tuning, checkpoint=memory, progress=resumed)
    assert_same(latent, whole)
    # Nothing was computed twice.
    done = [s for s in resumed.seen if s[0] in PHASES]
    later = PHASES[PHASES.index(phase) + 1 :]
    assert done[0] == ((phase, step + 1) if step < total else (later[0], 1)) if done else phase == "tune"


def test_work_that_is_interrupted_again_and_again(
    generator: Generator, crop: np.ndarray, whole: Latent, tuning: InversionSettings
) -> None:
    memory = Memory()
    for phase, at in (("w", 3), ("w", 8), ("w+", 2), ("w+", 9), ("tune", 4), ("tune", 5)):
        with pytest.raises(KeyboardInterrupt):
            run(crop, generator, tuning, checkpoint=memory, progress=Interrupter(phase, at))
    assert_same(run(crop, generator, tuning, checkpoint=memory), whole)


def test_ctrl_c_may_come_at_any_moment(
    generator: Generator, crop: np.ndarray, whole: Latent, monkeypatch: pytest.MonkeyPatch, tuning: InversionSettings
) -> None:
    """Python raises it between any two instructions: here just after Adam has moved, before it is counted."""
    memory, steps, descend = Memory(), 0, Phase.descend

    def step(self: Phase, gradients: Iterable[Tensor]) -> None:
        nonlocal steps
        descend(self, gradients)
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Phase, "descend", step)
    with pytest.raises(KeyboardInterrupt):
        run(crop, generator, tuning, checkpoint=memory)
    monkeypatch.undo()
    assert_same(run(crop, generator, tuning, checkpoint=memory), whole)


def test_long_work_is_saved_on_the_way(generator: Generator, crop: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves what was saved last; going on from there gives the same bytes."""

    class PowerCutError(Exception):
        pass

    class Failing(Silent):
        steps = 0

        def step(self, done: int, note: str = "") -> None:
            self.steps += 1
            if self.steps == 21:
                raise PowerCutError

    failing = Failing()
    monkeypatch.setattr("realdrag.inversion.optimise.time.monotonic", lambda: float(failing.steps))  # a second a step
    memory = Memory()
    with pytest.raises(PowerCutError):
        run(crop, generator, checkpoint=memory, progress=failing)
    assert memory.saves == 4  # no more than 5 seconds apart
    resumed = Interrupter()
    latent = run(crop, generator, checkpoint=memory, progress=resumed)
    assert resumed.seen[0] == ("w+", 20 - QUICK.steps_w_from_mean + 1)
    assert_same(latent, run(crop, generator))


def test_no_steps_at_all_is_the_starting_point(generator: Generator, crop: np.ndarray) -> None:
    latent = run(crop, generator, replace(QUICK, steps_w_from_mean=0, steps_w_plus=0))
    assert latent.picture.tobytes() == mean_picture(generator).tobytes()


def test_the_encoder_says_where_to_start(generator: Generator, crop: np.ndarray) -> None:
    torch.manual_seed(0)
    encoder = Encoder(resolution=32, num_ws=8, w_dim=64, channel_base=256, channel_max=16).requires_grad_(False)
    target = to_tensor(crop)
    guess = encoder(target, generator.mapping.w_avg)
    torch.testing.assert_close(starting_point(generator, encoder, target, "w+"), guess)
    one = starting_point(generator, encoder, target, "w")
    assert one.shape == (1, 8, 64)
    torch.testing.assert_close(one, guess.mean(1, keepdim=True).expand(1, 8, 64))
    mean = starting_point(generator, None, target, "w+")
    assert torch.equal(mean, generator.mapping.w_avg.expand(1, 8, 64))
    assert mean.data_ptr() != generator.mapping.w_avg.data_ptr()


def descend(phase: Phase, loss: Callable[[int], Tensor]) -> Phases:
    phases = Phases(None, Silent(), {phase.name: phase.steps})
    phases.run(phase, lambda step: {"perceptual": loss(step)})
    return phases


def test_the_rate_rises_and_falls_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    before = Phase.descend

    def step(self: Phase, gradients: Iterable[Tensor]) -> None:
        rates.append(self.rate())
        before(self, gradients)

    monkeypatch.setattr(Phase, "descend", step)
    x = torch.ones(3, requires_grad=True)
    descend(Phase("x", {"x": x}, 0.1, 8, 0.25), lambda step: x.square().sum())
    assert rates == pytest.approx([0.05] + [0.1] * 6 + [0.05])
    assert float(x.detach().max()) < 1
    assert x.grad is None


def test_a_plateau_ends_a_phase_early_but_not_abruptly() -> None:
    """A loss that stops falling at step 40 of 400: 30 steps to see it, 100 for the rate to fall."""
    x = torch.ones(1, requires_grad=True)
    loss = lambda step: x.sum() * 0 + max(100.0 - 2 * step, 20.0)  # noqa: E731
    early = Phase("x", {"x": x}, 0.1, 400, 0.05, plateau=0.02)
    assert 40 + 100 < len(descend(early, loss).curves["x"]["perceptual"]) < 40 + 30 + 101
    never = Phase("x", {"x": x}, 0.1, 400, 0.05)
    assert len(descend(never, loss).curves["x"]["perceptual"]) == 400


def test_the_time_is_told_from_the_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = [0.0]

    class Listener(Silent):
        def step(self, done: int, note: str = "") -> None:
            clock[0] += 50.0 if done == 1 else 2.0  # the first step is no measure

        def say(self, message: str) -> None:
            said.append(message)

    monkeypatch.setattr("realdrag.inversion.optimise.time.monotonic", lambda: clock[0])
    x = torch.ones(1, requires_grad=True)
    phases = Phases(None, Listener(), {"w": 10, "w+": 20, "tune": 10}, {"tune": 1.4})
    for name in ("w", "w+"):
        phases.run(Phase(name, {"x": x}, 0.1, phases.plan[name], 0.05), lambda step: {"perceptual": x.sum()})
    # 6 and 20 steps of 2 s, 10 of tuning at 1.4 times that.
    assert said == ["inversion: about 80 s here (10 + 20 + 10 steps)"]


@pytest.mark.parametrize("tune", ["lowrank", "full"])
def test_tuning_that_ends_farther_away_is_not_kept(generator: Generator, crop: np.ndarray, tune: str) -> None:
    settings = replace(QUICK, tune=tune, tune_steps=4, tune_lr=0.5)
    latent = run(crop, generator, settings)
    curve = [sum(terms) for terms in zip(*latent.curves["tune"].values(), strict=True)]
    assert curve[-1] > curve[0]
    assert latent.delta is None
    assert latent.picture.tobytes() == run(crop, generator, QUICK).picture.tobytes()


def test_the_prior_has_a_say_in_w_too(generator: Generator, crop: np.ndarray) -> None:
    """So it stands in the key there."""
    ends = [run(crop, generator, replace(QUICK, space="w", prior_weight=weight)).w_plus for weight in (0.0, 1.0)]
    assert ends[0].tobytes() != ends[1].tobytes()


def test_an_inversion_that_diverges_says_so(generator: Generator, crop: np.ndarray) -> None:
    with pytest.raises(WorkError, match=r"diverged: step \d+ of w\+? has no finite loss"):
        run(crop, generator, replace(QUICK, lr=1e30))


def test_optimised_noise_is_kept_and_shown(generator: Generator, crop: np.ndarray) -> None:
    other = np.ascontiguousarray(crop[:, ::-1])
    settings = replace(QUICK, tune="lowrank", tune_steps=3)
    latent = run(other, generator, replace(settings, noise="optimised"))
    assert latent.delta
    maps = [name for name in latent.delta if name.endswith("noise_const")]
    assert len(maps) == 7
    assert delta_fault(generator.config, latent.delta) == ""
    tuned = with_delta(generator, latent.delta)
    for name in maps:
        noise = tuned.get_buffer(name)
        assert not torch.equal(noise, generator.get_buffer(name))
        assert float(noise.mean()) == pytest.approx(0, abs=2e-3)
        assert float(noise.square().mean()) == pytest.approx(1, abs=1e-2)
    shown = to_picture(tuned.synthesize(torch.from_numpy(latent.w_plus)[None]))
    assert shown.tobytes() == latent.picture.tobytes()
    assert_same(run(other, generator, replace(settings, noise="optimised")), latent)


def test_noise_work_goes_on_to_the_same_bytes(generator: Generator, crop: np.ndarray) -> None:
    settings = replace(QUICK, noise="optimised", explore=0.05)
    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        run(crop, generator, settings, checkpoint=memory, progress=Interrupter("w+", 7))
    assert_same(run(crop, generator, settings, checkpoint=memory), run(crop, generator, settings))


def test_the_prior_keeps_the_latent_among_samples(generator: Generator, crop: np.ndarray) -> None:
    other = np.ascontiguousarray(crop[:, ::-1])
    strange = [
        float(spread(generator).strangeness(torch.from_numpy(latent.w_plus)).mean())
        for weight in (0.0, 0.02, 0.5)
        for latent in [run(other, generator, replace(QUICK, prior_weight=weight, steps_w_plus=40))]
    ]
    assert strange[0] > 1.5 * strange[1] > 1.5 * strange[2]


def test_samples_are_as_strange_as_samples(generator: Generator) -> None:
    w = samples(generator, 500, 3)
    assert float(spread(generator).strangeness(w).mean()) == pytest.approx(1, abs=0.1)
    assert float(spread(generator).strangeness(3 * w).mean()) > 4


def test_the_paper_s_start_is_the_mean_latent(generator: Generator, crop: np.ndarray) -> None:
    torch.manual_seed(0)
    encoder = Encoder(resolution=32, num_ws=8, w_dim=64, channel_base=256, channel_max=16).requires_grad_(False)
    arguments = {"model_sha256": "0" * 64, "progress": Silent()}
    settings = replace(QUICK, start="mean")
    with_encoder = invert(crop, generator, encoder, embedded(), spread(generator), settings, **arguments)  # type: ignore[arg-type]
    assert_same(with_encoder, run(crop, generator))


def test_metrics_are_those_of_the_pictures() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    same = measure(a, a, embedded())
    assert same["lpips"] is None
    assert same["ssim"] == 1
    assert same["psnr"] is not None
    assert same["psnr"] > 80
    b = np.where(a > 127, a - 10, a + 10).astype(np.uint8)
    assert measure(b, a, embedded())["psnr"] == pytest.approx(10 * np.log10(255**2 / 100), abs=0.01)


def test_lpips_is_reported_when_it_is_there(package: torch.nn.Module, crop: np.ndarray) -> None:
    other = np.ascontiguousarray(crop[::-1])
    reported = measure(other, crop, Lpips(package, "squeeze"))["lpips"]
    enlarged = [torch.nn.functional.interpolate(to_tensor(p), (256, 256), mode="bilinear") for p in (other, crop)]
    with torch.no_grad():
        assert reported == pytest.approx(package(*enlarged).item(), abs=1e-4)


SHARED = Path(os.environ.get("REALDRAG_SHARED", Path(__file__).parents[3] / "shared"))
WEIGHTS = SHARED / "weights" / "lpips-squeeze.safetensors"


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the backbone's weights are not here")
def test_true_lpips_improves(package: torch.nn.Module, generator: Generator, crop: np.ndarray) -> None:
    """With the published weights: what is optimised, and what is reported, goes down."""
    from safetensors.torch import load_file

    tensors = load_file(WEIGHTS)
    module = copy.deepcopy(package)
    wanted = {key: f"features.{key.partition('.')[2]}" for key in module.net.state_dict()}
    module.net.load_state_dict({key: tensors[name] for key, name in wanted.items()})
    for k, head in enumerate(module.lins):
        torch.testing.assert_close(head.model[-1].weight.data.flatten(), tensors[f"lin{k}"])
    perceptual = Lpips(module, "squeeze")
    settings = replace(QUICK, steps_w_from_mean=12, steps_w_plus=12, pixel_weight=0.0)
    latent = invert(crop, generator, None, perceptual, spread(generator), settings, model_sha256="", progress=Silent())
    before = perceptual.measure(to_tensor(mean_picture(generator)), to_tensor(crop))
    assert latent.loss == "lpips-squeeze"
    assert latent.metrics["lpips"] is not None
    assert latent.metrics["lpips"] < 0.7 * before


def test_whoever_watches_is_told_of_every_step_and_changes_nothing(generator: Generator, crop: np.ndarray) -> None:
    seen = list[np.ndarray]()
    with threads(1):
        watched = run(crop, generator, watch=seen.append)
        assert_same(watched, run(crop, generator))
    assert len(seen) == sum(len(watched.curves[name]["perceptual"]) for name in ("w", "w+"))
    assert {w_plus.shape for w_plus in seen} == {watched.w_plus.shape}
    np.testing.assert_array_equal(seen[-1], watched.w_plus)


def test_a_step_is_that_of_torch_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (torch.linspace(-1, 1, 35).reshape(5, 7).requires_grad_() for _ in range(2))
    adam = torch.optim.Adam([theirs], lr=0.05)
    phase = Phase("x", {"x": ours}, 0.05, 100, 0.0)
    monkeypatch.setattr(phase, "rate", lambda: 0.05)
    for _ in range(20):
        gradient = torch.randn(5, 7, generator=rng)
        phase.descend([gradient])
        phase.done += 1
        theirs.grad = gradient
        adam.step()
    assert torch.equal(ours, theirs)
