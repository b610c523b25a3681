"""Every attack of the benchmark under one signature: network, images, classes to leave -> candidate images.

A candidate is only that: `margins.py` verifies all of them in the same way, and counts passes by a wrapper round the
network. Settings are the libraries' own unless a name says otherwise.
"""

import sys
import types
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from margincons.attacks.fab import fab_paper, fab_restarts, fab_targeted
from margincons.attacks.minimum_norm import search

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
_P = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}
_LARGEST = {"Linf": 1.0, "L2": 10.0, "L1": 100.0}  # where APGD's search for the radius starts


def ours(norm: str, effort: str, seed: int = 0) -> Attack:
    """Our own search, before verification."""
    return lambda model, inputs, labels: search(model, inputs, labels, norm=norm, effort=effort, seed=seed)


def fab(run: Callable, norm: str, **options: int) -> Attack:
    """FAB of AutoAttack, through the package's adapter."""
    return lambda model, inputs, labels: run(model, inputs, labels, norm=norm, **options).adversarial


def adv_lib(norm: str) -> dict[str, Attack]:
    """Minimum-norm attacks of the adversarial library.

    It imports visdom, only to draw, which no longer builds: an empty module stands in for it.
    """
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    from adv_lib.attacks import alma, ddn, fmn, pdpgd
    from adv_lib.attacks.auto_pgd import minimal_apgd
    from adv_lib.attacks.deepfool import df

    p = _P[norm]

    def with_norm(attack: Callable, **options: object) -> Attack:
        return lambda model, inputs, labels: attack(model, inputs, labels, **options)

    apgd = partial(with_norm, minimal_apgd, norm=p, max_eps=_LARGEST[norm])
    attacks = {
        "adv-lib FMN 1000": with_norm(fmn, norm=p, steps=1000),
        "adv-lib FMN 100": with_norm(fmn, norm=p, steps=100),
        "adv-lib PDPGD 500": with_norm(pdpgd, norm=p),
        "adv-lib APGD minimal 20x100": apgd(),
        "adv-lib APGD minimal, targeted 20x100": apgd(targeted_version=True),
    }
    if norm != "L1":
        attacks["adv-lib DeepFool"] = with_norm(df, norm=p, return_unsuccessful=True)
    if norm == "L2":
        attacks["adv-lib DDN 1000"] = with_norm(ddn, steps=1000, levels=None)
        attacks["adv-lib ALMA 1000"] = with_norm(alma, distance="l2")
    if norm == "L1":
        attacks["adv-lib ALMA 1000"] = with_norm(alma, distance="l1", init_lr_distance=0.5)
    return attacks


def foolbox(norm: str) -> dict[str, Attack]:
    """Minimum-norm attacks of foolbox; Brendel-Bethge starts from blended noise, as its documentation does."""
    import foolbox as fb

    attacks = {
        "Linf": {
            "foolbox FMN 1000": fb.attacks.LInfFMNAttack(steps=1000),
            "foolbox DeepFool": fb.attacks.LinfDeepFoolAttack(),
            "foolbox Brendel-Bethge 1000": fb.attacks.LinfinityBrendelBethgeAttack(),
        },
        "L2": {
            "foolbox FMN 1000": fb.attacks.L2FMNAttack(steps=1000),
            "foolbox DDN 1000": fb.attacks.DDNAttack(steps=1000),
            "foolbox DeepFool": fb.attacks.L2DeepFoolAttack(),
            "foolbox Carlini-Wagner 9x1000": fb.attacks.L2CarliniWagnerAttack(steps=1000),
            "foolbox Brendel-Bethge 1000": fb.attacks.L2BrendelBethgeAttack(),
        },
        "L1": {
            "foolbox FMN 1000": fb.attacks.L1FMNAttack(steps=1000),
            "foolbox EAD 9x1000": fb.attacks.EADAttack(steps=1000),
            "foolbox Brendel-Bethge 1000": fb.attacks.L1BrendelBethgeAttack(),
        },
    }

    def run(attack: object) -> Attack:
        def attacked(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            wrapped = fb.PyTorchModel(model, bounds=(0, 1), device=inputs.device)
            return attack(wrapped, inputs, labels, epsilons=None)[0]

        return attacked

    return {name: run(attack) for name, attack in attacks[norm].items()}


def torchattacks(norm: str) -> dict[str, Attack]:
    """Minimum-norm attacks of torchattacks; its FAB needs a budget, so it is given the whole box."""
    import torchattacks as ta

    def run(build: Callable[[nn.Module], object]) -> Attack:
        return lambda model, inputs, labels: build(model)(inputs, labels)

    attacks = {}
    if norm != "L1":  # where its FAB stops with an UnboundLocalError
        attacks["torchattacks FAB 100"] = run(
            lambda model: ta.FAB(model, norm=norm, eps=_LARGEST[norm], steps=100, n_classes=10)
        )
    if norm == "L2":
        attacks["torchattacks DeepFool"] = run(ta.DeepFool)
        attacks["torchattacks Carlini-Wagner"] = run(lambda model: ta.CW(model, c=1, kappa=0, steps=1000, lr=0.01))
    return attacks


def all_attacks(norm: str) -> dict[str, Attack]:
    """Ours first, FAB in three forms, then the libraries."""
    torch.manual_seed(0)
    return {
        **{f"ours {effort}": ours(norm, effort) for effort in ("fast", "standard", "fine", "exhaustive")},
        **{f"ours exhaustive, seed {seed}": ours(norm, "exhaustive", seed) for seed in (1, 2)},
        "FAB, paper's setting": fab(fab_paper, norm),
        "FAB, 5 true restarts": fab(fab_restarts, norm, restarts=5),
        "FAB, targeted 9x100": fab(fab_targeted, norm, restarts=1),
        **adv_lib(norm),
        **foolbox(norm),
        **torchattacks(norm),
    }
