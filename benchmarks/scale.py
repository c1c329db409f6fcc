"""A million portraits on a cluster: a discrete-event simulation of `batch --engine ray`, beside the sum on paper.

    pip install simpy; python benchmarks/scale.py [--photos 4000]

What each photo needs is in `NEEDS` (`scale.md` says which figures are measured and which assumed). An actor has one
photo at a time: it reads it, aligns it on a core, inverts and drags on its GPU (which actors share), keeps the latent,
composites on a core and writes the result. The driver hands out jobs and writes rows. On paper the rate is that of the
scarcest resource, or, with few actors, of one photo's whole way.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import simpy

MILLION = 1_000_000
SPREAD = 0.25  # of the logarithm of computing times: faces and photos differ
GPUS_PER_NODE, CORES_PER_GPU = 8, 12


@dataclass(frozen=True)
class Needs:
    """Of one photo. Seconds of a core, of a GPU, of the driver; megabytes read, written, kept."""

    name: str
    align: float
    gpu: float
    composite: float
    driver: float
    read: float
    write: float
    keep: float


NEEDS = (
    Needs("640 px, faces-128", align=0.5, gpu=0.65, composite=0.27, driver=0.004, read=0.1, write=0.1, keep=0.23),
    Needs("12 MP, FFHQ-1024", align=2.1, gpu=2.1, composite=2.4, driver=0.004, read=4.0, write=4.0, keep=1.5),
)
NODE_LINK, STORAGE = 1500.0, 6000.0  # megabytes a second: of a node; of photos' and latents' storage in all


def on_paper(needs: Needs, gpus: int, actors: int) -> tuple[float, str]:
    """Photos a second, and what limits them."""
    nodes, bytes_ = -(-gpus // GPUS_PER_NODE), needs.read + needs.write + needs.keep
    way = needs.align + needs.gpu + needs.composite + 2 * needs.driver + bytes_ / NODE_LINK
    limits = {
        "actors": gpus * actors / way,
        "GPUs": gpus / needs.gpu,
        "cores": gpus * CORES_PER_GPU / (needs.align + needs.composite),
        "node links": nodes * NODE_LINK / bytes_,
        "storage": STORAGE / bytes_,
        "driver": 1 / (2 * needs.driver),
    }
    name = min(limits, key=lambda key: limits[key])
    return limits[name], name


class Simulated:
    """A cluster at work on `photos`."""

    def __init__(self, needs: Needs, gpus: int, actors: int, photos: int) -> None:
        self.needs, self.photos, self.left = needs, photos, photos
        self.env, self.random = simpy.Environment(), np.random.default_rng(0)
        nodes = -(-gpus // GPUS_PER_NODE)
        self.driver, self.storage = simpy.Resource(self.env), simpy.Resource(self.env, 16)
        self.links = [simpy.Resource(self.env) for _ in range(nodes)]
        self.cores = [simpy.Resource(self.env, CORES_PER_GPU * min(GPUS_PER_NODE, gpus)) for _ in range(nodes)]
        self.gpus = [simpy.Resource(self.env) for _ in range(gpus)]
        self.busy = 0.0
        for gpu in range(gpus):
            for _ in range(actors):
                self.env.process(self.actor(gpu))

    def hold(self, resource: simpy.Resource, seconds: float):  # type: ignore[no-untyped-def]
        with resource.request() as turn:
            yield turn
            yield self.env.timeout(seconds)

    def moved(self, node: int, megabytes: float):  # type: ignore[no-untyped-def]
        """Over the node's link and the storage's: what is slower counts."""
        yield from self.hold(self.links[node], megabytes / NODE_LINK)
        yield from self.hold(self.storage, 16 * megabytes / STORAGE)

    def actor(self, gpu: int):  # type: ignore[no-untyped-def]
        needs, node = self.needs, gpu // GPUS_PER_NODE
        while self.left > 0:
            self.left -= 1
            align, compute, composite = (
                seconds * self.random.lognormal(-(SPREAD**2) / 2, SPREAD)
                for seconds in (needs.align, needs.gpu, needs.composite)
            )
            yield from self.hold(self.driver, needs.driver)
            yield from self.moved(node, needs.read)
            yield from self.hold(self.cores[node], align)
            yield from self.hold(self.gpus[gpu], compute)
            self.busy += compute
            yield from self.moved(node, needs.keep)
            yield from self.hold(self.cores[node], composite)
            yield from self.moved(node, needs.write)
            yield from self.hold(self.driver, needs.driver)

    def rate(self) -> tuple[float, float]:
        """Photos a second, and the share of the time that GPUs compute."""
        self.env.run()
        return self.photos / self.env.now, self.busy / self.env.now / len(self.gpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4000, help="simulated for each GPU, at most for 64 in all")
    args = parser.parse_args()
    print("| photos | GPUs | actors a GPU | simulated, a second | on paper | limited by | GPUs busy | a million |")
    print("|---|---|---|---|---|---|---|---|")
    for needs in NEEDS:
        for gpus in (1, 8, 64):
            for actors in (1, 2, 4):
                count = min(args.photos * gpus, 64_000)
                rate, busy = Simulated(needs, gpus, actors, count).rate()
                paper, limit = on_paper(needs, gpus, actors)
                hours = MILLION / rate / 3600
                time = f"{hours / 24:.1f} days" if hours > 48 else f"{hours:.1f} h"
                row = [needs.name, gpus, actors, f"{rate:.2f}", f"{paper:.2f}", limit, f"{busy:.0%}", time]
                print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
