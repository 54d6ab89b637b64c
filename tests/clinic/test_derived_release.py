"""`dermalert clinic --write-release`: the derived release loads, serves, compares and knows its parent."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dermalert_space.release import Release
from support.pictures import picture
from support.releases import figures, make_release
from transformers import pipeline

from dermalert.clinic import derived_release, report
from dermalert.clinic.adaptation import Adaptation, Change
from dermalert.data import contamination
from dermalert.errors import RunError, UsageError
from dermalert.evaluation import any_checkpoint
from dermalert.evaluation.intervals import Logistic
from dermalert.publishing import models
from dermalert.release import regression_gate, release_comparison
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration

INTERCEPT = -0.7
POINTS = ("alert", "attention")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A release with figures and recorded predictions."""
    folder = make_release(tmp_path_factory.mktemp("parent") / "parent", generated=True, attention=0.2)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(figures()))
    config, of = json.loads((folder / "config.json").read_text()), figures()
    points = {name: config[name] | {k: v for k, v in of["alert"].items() if k not in config[name]} for name in POINTS}
    points["attention"].pop("label")
    (folder / "config.json").write_text(json.dumps(config | points))
    rng = np.random.default_rng(0)
    probabilities, truth = rng.dirichlet(np.ones(9), 200).astype(np.float32), rng.integers(0, 9, 200)
    columns = {"image_id": [f"I{i}" for i in range(200)], "source": ["HAM10000"] * 200}
    columns |= {"group": [f"G{i}" for i in range(200)], "split": ["held_out"] * 200, "refused": [False] * 200}
    columns |= {"truth": [DIAGNOSES[label] for label in truth]}
    columns |= {name: probabilities[:, i] for i, name in enumerate(DIAGNOSES)}
    pq.write_table(pa.table(columns), folder / "evaluation" / "predictions.parquet")
    return folder


def examine(release, root, **options):
    root.mkdir()
    for kind in ("melanoma", "nevus"):
        (root / kind).mkdir()
        for i in range(3):
            picture(i + 10 * (kind == "nevus"), tint=i).save(root / kind / f"{kind}-{i}.png")
    return report.examine(release, root, **options)


@pytest.fixture(scope="module")
def derived(parent, tmp_path_factory):
    """The parent, adapted to a clinic whose labels ask for an intercept."""
    root = tmp_path_factory.mktemp("clinic")
    examination = examine(any_checkpoint.load(str(parent)), root / "clinic")
    adapted = Adaptation(
        change=Change(intercept=INTERCEPT),
        point=None,
        lesions=6,
        positives=3,
        images=6,
        before=Logistic(),
        after=Logistic(),
        gain=examination.report.adaptation.gain,
        sentences=["An intercept."],
    )
    asked = dataclasses.replace(examination.report, adaptation=adapted)
    examination = dataclasses.replace(examination, report=asked)
    before = {path: path.read_bytes() for path in sorted(parent.rglob("*")) if path.is_file()}
    derived_release.write(examination, root / "derived")
    assert before == {path: path.read_bytes() for path in sorted(parent.rglob("*")) if path.is_file()}
    return root / "derived"


def test_the_same_images_alert_and_their_log_odds_move(parent, derived):
    one, other = Release.load(parent), Release.load(derived)
    images = [picture(seed, tint=seed % 9) for seed in range(30)]
    before, after = (release.probabilities(images).astype(np.float64)[:, 3] for release in (one, other))
    moved = np.log(after / (1 - after)) - np.log(before / (1 - before))
    assert moved == pytest.approx(np.full(30, INTERCEPT), abs=1e-3)
    assert ((before >= one.threshold) == (after >= other.threshold)).all()


def test_it_serves_and_pipeline_loads_it(derived):
    Release.load(derived).verify_parity()
    scores = pipeline("image-classification", model=str(derived))(picture(0), top_k=9)
    assert {score["label"] for score in scores} == set(DIAGNOSES)


def test_the_card_names_clinic_count_and_parent(parent, derived):
    card = (derived / "README.md").read_text()
    assert "**Adapted to clinic, n = 6 lesions, 3 of them melanomas (6 images).**" in card
    of = json.loads((derived / "evaluation" / "metrics.json").read_text())["adapted"]["parent"]
    assert of["hash"] in card
    assert of["predictions"] == release_comparison.fingerprint(parent / "evaluation" / "predictions.parquet")
    held_out = json.loads((parent / "evaluation" / "metrics.json").read_text())["splits"]["held_out"]
    assert "prediction_sets" in held_out and "## Prediction sets" not in card


def test_the_gate_lets_it_replace_its_parent_and_no_other_release(parent, derived):
    new, old = release_comparison.read(derived, "derived"), release_comparison.read(parent, "parent")
    own = regression_gate.gate(new, old).refused_for
    other = regression_gate.gate(new, dataclasses.replace(old, fingerprint="another")).refused_for
    assert not any("adapted to" in reason for reason in own)
    assert any("adapted to 'clinic', from another release" in reason for reason in other)


def test_the_clinics_labelled_images_count_as_learnt_from(derived, tmp_path):
    release = any_checkpoint.load(str(derived))
    with pytest.raises(UsageError, match="has learnt from all 6 images"):
        examine(release, tmp_path / "clinic")
    assert set(contamination.read(derived).values()) == {"calibration"}


def test_it_is_published_like_any_other_release(derived, hub):
    assert models.publish(derived, "tester/adapted", "v1.0.0").startswith("Published: tester/adapted@v1.0.0.")
    assert "Adapted to clinic" in hub.files("tester/adapted", "v1.0.0")["README.md"].decode()


def test_no_release_is_written_over(parent, derived):
    with pytest.raises(UsageError, match="is there already"):
        derived_release.check(any_checkpoint.load(str(parent)), derived)


def test_labels_that_support_no_change_write_nothing(parent, tmp_path):
    examination = examine(any_checkpoint.load(str(parent)), tmp_path / "clinic")
    with pytest.raises(RunError, match="your labels support no change"):
        derived_release.write(examination, tmp_path / "derived")
    assert not (tmp_path / "derived").exists()
