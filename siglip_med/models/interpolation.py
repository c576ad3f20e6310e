"""Between the weights of a base and what training made of them."""

from collections.abc import Mapping

from torch import Tensor

from siglip_med.core.errors import UserError


def interpolated(base: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights on the straight line from the base to the trained model.

    An adapter adds ``scale B A`` to a weight, so ``share B`` is the adapted weight's own place on the line; all other
    trained weights go from their value in the base to the trained one.

    Args:
        base: `TwoTower.trainable_state` of the model before training.
        trained: the same names after it.
        share: 0 is the base, 1 the trained model.

    Returns:
        A state for `TwoTower.load_trainable_state`; exactly ``trained`` at 1.

    Raises:
        UserError: the adapters are DoRA's, which are no straight line in their weights.

    Source: Wortsman et al., CVPR 2022, arXiv 2109.01903 (WiSE-FT).
    """
    if any("lora_magnitude" in name for name in trained):
        raise UserError("interpolation: DoRA rescales what it adapts, so there is no straight line back to the base")
    state = {}
    for name, after in trained.items():
        if ".lora_A." in name:
            state[name] = after.clone()
        elif ".lora_B." in name:
            state[name] = share * after
        else:
            state[name] = after.clone() if share == 1 else base[name] + share * (after - base[name])
    return state
