"""How fast the generator is, against the published manner of computing it and against the machine's own limit.

    python benchmarks/synthesis.py [--models ffhq-1024 …] [--precision fp32 bf16] [--device cpu] [--repeats 9]

A lean step is what a drag needs of the generator: forward to the feature block, and the gradient for w_plus. Beside it:
(a) the same features and gradient in the published manner: weights modulated for each sample and applied as a grouped
convolution, every parameter with a gradient, the whole picture made, in fp32; (b) the floor: the step's
multiply-adds at the rate of a large matrix product in the same precision. Weights are random, except the embedded
model's: speed depends on shape alone. Each figure is the median of a process of its own, and so is its peak memory.
Ours keeps freed memory, as the commands do (`devices.keep_pages`); the reference has the system's allocator, and what
ours would be with that is printed too. Anything else that runs meanwhile shows.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from realdrag import devices
from realdrag.drag.drag import choose_block
from realdrag.stylegan import Generator, GeneratorConfig
from realdrag.stylegan.networks import SQRT2, ModulatedConv, ToRGB
from realdrag.weights import EMBEDDED, load_generator, resolve_model

# channel_base: config-f, and what ADA's `paper256` has. Without clamping, as what was converted from TensorFlow.
BASES = {"ffhq-1024": 32768, "ffhq-512": 32768, "ffhq-256": 16384}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ONE_THREAD = 128  # up to this size one thread computes, as in `Editor`
Step = Callable[[], object]


def built(name: str) -> tuple[Generator, str]:
    """A generator, and the block that a drag on it looks at."""
    if name == EMBEDDED:
        generator = load_generator(resolve_model(name))
        return generator, choose_block(generator, "auto")
    torch.manual_seed(0)
    resolution = int(name.rpartition("-")[2])
    config = GeneratorConfig(512, 512, resolution, 8, BASES[name], 512)
    return Generator(config).eval().requires_grad_(False), "b128"


def lean_gmac(config: GeneratorConfig, block: str) -> float:
    """Billions of multiply-adds of a lean step: each convolution and low-pass to the block, forward and backward."""
    forward, below = 0, 0
    for r in config.resolutions:
        c = config.channels(r)
        forward += 9 * c * c * r * r
        if r > 4:
            forward += 9 * below * c * (r // 2) ** 2 + 16 * c * r * r
        below = c
        if block == f"b{r}":
            return 2 * forward / 1e9
    raise ValueError(block)


# The published manner. ------------------------------------------------------------------------------------------------


def modulated(x: Tensor, weight: Tensor, style: Tensor, *, up: bool = False, demodulate: bool = True) -> Tensor:
    """A convolution with weights of each sample's own."""
    n, (n_out, n_in, k, _) = len(x), weight.shape
    w = weight[None] * style[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * n_in, *x.shape[2:])
    if up:
        w = w.transpose(1, 2).reshape(n * n_in, n_out, k, k)
        x = F.conv_transpose2d(x, w, stride=2, groups=n)
    else:
        x = F.conv2d(x, w.reshape(n * n_out, n_in, k, k), padding=k // 2, groups=n)
    return x.reshape(n, n_out, *x.shape[2:])


def low_pass(x: Tensor, taps: Tensor, padding: list[int], up: int = 1) -> Tensor:
    """Zeros inserted, [1, 3, 3, 1] in both directions, gain 4: `upfirdn2d` as published for where CUDA is not."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    return F.conv2d(F.pad(x, padding), (taps * 4)[None, None].repeat(c, 1, 1, 1), groups=c)


def published_conv(conv: ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    x = modulated(x, conv.weight, conv.affine(w), up=conv.up)
    if conv.up:
        x = low_pass(x, conv.resample_filter, [1, 1, 1, 1])
    x = x + conv.noise_const * conv.noise_strength + conv.bias[:, None, None]
    x = F.leaky_relu(x, 0.2) * SQRT2
    return x if conv.clamp is None else x.clamp(-conv.clamp, conv.clamp)


def published_rgb(rgb: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    x = modulated(x, rgb.weight, rgb.affine(w) * rgb.gain, demodulate=False) + rgb.bias[:, None, None]
    return x if rgb.clamp is None else x.clamp(-rgb.clamp, rgb.clamp)


def published(generator: Generator, w_plus: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The picture, and the features of every block."""
    rows, row, features = w_plus.unbind(1), 0, {}
    picture = None
    for r in generator.config.resolutions:
        block = generator.synthesis.block(r)
        if r == 4:
            x = block.const[None].repeat(len(w_plus), 1, 1, 1)
        else:
            x = published_conv(block.conv0, x, rows[row])
            row += 1
        x = published_conv(block.conv1, x, rows[row])
        row += 1
        rgb = published_rgb(block.torgb, x, rows[row])
        if picture is not None:
            rgb = rgb + low_pass(picture, block.resample_filter, [2, 1, 2, 1], up=2)
        picture, features[f"b{r}"] = rgb, x
    assert picture is not None
    return picture, features


# Measurements, each in a process of its own. --------------------------------------------------------------------------


def measured(step: Step, repeats: int, device: torch.device) -> float:
    """Median seconds of a step, after three that are not counted."""
    taken = []
    for _ in range(3 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[3:])


def captured(step: Step) -> Step:
    """The step as a CUDA graph, which replays on the same tensors."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def rate(dtype: torch.dtype, repeats: int, device: torch.device) -> tuple[float, float]:
    """Multiply-adds a second, in billions, of a matrix product 4096³: torch's own, and as a 1 × 1 convolution.

    Where torch multiplies by MKL and convolves by oneDNN, as on x86, the second can be the faster.
    """
    n = 4096
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    x = a.view(1, 64, 64, n).permute(0, 3, 1, 2)  # channels last
    with torch.no_grad():
        product = measured(lambda: a @ b, repeats, device)
        convolution = measured(lambda: F.conv2d(x, b[:, :, None, None]), repeats, device)
    return n**3 / product / 1e9, n**3 / convolution / 1e9


def peak_mb(device: torch.device) -> float:
    """The most memory that this process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def measure(what: str, name: str, precision: str, device: torch.device, repeats: int) -> dict[str, float]:
    """One figure and the peak memory of getting it. what: floor, picture, lean, lean-default, captured, reference."""
    if what in ("picture", "lean"):
        devices.keep_pages()
    generator, block = built(name)
    if device.type == "cpu" and generator.config.img_resolution <= ONE_THREAD:
        torch.set_num_threads(1)
    if what == "floor":
        product, convolution = rate(DTYPES[precision], repeats, device)
        return {"product": product, "convolution": convolution, "gmac": lean_gmac(generator.config, block)}
    generator.to(device).dtype = DTYPES[precision]
    w_plus = torch.randn(1, generator.config.num_ws, generator.config.w_dim, device=device).requires_grad_()

    r = int(block[1:])
    # Of a loss that is not part of what is measured; the same in every step.
    gradient = torch.randn(1, generator.config.channels(r), r, r, device=device)
    gradient = gradient.contiguous(memory_format=torch.channels_last) / gradient.numel()

    def lean() -> Tensor:
        return torch.autograd.grad(generator.synthesize(w_plus, block), w_plus, gradient)[0]

    def picture() -> Tensor:
        with torch.no_grad():
            return generator.synthesize(w_plus)

    def reference() -> None:
        _, features = published(generator, w_plus)
        features[block].backward(gradient)

    if what == "reference":
        gradient = gradient.contiguous()
        generator.requires_grad_(True)
    step: Step = {"picture": picture, "reference": reference}.get(what, lean)
    seconds = measured(captured(step) if what == "captured" else step, repeats, device)
    return {"ms": seconds * 1e3, "mb": peak_mb(device)}


def apart(args: argparse.Namespace, what: str, name: str, precision: str) -> dict[str, float]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--one", what, "--models", name, "--precision", precision]
    command += ["--device", args.device, "--repeats", str(args.repeats)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=[*BASES, EMBEDDED], choices=[*BASES, EMBEDDED])
    p.add_argument("--precision", nargs="+", choices=DTYPES, help="default: fp32, and the half precision that is fast")
    p.add_argument("--device", default="auto")
    p.add_argument("--repeats", type=int, default=9)
    p.add_argument("--one", help=argparse.SUPPRESS)
    args = p.parse_args()
    device = devices.pick(args.device)
    if args.one:
        print(json.dumps(measure(args.one, args.models[0], args.precision[0], device, args.repeats)))
        return
    half = devices.pick_precision("auto", device, small=False)
    cuda = device.type == "cuda"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}; one thread for {EMBEDDED}\n")
    print(f"| model | precision | picture | lean step | {'captured' if cuda else 'system allocator'} | published step "
          "| times faster | floor (product, convolution) | step / floor "
          "| peak: picture, step, published |")  # fmt: skip
    print("|" + "---|" * 10)
    for name in args.models:
        old = apart(args, "reference", name, "fp32")
        for precision in args.precision or sorted({"fp32", half}, reverse=True):
            # On CUDA torch keeps the memory itself, and a graph takes the time between kernels away.
            names = ("floor", "picture", "lean", "captured" if cuda else "lean-default")
            floor, picture, lean, other = (apart(args, what, name, precision) for what in names)
            best = other["ms"] if cuda else lean["ms"]
            least = floor["gmac"] / max(floor["product"], floor["convolution"]) * 1e3
            print(f"| {name} | {precision} | {picture['ms']:.1f} ms | {lean['ms']:.1f} ms | {other['ms']:.1f} ms "
                  f"| {old['ms']:.0f} ms | {old['ms'] / best:.1f} "
                  f"| {least:.1f} ms ({floor['product']:.0f}, {floor['convolution']:.0f}) | {best / least:.2f} "
                  f"| {picture['mb']:.0f}, {lean['mb']:.0f}, {old['mb']:.0f} MB |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
