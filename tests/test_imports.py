"""A command imports what it uses: seconds that whoever predicts does not wait for."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["commands.predict", "commands.embed", "inference.maps"])
def test_what_predicts_loads_no_training_library(module):
    code = (
        f"import sys, siglip_med.{module}\n"
        "slow = {'lightning', 'albumentations', 'torchmetrics', 'ot', 'matplotlib', 'sklearn', 'tensorboard'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
