"""Adversarial training of a LightningModule: the loader takes the place of its `DataLoader`.

pip install lightning
python examples/lightning_loop.py --updates 300
"""

import argparse

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparring
from sparring.attacks import AttackedBatch
from sparring.training import WarmUp


class Robust(lightning.LightningModule):
    """A small network that is trained on adversarial examples of itself."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.updates = updates
        self.model = nn.Sequential(
            *(nn.Conv2d(1, 16, 4, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 25, 100), nn.ReLU(), nn.Linear(100, 10)),
        )

    def train_dataloader(self) -> sparring.AdversarialLoader:
        """Batches for the model where Lightning has put it."""
        self.loader = sparring.AdversarialLoader(
            sparring.load_dataset("mnist"),
            self.model,
            sparring.PGD(eps=0.3, steps=8),
            batch_size=128,
            updates=self.updates,
            eps_schedule=WarmUp(share=0.7),  # at full ε from the start it learns nothing for long
            source=sparring.Stale(staleness=2, fresh_steps=2),
        )
        return self.loader

    def training_step(self, batch: AttackedBatch) -> Tensor:
        """The loss on the adversarial examples."""
        return cross_entropy(self.model(batch.adversarial), batch.labels)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Tell the loader that the weights are new."""
        self.loader.updated()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.model.parameters(), lr=2e-3)


def main() -> None:
    """Train on the bundled MNIST, and judge on its first test images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--images", type=int, default=500)
    asked = parser.parse_args()
    lightning.seed_everything(0)
    module = Robust(asked.updates)
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module)
    print(f"trained for {module.loader.version} updates")

    data, threat = sparring.load_dataset("mnist"), sparring.Linf(0.3)
    images, labels = data.test.batch(torch.arange(asked.images))
    verdict = sparring.evaluate(module.model, images, labels, threat, checks=False)
    print(f"natural accuracy {verdict.evaluation.natural}")
    print(f"robust accuracy {verdict.evaluation.robust}, suite {verdict.evaluation.suite}")


if __name__ == "__main__":
    main()
