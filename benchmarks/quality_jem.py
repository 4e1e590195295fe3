"""Trains a joint model of MNIST by ebmkit's `JEMLoss`, and judges it by the code of the recipe `jem`.

    python benchmarks/quality_jem.py [--settings documented as_ours] [--seconds 180] [--seeds 3]
        [--models FOLDER] [--out FILE]

The network, the rows and the split are those of `configs/jem_mnist.yaml`, on one core. The trained parameters are
copied into our network, so every figure comes from the same functions. The chains that make samples have the settings
of ebmkit's sampler. `documented` is `examples/train_mnist_jem.py` of ebmkit 0.16.0 with this network in place of its
convolutional one. The other settings are tries of ours to do better in the same time. Seconds are CPU seconds of
training alone. `--models` keeps trained parameters there, and reads those that are there already. `--out` appends the
figures to a file of JSON lines.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import ROOT, environment, pin_to_one_core

GROUPS = ("classifier", "ood", "samples", "conditional")
UPDATES_PER_CALL = 10


class Setting(NamedTuple):
    """How ebmkit trains. The defaults are those of its example.

    Attributes:
      classifier_share: Part of the time in which the classifier alone is trained, before the joint model.
      k: Langevin steps of an update.
      step_size: α.
      noise_scale: σ.
      clip: Largest element of a gradient in the chains, or None.
      clamp: Whether chains of the negatives stay in [−1, 1].
      capacity: Slots of the replay buffer; 5 % of the chains of an update start anew.
      conditional: Whether each chain of the negatives follows the energy of one random class.
      weight: Of the contrast of energies.
      l2: Weight of the mean squared energies in it.
      batch_size: Rows of a batch of the joint phase, and chains.
      learning_rate: Of Adam in the joint phase.
      ema_decay: Of the average of the parameters.
      clip_norm: Largest norm of a gradient by the parameters, or None.
      noise: Standard deviation of normal noise on the images.
      schedule: Whether the learning rate rises over the first quarter of the joint phase, and then falls as a cosine.
    """

    classifier_share: float = 0.0
    k: int = 60
    step_size: float = 10.0
    noise_scale: float = 0.005
    clip: float | None = 0.01
    clamp: bool = True
    capacity: int = 10_000
    conditional: bool = True
    weight: float = 1.0
    l2: float = 1.0
    batch_size: int = 128
    learning_rate: float = 1e-4
    ema_decay: float = 0.999
    clip_norm: float | None = None
    noise: float = 0.0
    schedule: bool = False


SETTINGS = {
    "documented": Setting(),
    # More and larger updates from the same sampler, with an average that forgets the start in the time that there is.
    "shorter_chains": Setting(k=20, learning_rate=1e-3, ema_decay=0.99),
    # The same after a classifier, with the smaller penalty of ebmkit's example in the plane.
    "classifier_first": Setting(classifier_share=0.5, k=20, l2=0.1, learning_rate=5e-4, ema_decay=0.99),
    # Like our configuration, but for images that are moved: a classifier first, then small steps of few chains.
    "as_ours": Setting(
        classifier_share=0.5,
        k=20,
        step_size=2.0,
        noise_scale=0.01,
        clip=None,
        clamp=False,
        capacity=1000,
        conditional=False,
        weight=0.3,
        l2=0.05,
        batch_size=32,
        learning_rate=5e-4,
        ema_decay=0.99,
        clip_norm=1.0,
        noise=0.2,
        schedule=True,
    ),
}


class Trained(NamedTuple):
    """What a run of ebmkit gives.

    Attributes:
      params: Parameters of our network by kind: the last, and the average over updates.
      updates: Updates of the joint phase.
    """

    params: dict[str, Any]
    updates: int


def train(setting: Setting, images: Any, seed: int, seconds: float) -> Trained:
    """Trains by ebmkit for a number of CPU seconds."""
    import ebm
    import torch
    from torch import nn

    from benchmarks.methods import torch_neural
    from benchmarks.tasks.neural import JEM
    from ebm_jax.experiment.recipes.images.data import as_floats

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rows = torch.as_tensor(as_floats(images.train))
    labels = torch.as_tensor(images.labels[0]).long()
    perceptron = torch_neural.network(JEM)
    energy = ebm.ClassifierEnergy(nn.Sequential(nn.Flatten(), perceptron))

    def uniform(shape):
        return 2 * torch.rand(shape) - 1

    def batches(size):
        while True:
            chosen = torch.randint(len(rows), (size,))
            x = rows[chosen]
            yield x + setting.noise * torch.randn_like(x), labels[chosen]

    sampler = ebm.LangevinDynamics(
        setting.step_size,
        setting.k,
        noise_scale=setting.noise_scale,
        grad_clip=setting.clip,
        clamp=(-1, 1) if setting.clamp else None,
    )
    buffer = ebm.ReplayBuffer(setting.capacity, (28, 28), reinit_prob=0.05, init_fn=uniform)
    contrast = ebm.ContrastiveDivergence(sampler, buffer=buffer, energy_reg=setting.l2)
    joint = ebm.JEMLoss(contrast, setting.weight, conditional_negatives=setting.conditional)
    first = setting.classifier_share * seconds
    if first:
        trainer = ebm.Trainer(energy, _classification(), lr=1e-3)
        _train_for(first, trainer, batches(128), _cosine)
    trainer = ebm.Trainer(
        energy,
        joint,
        lr=setting.learning_rate,
        ema_decay=setting.ema_decay,
        grad_clip_norm=setting.clip_norm,
    )
    course = _rise_and_fall if setting.schedule else None
    _train_for(seconds - first, trainer, batches(setting.batch_size), course)
    found = {"last": energy, "average": trainer.ema.module}
    return Trained({name: our_params(model) for name, model in found.items()}, trainer.step_count)


def our_params(energy: Any) -> dict[str, Any]:
    """Returns the parameters of `networks.MLP` that compute the same logits as an `ebm.ClassifierEnergy`."""
    import torch

    layers = [module for module in energy.modules() if isinstance(module, torch.nn.Linear)]
    arrays = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
    return {f"Dense_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(arrays)}


def _classification() -> Any:
    """Returns the loss of the classifier alone, in the form that `ebm.Trainer` takes."""
    from ebm.losses.base import LossOutput
    from torch.nn.functional import cross_entropy

    class Classification:
        supervised = True

        def __call__(self, energy, x, y):
            return LossOutput(loss=cross_entropy(energy.logits(x), y), metrics={})

    return Classification()


def _train_for(seconds: float, trainer: Any, batches: Any, course: Callable[[float], float] | None) -> None:
    """Trains for a number of CPU seconds; `course` gives the factor of the learning rate by the share of them."""
    start = time.process_time()
    (group,) = trainer.optimizer.param_groups
    peak = group["lr"]
    while (share := (time.process_time() - start) / seconds) < 1:
        if course is not None:
            group["lr"] = peak * course(share)
        trainer.fit(batches, steps=UPDATES_PER_CALL, verbose=False)


def _cosine(share: float) -> float:
    return 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2


def _rise_and_fall(share: float) -> float:
    return 4 * share + 0.001 if share < 0.25 else _cosine((share - 0.25) / 0.75)


def configuration(setting: Setting) -> Any:
    """Returns the configuration of our recipe, whose chains that make samples are ebmkit's."""
    from ebm_jax.experiment.config import load_config

    clip = "null" if setting.clip is None else setting.clip
    overrides = (
        f"generation.step_size={setting.step_size}",
        f"generation.noise_scale={setting.noise_scale}",
        f"generation.clip={clip}",
    )
    return load_config(ROOT / "configs" / "jem_mnist.yaml", overrides)


def figures(config: Any, images: Any, params: Any, split: str, seed: int) -> dict[str, float]:
    """Returns the figures that the recipe `jem` reports of a model with these parameters."""
    import jax

    from ebm_jax.experiment.recipes.base import measure
    from ebm_jax.experiment.recipes.images import data
    from ebm_jax.experiment.recipes.jem.evaluation import Evaluation
    from ebm_jax.experiment.recipes.jem.metrics import METRICS
    from ebm_jax.experiment.recipes.jem.training import model_of

    key = jax.random.fold_in(jax.random.key(seed), data.EVALUATION)
    settings = config.evaluation.model_copy(update={"split": split})
    context = Evaluation(config, model_of(config), params, images, settings, key)
    return measure(METRICS, context, GROUPS)


def trained(name: str, images: Any, seed: int, seconds: float, folder: Path | None) -> Trained:
    """Trains a setting, or reads its models where the folder has them."""
    import ebm_jax as ej
    from ebm_jax.experiment.recipes.jem.training import model_of

    if folder is None:
        return train(SETTINGS[name], images, seed, seconds)
    stem, model = f"{name}-{seconds:g}-{seed}", model_of(configuration(SETTINGS[name]))
    facts = folder / f"{stem}.json"
    paths = {kind: folder / f"{stem}-{kind}.npz" for kind in ("last", "average")}
    if not facts.exists():
        found = train(SETTINGS[name], images, seed, seconds)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, path in paths.items():
            ej.save(path, model, found.params[kind], overwrite=True)
        facts.write_text(json.dumps({"updates": found.updates}))
    params = {kind: ej.load(path)[1] for kind, path in paths.items()}
    return Trained(params, json.loads(facts.read_text())["updates"])


def report(rows: list[dict[str, Any]]) -> None:
    """Prints a table of the mean and the standard deviation over seeds: a row for a metric, a column for a model."""
    import numpy as np

    from ebm_jax.experiment.recipes.jem.metrics import METRICS

    columns = list(dict.fromkeys((row["setting"], row["params"]) for row in rows))
    values = [[row for row in rows if (row["setting"], row["params"]) == column] for column in columns]
    print(f"{'':36}" + "".join(f"{f'{name}, {kind}':>28}" for name, kind in columns))
    updates = ("updates", 0, [[row["updates"] for row in few] for few in values])
    lines = [updates] + [
        (metric.name, metric.digits, [[row["figures"][metric.name] for row in few] for few in values])
        for metric in METRICS
        if metric.group in GROUPS and metric.digits is not None
    ]
    for name, digits, cells in lines:
        texts = [
            f"{np.mean(cell):.{digits}f} ± {np.std(cell, ddof=len(cell) > 1):.{digits}f}" for cell in cells
        ]
        print(f"{name:36}" + "".join(f"{text:>28}" for text in texts))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seconds", type=float, default=180.0, help="CPU seconds of training (default 180)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 (default 1)")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--models", type=Path, help="folder of trained parameters")
    parser.add_argument("--out", type=Path, help="file of JSON lines that the figures are appended to")
    args = parser.parse_args(argv)
    pin_to_one_core()
    from ebm_jax.experiment.recipes.images.data import load_images
    from ebm_jax.experiment.recipes.images.judging import load_classifier

    rows, about = [], environment("cpu")
    for name in args.settings:
        config = configuration(SETTINGS[name])
        images = load_images(config.data)
        for seed in range(args.seeds):
            found = trained(name, images, seed, args.seconds, args.models)
            for kind, params in found.params.items():
                row = {
                    "setting": name,
                    "params": kind,
                    "seed": seed,
                    "seconds": args.seconds,
                    "updates": found.updates,
                    "split": args.split,
                    "classifier_sha256": load_classifier("mnist").sha256,
                    "figures": figures(config, images, params, args.split, seed),
                }
                rows.append(row)
                if args.out is not None:
                    with args.out.open("a") as file:
                        file.write(json.dumps(row | {"numbers": SETTINGS[name]._asdict()} | about) + "\n")
    report(rows)


if __name__ == "__main__":
    main()
