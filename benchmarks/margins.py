"""Our minimum-norm attack against its peers: the same images, the same count of passes, one run.

Every attack gets a network that counts; what it returns is verified as `margincons` verifies its own; each is timed
alone, in turn (on a CPU in processor time of its one thread). A finished (network, attack) is kept in --out and not run
again. At the end comes a table per set: excess over the best bound known for each image, and over the exact margin
where there is one.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from peers import Attack, all_attacks
from tqdm import tqdm

from margincons.attacks.result import AttackResult, step_outwards
from margincons.data import Images, load_images
from margincons.passes import CountPasses
from margincons.records import SHIPPED, provenance, read_record, read_shard, shipped_records, write_shard
from margincons.studies.tightness import best_known, complete, looser_networks, tightness, with_exact
from margincons.zoo import load_model

ZOO = ("standard", "gaussian", "fgsm_at", "pgd_at", "trades", "mart", "alp", "clp", "mma", "ibp")
CIFAR = ("cnn_a_adv", "cnn_a_mix4", "conv_small_pgd", "kw_wide", "sgd")
EXACT = "digits/mlp/Linf/minimum_norm-exact"
FAB = "FAB, paper's setting"
BREAKAGES = (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def networks(name: str, shared: Path) -> dict[str, str]:
    """Ids of the networks of one set, with the images they are measured on."""
    if name == "zoo":
        return {f"digits/{recipe}": "digits" for recipe in ZOO}
    if name == "exact":
        return {"digits/mlp": "digits"}
    return {f"{shared / 'nets.py'}:{net}": str(shared / "cifar10_test_first1017.npz") for net in CIFAR}


def run(
    attack: Attack, model: torch.nn.Module, images: Images, *, norm: str, device: str, batch_size: int
) -> pd.DataFrame:
    """One attack on one network: one row per image; passes and seconds are means over the images."""
    inputs = images.inputs.to(device)
    counted = CountPasses(model)
    with torch.no_grad():
        labels = model(inputs).argmax(dim=1)
    attack(model, inputs[:2], labels[:2])  # what only the first call of a library pays for
    clock = time.perf_counter if device == "cuda" else time.process_time  # one thread: whatever else the machine does
    started = clock()
    parts = [attack(counted, x, y) for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True)]
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - started
    candidates = step_outwards(model, inputs, torch.cat(parts).detach(), labels)
    result = AttackResult.judge(model, inputs, candidates, labels, norm=norm)
    alone = [leaves_alone(model, x, y) for x, y in zip(result.adversarial, labels, strict=True)]
    return pd.DataFrame(
        {
            "index": range(len(inputs)),
            "upper": result.upper.cpu().numpy(),
            "wrong_alone": (result.success.cpu() & ~torch.tensor(alone)).numpy(),
            "forward": counted.forward_images / len(inputs),
            "backward": counted.backward_images / len(inputs),
            "seconds": seconds / len(inputs),
        }
    )


@torch.no_grad()
def leaves_alone(model: torch.nn.Module, image: torch.Tensor, label: torch.Tensor) -> bool:
    """Whether an image, alone in its batch, is given another class."""
    return bool(model(image[None]).argmax() != label)


def main() -> None:
    """Run what is not there yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["exact", "zoo", "cifar"], choices=["exact", "zoo", "cifar"])
    parser.add_argument("--norms", nargs="+", default=["Linf", "L2", "L1"])
    parser.add_argument("--images", type=int, default=100, help="images per network, from the first")
    parser.add_argument("--attacks", default="", help="only attacks whose name contains this")
    parser.add_argument("--shared", type=Path, default=Path("../../shared/data"), help="folder with nets.py and images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("../bench"))
    parser.add_argument("--ship", action="store_true", help="keep results and reference among the package's records")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    made = provenance() | {"device": options.device}
    jobs = [
        (norm, group, net, data, name, attack)
        for norm in options.norms
        for group in options.sets
        for net, data in networks(group, options.shared).items()
        for name, attack in all_attacks(norm).items()
        if options.attacks in name
    ]
    for norm, group, net, data, name, attack in tqdm(jobs, desc="benchmark"):
        path = options.out / norm / group / f"{net.rsplit('/')[-1]}--{name.replace(' ', '_')}.parquet"
        if path.exists():
            continue
        settings = {"norm": norm, "set": group, "network": net.rsplit("/", 2)[-1], "attack": name}
        model = load_model(net).to(options.device)
        try:
            images = load_images(data, n=options.images)
            rows = run(attack, model, images, norm=norm, device=options.device, batch_size=options.batch_size)
        except BREAKAGES as error:  # a peer that breaks must not end the run: it is reported by name
            print(f"{name} on {net}, {norm}: {type(error).__name__}: {error}")
            continue
        write_shard(path, rows.assign(**settings), settings | {"images": options.images}, made)
    for norm in options.norms:
        files = sorted(options.out.glob(f"{norm}/*/*.parquet"))
        tables, abouts = zip(*map(read_shard, files), strict=True)
        results = pd.concat(tables, ignore_index=True)
        parts = sorted({f"{portable(about['made']['command'])} @ {about['made']['commit']}" for about in abouts})
        reference = _shipped(f"benchmark/{norm}-reference")
        best = best_known(results, reference)
        if norm == "Linf":
            best = with_exact(best, read_record(EXACT), group="exact", network="mlp")
        results = complete(results)  # the others have done their part: they may have lowered the best bound known
        if options.ship:
            write_shard(
                SHIPPED / f"benchmark/{norm}/shard-00000.parquet", results, {"norm": norm}, made | {"parts": parts}
            )
            write_shard(
                SHIPPED / f"benchmark/{norm}-reference/shard-00000.parquet",
                best,
                {"norm": norm},
                made | {"parts": parts},
            )
        print(
            f"\n{norm}: {int(results['wrong_alone'].sum())} witnesses of {len(results)} are wrong alone in their batch"
        )
        print(tightness(results, best).round(4).to_string())
        for attack in ("ours fast", "ours standard", "ours fine"):
            if {attack, FAB} <= set(results["attack"]):
                looser = looser_networks(results, best, attack=attack, rival=FAB)
                print(f"{attack} is looser than FAB, on average over a network's images, on: {looser or 'none'}")


def portable(command: str) -> str:
    """A command whose absolute paths are cut to their last part: where a folder lay is nobody's business."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in command.split())


def _shipped(name: str) -> pd.DataFrame | None:
    return read_record(name) if name in shipped_records() else None


if __name__ == "__main__":
    main()
