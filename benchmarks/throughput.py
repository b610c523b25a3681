"""How much of a device our attack uses: images per second against the network's own forward and backward rate.

Run in the project's own environment, which has the networks: ``python benchmarks/throughput.py --device cuda --ship``.
Weights are random: a pass costs the same. FAB takes one backward pass per class in each of its hundred steps; a few
steps are timed and scaled up, and the table says how many.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from margincons.attacks.autoattack_package import import_autoattack
from margincons.attacks.fab import fab_paper
from margincons.attacks.minimum_norm import search
from margincons.passes import CountPasses
from margincons.records import SHIPPED, provenance, write_shard

FAB_STEPS = 100


def network(name: str, classes: int) -> nn.Module:
    """One of RobustBench's architectures, with random weights."""
    import_autoattack()  # robustbench imports it under its old name
    from robustbench.model_zoo.architectures.resnet import PreActBlock, PreActResNet
    from robustbench.model_zoo.architectures.wide_resnet import WideResNet

    torch.manual_seed(0)
    if name == "WideResNet-28-10":
        return WideResNet(28, classes, 10).eval()
    return PreActResNet(PreActBlock, [2, 2, 2, 2], classes).eval()


def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of some work, after a first call that is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[repeats // 2]


def measure(model: nn.Module, inputs: Tensor, *, bf16: bool, fab_steps: int, repeats: int) -> dict[str, float]:
    """Rates of one network on one batch: its own, the attack's, FAB's."""
    device = inputs.device.type
    with torch.no_grad():
        labels = model(inputs).argmax(dim=1)

    def own() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            points = inputs.clone().requires_grad_()
            return torch.autograd.grad(model(points).gather(1, labels[:, None]).sum(), points)[0]

    counted = CountPasses(model)
    search(counted, inputs, labels, bf16=bf16)
    own_rate = len(inputs) / seconds(own, device, repeats)
    ours = len(inputs) / seconds(lambda: search(model, inputs, labels, bf16=bf16), device, repeats)
    backward, forward = counted.backward_images / len(inputs), counted.forward_images / len(inputs)
    fab = seconds(lambda: fab_paper(model, inputs, labels, norm="Linf", steps=fab_steps), device, 1)
    fab_rate = len(inputs) / (fab * FAB_STEPS / fab_steps)
    return {
        "own forward+backward per second": own_rate,
        "backward per image": backward,
        "forward per image": forward,
        "images per second": ours,
        # A forward pass without a backward one is a third of the two together.
        "share of own rate": ours * (backward + (forward - backward) / 3) / own_rate,
        "FAB's images per second": fab_rate,
        "times FAB": ours / fab_rate,
        "FAB steps timed": fab_steps,
    }


def main() -> None:
    """Measure and print; keep the table among the package's records where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--networks", nargs="+", default=["PreActResNet-18", "WideResNet-28-10"])
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--fab-steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ship", action="store_true", help="keep the table among the package's records")
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # witnesses are judged in fp32
    device_name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    rows = []
    for name in options.networks:
        for classes in options.classes:
            model = network(name, classes).to(options.device)
            inputs = torch.rand(options.batch_size, 3, 32, 32, device=options.device)
            for precision in ("fp32", "bf16"):
                settings = {"network": name, "classes": classes, "precision": precision, "device": device_name}
                settings["batch"] = options.batch_size
                bf16 = precision == "bf16"
                rates = measure(model, inputs, bf16=bf16, fab_steps=options.fab_steps, repeats=options.repeats)
                rows.append(settings | rates)
                print(pd.Series(rows[-1]).to_string(), end="\n\n", flush=True)
    if options.ship:
        path = Path(SHIPPED) / "benchmark/throughput/shard-00000.parquet"
        write_shard(path, pd.DataFrame(rows).assign(index=range(len(rows))), {"device": device_name}, provenance())


if __name__ == "__main__":
    main()
