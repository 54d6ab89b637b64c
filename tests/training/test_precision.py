import pytest

from dermalert.errors import UsageError
from dermalert.training import distributed


@pytest.fixture(autouse=True)
def a_cpu(monkeypatch):
    monkeypatch.setattr(distributed, "computes_in_bfloat16", lambda: False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    for name in ("MIXED_PRECISION", "DYNAMO_BACKEND", "USE_DEEPSPEED", "USE_FSDP", "GRADIENT_ACCUMULATION_STEPS"):
        monkeypatch.delenv(f"ACCELERATE_{name}", raising=False)


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [("no", "no", None), ("", "no", None), ("BF16", "no", "bf16"), ("bf16", "bf16", None), ("no", "bf16", None)],
)
def test_a_precision_is_asked_for_where_it_is_not_the_devices_own(monkeypatch, asked, own, expected):
    monkeypatch.setattr(distributed, "computes_in_bfloat16", lambda: own == "bf16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    assert distributed.requested_precision() == expected
    assert distributed.precision() == (expected or own)


def test_half_precision_of_a_gpu_takes_the_place_of_its_bfloat16(monkeypatch):
    monkeypatch.setattr(distributed, "computes_in_bfloat16", lambda: True)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert distributed.precision() == "fp16"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIXED_PRECISION", "fp8"),
        ("MIXED_PRECISION", "fp16"),
        ("DYNAMO_BACKEND", "INDUCTOR"),
        ("USE_DEEPSPEED", "true"),
        ("USE_FSDP", "1"),
        ("USE_MEGATRON_LM", "True"),
        ("GRADIENT_ACCUMULATION_STEPS", "4"),
    ],
)
def test_what_a_training_would_not_do_as_asked_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UsageError, match=rf"accelerate's configuration asks for .*ACCELERATE_{name}={value}"):
        distributed.requested_precision()


@pytest.mark.parametrize(
    ("name", "value"), [("DYNAMO_BACKEND", "NO"), ("USE_FSDP", "false"), ("GRADIENT_ACCUMULATION_STEPS", "1")]
)
def test_what_accelerate_launch_sets_by_default_is_no_request(monkeypatch, name, value):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert distributed.requested_precision() is None
