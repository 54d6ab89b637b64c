import numpy as np
import pytest
import torch
from scipy import special
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

from dermalert.training import calibration, head


def test_the_temperature_that_made_the_logits_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 9)) * 2
    truth = np.array([rng.choice(9, p=row) for row in special.softmax(logits, axis=1)])
    assert calibration.fit_temperature(logits * 3, truth) == pytest.approx(3, rel=0.06)


VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CLASSIFIERS = [
    ViTForImageClassification(ViTConfig(**VIT, image_size=32, patch_size=8, num_labels=9)),
    ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_labels=9)),
]


@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda model: type(model).__name__)
def test_folding_divides_the_logits_and_shifts_them_for_good(model):
    pixels, bias = torch.randn(3, 3, 32, 32), np.linspace(-1, 1, 9)
    with torch.no_grad():
        before = model.eval()(pixels).logits
        head.fold(head.last_linear(model, pixels), 2.5, bias)
        assert torch.allclose(model(pixels).logits, before / 2.5 + torch.tensor(bias).float(), atol=1e-6)


def rebalanced_answers(n=6000):
    """Return the logits of a perfect classifier for equal shares, the truth of an unequal mix, and its shares."""
    rng = np.random.default_rng(0)
    prior = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02, 0.0])
    truth = rng.choice(9, size=n, p=prior)
    means = rng.normal(size=(9, 4)) * 1.2
    seen = means[truth] + rng.normal(size=(n, 4))
    return -((seen[:, None] - means) ** 2).sum(2) / 2, truth, prior


def test_the_mix_that_rebalancing_took_out_is_given_back():
    logits, truth, prior = rebalanced_answers()
    shares = np.maximum(prior, 1e-3) / np.maximum(prior, 1e-3).sum()
    temperature, bias = calibration.fit_prior(logits, truth, shares)
    probabilities = special.softmax(logits / temperature + bias, axis=1)
    assert temperature == pytest.approx(1, abs=0.06)
    assert np.abs(probabilities.mean(0) - prior).max() < 0.01
    assert special.softmax(logits, axis=1).mean(0)[0] < 0.3  # as it was
    by_temperature = calibration.fit_temperature(logits, truth)
    assert loss(logits / temperature + bias, truth) < loss(logits / by_temperature, truth) - 0.1


def loss(logits, truth):
    return -special.log_softmax(logits, axis=1)[np.arange(len(truth)), truth].mean()


def test_epochs_are_compared_by_what_a_calibration_leaves_not_by_how_sure_they_are():
    logits, truth, prior = rebalanced_answers()
    shares = np.maximum(prior, 1e-3) / np.maximum(prior, 1e-3).sum()
    left = calibration.calibrated_loss(logits, truth, shares)
    assert calibration.calibrated_loss(logits * 4, truth, shares) == pytest.approx(left, abs=1e-3)
    assert loss(logits * 4, truth) > loss(logits, truth) + 0.5
    worse = logits + np.random.default_rng(1).normal(size=logits.shape)
    assert calibration.calibrated_loss(worse, truth, shares) > left + 0.05
    assert calibration.calibrated_loss(logits, truth, None) > left + 0.1
    assert np.isnan(calibration.calibrated_loss(logits * np.inf, truth, shares))


def test_few_images_of_a_class_hardly_move_its_bias():
    logits, truth, prior = rebalanced_answers()
    shares = np.maximum(prior, 1e-3) / np.maximum(prior, 1e-3).sum()
    _, bias = calibration.fit_prior(logits[:40], truth[:40], shares)
    assert np.abs(bias - (np.log(shares) - np.log(shares).mean())).max() < 1.5


def test_what_was_folded_can_be_undone():
    rng = np.random.default_rng(1)
    logits, bias = rng.normal(size=(50, 9)), rng.normal(size=9)
    done = calibration.Calibration(temperature=1.7, bias=bias.tolist(), images=50)
    after = special.softmax(logits / 1.7 + bias, axis=1)
    assert np.abs(done.undone(after) - special.softmax(logits, axis=1)).max() < 1e-12


def test_a_model_without_a_last_linear_layer_is_refused():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"num_labels": 9})
            self.convolution = torch.nn.Conv2d(3, 9, 8)

        def forward(self, pixels):
            return type("Output", (), {"logits": self.convolution(pixels).flatten(1)})

    with pytest.raises(ValueError, match="the logits of Odd are not the output of a linear layer"):
        head.last_linear(Odd(), torch.randn(1, 3, 8, 8))
