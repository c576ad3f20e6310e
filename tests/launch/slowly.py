"""``train.py`` with a pause before each step, so that a test can do something between two."""

import os
import time

from siglip_med.launch import launch

if __name__ == "__main__":
    pause = float(os.environ["PAUSE"])
    from siglip_med.training.module import TwoTowerModule

    original = TwoTowerModule.on_train_batch_start if hasattr(TwoTowerModule, "on_train_batch_start") else None

    def slow(self, *arguments):  # type: ignore[no-untyped-def]
        time.sleep(pause)
        return original(self, *arguments) if original else None

    TwoTowerModule.on_train_batch_start = slow
    launch("train")
