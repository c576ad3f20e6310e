"""What a run says of itself in its log and on the bar."""

import logging
import re
from types import SimpleNamespace

from siglip_med.commands.train import run
from siglip_med.training.progress import Progress
from tests.short_runs import small_settings


def test_a_redirected_run_tells_its_story_line_by_line(cache, tmp_path, caplog):
    words = ["trainer.max_steps=5", "callbacks.run_log.every_n_steps=2", "trainer.val_check_interval=3"]
    with caplog.at_level(logging.INFO, logger="siglip_med.training.progress"):
        run(small_settings(cache, tmp_path, *words))
    lines = [record.getMessage() for record in caplog.records if record.name == "siglip_med.training.progress"]
    steps = [line for line in lines if "learning rate" in line]
    assert [line.split(",")[0] for line in steps] == ["step 2 of 5", "step 4 of 5"]
    assert all(re.search(r"\d:\d\d:\d\d left, loss [\d.]+, learning rate \d", line) for line in steps)
    validations = [line for line in lines if "validation:" in line]
    assert len(validations) >= 2
    assert validations[-1].startswith("step 5 of 5, validation: ")
    assert all(word in validations[-1] for word in ("R@1 0.", "R@5 0.", "loss "))


def test_the_bar_says_the_step_and_the_last_validation(cache, tmp_path):
    seen = []

    class Watched(Progress):
        def on_train_batch_end(self, trainer, *given):
            super().on_train_batch_end(trainer, *given)
            seen.append((self.progress.tasks[0].description, dict(self.get_metrics(trainer, trainer.lightning_module))))

    import siglip_med.training.progress as module

    module.Watched = Watched
    try:
        bar = "callbacks.progress={_target_: siglip_med.training.progress.Watched, leave: false}"
        words = ["trainer.max_steps=4", "trainer.val_check_interval=2"]
        run(small_settings(cache, tmp_path, *words, bar))
    finally:
        del module.Watched
    assert "step 1 of 4" in seen[0][0]
    assert "/-2" not in "".join(description for description, _ in seen)
    assert "val R@5" not in seen[0][1]
    assert 0 <= seen[-1][1]["val R@5"] <= 1
    assert "v_num" not in seen[-1][1]


def test_the_bar_counts_to_the_end_of_the_epoch_where_a_run_was_resumed_inside_it():
    bar = Progress()
    left = {"accumulate_grad_batches": 1, "max_epochs": -1, "global_step": 14}
    for steps, total in ((25, 20), (16, 16), (-1, 20)):
        bar._trainer = SimpleNamespace(num_training_batches=20, max_steps=steps, **left)
        assert bar.total_train_batches == total
