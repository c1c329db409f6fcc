"""How long a checkpoint of the usual size takes: to look into, to convert, and to load afterwards.

Makes a training pickle of FFHQ's 1024 px architecture in NVIDIA's format (G, D and G_ema of random weights, 380 MB) in
a temporary folder. Each step runs in a process of its own, so that its time and its peak memory are its alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from realdrag.stylegan import GeneratorConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "stylegan"))
from checkpoint_writers import Persistent, module, random_arrays, stand_ins

FFHQ = GeneratorConfig(z_dim=512, w_dim=512, img_resolution=1024, num_layers=8, channel_base=32768, channel_max=512)
DISCRIMINATOR = 29_000_000  # parameters
STEPS = {
    "importing torch alone": "import torch",
    "models inspect": "from realdrag.conversion import inspect; inspect(path)",
    "models convert": "from realdrag.conversion import convert; convert(path, path.with_suffix('.safetensors'), {})",
    "first use as --model": "from realdrag.weights import *; load_generator(resolve_model(str(path)))",
    "any later use": "from realdrag.weights import *; load_generator(resolve_model(str(path)))",
    "use of the converted file": "from realdrag.weights import *; "
    "load_generator(resolve_model(str(path.with_suffix('.safetensors'))))",
}
# VmHWM, because ru_maxrss begins with what the parent had.
MEASURE = """
import re, sys, time
from pathlib import Path
path, start = Path(sys.argv[1]), time.perf_counter()
{step}
seconds, status = time.perf_counter() - start, Path("/proc/self/status").read_text()
print(f"{{seconds:.2f}} {{int(re.search('VmHWM: *([0-9]+)', status.replace(chr(9), ' '))[1]) / 1e3:.0f}}")
"""


def write(path: Path) -> None:
    """The training pickle."""
    import pickle

    arrays = random_arrays(FFHQ)
    discriminator = Persistent("Discriminator")
    discriminator.state["_parameters"]["weight"] = torch.zeros(DISCRIMINATOR)
    content = {"G": module(arrays, FFHQ), "D": discriminator, "G_ema": module(arrays, FFHQ), "augment_pipe": None}
    with stand_ins(), path.open("wb") as file:
        pickle.dump(content, file, 4)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network-snapshot.pkl"
        write(path)
        print(f"{path.stat().st_size / 1e6:.0f} MB\n\n| step | s | peak MB |\n|---|---|---|")
        environment = os.environ | {"REALDRAG_HOME": folder + "/home"}
        for name, step in STEPS.items():
            command = [sys.executable, "-c", MEASURE.format(step=step), str(path)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            print(f"| {name} | {' | '.join(done.stdout.split())} |")


if __name__ == "__main__":
    main()
