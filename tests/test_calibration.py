import numpy as np
import pytest
import torch
from scipy import special
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

from dermalert import calibration


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
def test_folding_divides_the_logits_for_good(model):
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = model.eval()(pixels).logits
        calibration.fold_temperature(model, 2.5, pixels)
        assert torch.allclose(model(pixels).logits, before / 2.5, atol=1e-6)


def test_folding_into_a_model_without_a_last_linear_layer_is_refused():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"num_labels": 9})
            self.convolution = torch.nn.Conv2d(3, 9, 8)

        def forward(self, pixels):
            return type("Output", (), {"logits": self.convolution(pixels).flatten(1)})

    with pytest.raises(ValueError, match="the logits of Odd are not the output of a linear layer"):
        calibration.fold_temperature(Odd(), 2.0, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("lesions", "missed", "bound_met"), [(58, 0, False), (59, 0, True), (92, 0, True), (93, 1, True), (124, 2, True)]
)
def test_as_many_melanomas_may_be_missed_as_the_exact_bound_allows(lesions, missed, bound_met):
    scores = np.linspace(0.1, 0.9, lesions)
    alert = calibration.alert_threshold(scores, np.arange(lesions))
    assert (alert["missed"], alert["bound_met"], alert["lesions"]) == (missed, bound_met, lesions)
    assert (scores < alert["threshold"]).sum() == missed
    assert alert["lesions_needed"] == 59
    assert (alert["lower_bound"] >= 0.95) == bound_met


def test_a_lesion_counts_once_with_its_lowest_photo():
    alert = calibration.alert_threshold(np.array([0.9, 0.3, 0.8]), np.array(["a", "a", "b"]))
    assert alert["lesions"] == 2
    assert alert["threshold"] == pytest.approx(0.3, rel=1e-3)
    assert alert["threshold"] < 0.3


def test_tied_scores_are_never_counted_as_missed():
    alert = calibration.alert_threshold(np.full(100, 0.25), np.arange(100))
    assert alert["missed"] == 0


def test_without_a_melanoma_there_is_no_threshold():
    alert = calibration.alert_threshold(np.empty(0), np.empty(0))
    assert (alert["threshold"], alert["lesions"], alert["bound_met"]) == (None, 0, False)
