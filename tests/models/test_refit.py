"""The refit in torch is the kernel ridge regression in NumPy; what a file holds in its place is refused in one line."""

import numpy as np
import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.metrics import Predictions, fit_calibration, fit_kernel_ridge
from siglip_med.models import Refit, read_refit

N, F, C = 200, 24, 6


@pytest.fixture(scope="module")
def fitted():
    """A regression on clusters, with features of new images."""
    rng = np.random.default_rng(0)
    centers, primary = rng.normal(size=(C, F)), rng.integers(C, size=N + 100)
    x = (5 * (centers[primary] + rng.normal(size=(N + 100, F))) + 40).astype(np.float32)
    labels, val = np.eye(C)[primary[:N]], Predictions.of(np.zeros((100, C)), np.eye(C)[primary[N:]])
    return fit_kernel_ridge(x[:N], labels, x[N:], val), x[N:], val


def test_torch_equals_numpy_and_its_gradient_is_the_slope(fitted):
    model, features, val = fitted
    model = model.calibrated(features, val)
    refit = Refit(model.arrays())
    np.testing.assert_allclose(refit(torch.from_numpy(features)).numpy(), model.scores(features), atol=1e-5)
    x = torch.from_numpy(features[:1]).double().requires_grad_()
    (slope,) = torch.autograd.grad(refit.against_the_mean(x, 2).sum(), x)
    for f in (0, 7):
        step = np.zeros((1, F))
        step[0, f] = 1.0
        up, down = (model.scores(features[:1] + sign * step) for sign in (1, -1))
        expected = ((up - up.mean())[0, 2] - (down - down.mean())[0, 2]) / 2
        assert slope[0, f].item() == pytest.approx(expected, rel=0.05, abs=1e-3)


def test_calibration_is_inside_and_changes_no_order(fitted):
    model, features, val = fitted
    found, calibration = model.calibrated(features, val), fit_calibration(model.predict(features, val))
    expected = model.scores(features) / calibration.temperature + calibration.bias
    np.testing.assert_allclose(found.scores(features), expected, atol=1e-4)
    again = fit_calibration(found.predict(features, val))
    assert (again.temperature, again.bias) == (pytest.approx(1.0, abs=1e-3), pytest.approx(0.0, abs=1e-2))


def test_what_is_stored_comes_back_and_anything_else_is_one_line(fitted):
    stored = Refit(fitted[0].arrays(), "how it was fitted").stored()
    features = torch.from_numpy(fitted[1])
    again = read_refit(stored, C, "a.ckpt")
    torch.testing.assert_close(again(features), Refit(fitted[0].arrays())(features), rtol=0, atol=0)
    assert again.about == "how it was fitted"
    assert again.megabytes == pytest.approx(4 * (2 * F + N * F + N * C + C + 1) / 1e6)
    assert read_refit(None, C, "a.ckpt") is None
    arrays = stored["arrays"]
    for changed, message in (
        ({"mean": arrays["mean"][:3]}, "scale has shape .24., which does not fit"),
        ({"weights": arrays["weights"][:, :2]}, "weights has shape .200, 2., which does not fit"),
        ({"width": torch.zeros(1)}, "width is no float32 array of 0 dimensions"),
        ({"offset": arrays["offset"].double()}, "offset is no float32"),
        ({"centers": "x"}, "centers is no float32"),
        ({"scale": arrays["scale"] * torch.nan}, "scale holds values that are not finite"),
        ({"another": arrays["scale"]}, "it needs the arrays mean, scale, "),
    ):
        with pytest.raises(UserError, match=rf"^a\.ckpt: its refit is damaged: {message}"):
            read_refit({"about": "", "arrays": arrays | changed}, C, "a.ckpt")
    with pytest.raises(UserError, match=r"needs the arrays mean"):
        read_refit("x", C, "a.ckpt")
    with pytest.raises(UserError, match=r"fitted on 24 features an image, this model gives 5"):
        again(features[:, :5])
