"""What a whole fit of heads on cached features costs beside a plain PyTorch loop that does the same work.

    python benchmarks/cached_heads.py

Both take the same steps on the same features and validate after each epoch with the same metrics; the trainer also
writes logs and checkpoints. The towers have random weights: heads never look at them again.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from timing import Ratio, compare
from torch.nn.functional import normalize
from towers import write_dual_encoder

from siglip_med.commands import train
from siglip_med.core.config import config_dir, instantiate, typed
from siglip_med.launch.entry import _quiet_libraries
from siglip_med.losses import PairBatch
from siglip_med.metrics import RetrievalMetrics
from siglip_med.runs.building import build, build_module
from siglip_med.runs.components import Components
from siglip_med.runs.scoring import predict
from siglip_med.training.module import FineTuneModule


def settings(folder: Path, *overrides: str) -> train.Settings:
    """Settings of a run below ``folder``, without a progress bar and without worker processes."""
    common = (f"paths.output_dir={folder}/run", "callbacks.progress=null", "data.num_workers=0")
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return typed(compose("train", overrides=[*common, *overrides]), train.Settings)


def lightning_fit(chosen: train.Settings, components: Components) -> FineTuneModule:
    """The fit of train.py."""
    trainer = instantiate(chosen.trainer, callbacks=chosen.callbacks, logger=chosen.logger)
    module = build_module(chosen, components, instantiate(chosen.loss), instantiate(chosen.optimizer))
    trainer.fit(module, datamodule=components.data)
    return module


def plain_fit(chosen: train.Settings, components: Components) -> None:
    """The same steps and validations, as one would write them without a framework."""
    model, data, steps = components.model, components.data, chosen.trainer["max_steps"]
    module = build_module(chosen, components, instantiate(chosen.loss), instantiate(chosen.optimizer))
    optimizer, schedule = module.optimizer_settings.build(model, steps)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dissimilarity, counts = module.get_buffer("dissimilarity"), module.get_buffer("condition_counts")
    features = module.texts.features(model)
    metrics = RetrievalMetrics(dissimilarity, components.conditions.chapters, components.conditions.blocks)
    loader, held_out = data.train_dataloader(), data.val_dataloader()
    step = 0
    while step < steps:
        loader.sampler.set_epoch(step)
        for batch in loader:
            texts = module.texts.sample(batch.labels, step)
            pairs = PairBatch.build(
                model.encode_images(batch.images),
                model.project_texts(features[texts.row]),
                model.logit_scale,
                model.logit_bias,
                batch.labels,
                texts.condition,
                dissimilarity,
                counts,
            )
            optimizer.zero_grad()
            module.loss(pairs, {}).total.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            model.clamp_logits()
            step += 1
            if step == steps:
                break
        model.eval()
        with torch.inference_mode():
            prompts = components.prompt_ensemble.encode(model)
            for batch in held_out:
                image = normalize(model.encode_images(batch.images), dim=-1)
                logits = image @ prompts.T * model.logit_scale.exp() + model.logit_bias
                metrics.update(logits, batch.labels, module.get_buffer("primary")[batch.index], batch.index)
            metrics.compute()
            metrics.reset()
        model.train()


def measure(steps: int = 300, images: int = 2000, blocks: int = 5) -> Ratio:
    """The trainer's whole fit against the plain one.

    The text tower has one block: reading the prompts once is the same work in both, and would hide the difference.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_dual_encoder(folder / "towers", text_layers=1)
        towers = [f"model.{tower}={path}" for tower, path in paths.items()]
        chosen = settings(
            folder,
            "experiment=baseline",
            "model=dual_encoder",
            "model/adaptation=frozen",
            "features=cached",
            "data/sampling=natural",
            f"data.source.n_images={images}",
            f"paths.cache_dir={folder}/cache",
            f"trainer.max_steps={steps}",
            "trainer.enable_progress_bar=false",
            *towers,
        )
        components = build(chosen, torch.device("cpu"))
        predict(components)  # a run scores the base first; the frozen towers have then read everything
        return compare(lambda: lightning_fit(chosen, components), lambda: plain_fit(chosen, components), blocks)


def main() -> None:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _quiet_libraries()
    print(f"heads on cached features, whole fit, time against a plain loop: {measure(**vars(options))}")


if __name__ == "__main__":
    main()
