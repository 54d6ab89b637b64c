from collections import defaultdict

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from scipy.stats.contingency import crosstab
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermalert.imaging.synthetic_lesions import ARTEFACTS, KINDS, demo_set, lesion
from dermalert.taxonomy import DIAGNOSES

CHANCE = 1 / len(DIAGNOSES)


@pytest.fixture(scope="module")
def photos():
    return list(demo_set(lesions_per_class=40, size=64))


@pytest.fixture(scope="module")
def pixels(photos):
    return np.stack([np.asarray(photo.image, np.float32) / 255 for photo in photos])


def linear_balanced_accuracy(photos, features):
    """How well a linear model, cross-validated by lesion, tells the diagnoses from the features."""
    truth, groups = np.array([photo.diagnosis for photo in photos]), [photo.lesion_id for photo in photos]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    return balanced_accuracy_score(truth, cross_val_predict(model, features, truth, groups=groups, cv=folds))


def histograms(pixels):
    return np.stack([[np.histogram(image[..., c], 8, (0, 1))[0] for c in range(3)] for image in pixels]).reshape(-1, 24)


def test_the_kinds_are_the_nine_diagnoses_in_the_order_of_their_ids():
    assert tuple(KINDS) == DIAGNOSES


@pytest.mark.parametrize("diagnosis", DIAGNOSES)
def test_the_same_arguments_give_the_same_pixels_and_any_other_gives_others(diagnosis):
    image = lesion(diagnosis, lesion_seed=3, photo=1, size=48)
    other_diagnosis = DIAGNOSES[DIAGNOSES.index(diagnosis) - 1]
    arguments = [(diagnosis, 4, 1), (diagnosis, 3, 0), (other_diagnosis, 3, 1)]
    others = [lesion(name, lesion_seed=seed, photo=photo, size=48) for name, seed, photo in arguments]
    assert image.tobytes() == lesion(diagnosis, lesion_seed=3, photo=1, size=48).tobytes()
    assert all(image.tobytes() != other.tobytes() for other in others)


@pytest.mark.parametrize("size", [32, 128, 200])
def test_a_lesion_is_a_square_rgb_picture_of_the_size_asked_for(size):
    image = lesion("melanoma", lesion_seed=0, size=size)
    assert (image.mode, image.size) == ("RGB", (size, size))
    assert np.asarray(image).std() > 5


@pytest.mark.parametrize("diagnosis", DIAGNOSES)
def test_a_photo_is_the_same_in_any_size(diagnosis):
    small, large = (lesion(diagnosis, lesion_seed=1, size=size).resize((32, 32)) for size in (96, 192))
    assert np.abs(np.asarray(small, float) - np.asarray(large, float)).mean() < 4


def test_an_unknown_diagnosis_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no lesion can be generated for 'mole': choose one of actinic keratosis, "):
        lesion("mole", lesion_seed=0)


def test_a_larger_set_holds_the_smaller_one():
    larger = {photo.image_id: photo for photo in demo_set(lesions_per_class=3, seed=7, size=24)}
    for photo in demo_set(lesions_per_class=2, seed=7, size=24):
        assert photo == larger[photo.image_id]


def test_a_photo_does_not_depend_on_what_was_generated_before():
    order = [(diagnosis, photo) for diagnosis in DIAGNOSES[:3] for photo in range(2)]
    forwards, backwards = (
        {key: lesion(key[0], lesion_seed=5, photo=key[1], size=24).tobytes() for key in keys}
        for keys in (order, order[::-1])
    )
    assert forwards == backwards


def test_another_seed_gives_another_set_with_the_same_ids_of_lesions():
    one, other = (list(demo_set(lesions_per_class=1, seed=seed, size=24)) for seed in (0, 1))
    assert {photo.lesion_id for photo in one} == {photo.lesion_id for photo in other}
    assert not {photo.image.tobytes() for photo in one} & {photo.image.tobytes() for photo in other}


def test_each_diagnosis_has_its_lesions_with_one_to_three_photos(photos):
    lesions = defaultdict(list)
    for photo in photos:
        lesions[photo.lesion_id].append(photo)
    counts = [len(group) for group in lesions.values()]
    assert len(lesions) == 40 * len(DIAGNOSES)
    assert set(counts) == {1, 2, 3}
    assert 1.8 < np.mean(counts) < 2.2
    assert len({photo.image_id for photo in photos}) == len(photos)
    assert photos[0].image_id == "DEMO_0000000"
    assert photos[0].lesion_id == "DEMO_L00000"
    assert all(len({(p.diagnosis, p.age, p.sex, p.site) for p in group}) == 1 for group in lesions.values())


def test_photos_of_one_lesion_differ_but_less_than_those_of_two(photos, pixels):
    coarse = pixels.reshape(len(pixels), 16, 4, 16, 4, 3).mean((2, 4))
    pairs = [(i, i + 1) for i in range(len(photos) - 1) if photos[i].lesion_id == photos[i + 1].lesion_id]
    within = [np.abs(coarse[i] - coarse[j]).mean() for i, j in pairs]
    among = [np.abs(coarse[i] - coarse[(i + 50) % len(photos)]).mean() for i, _ in pairs]
    assert min(within) > 0.005
    assert np.mean(within) < 0.75 * np.mean(among)


def test_colour_alone_does_not_solve_the_set(photos, pixels):
    assert linear_balanced_accuracy(photos, pixels.mean((1, 2))) < 0.35
    assert linear_balanced_accuracy(photos, histograms(pixels)) < 0.35


def test_the_frame_of_the_picture_tells_nothing(photos, pixels):
    frame = np.concatenate([pixels[:, :4], pixels[:, -4:]], 1)
    features = np.concatenate([frame.mean((1, 2)), frame.std((1, 2))], 1)
    assert linear_balanced_accuracy(photos, features) < CHANCE + 0.07


def test_age_sex_and_site_tell_nothing(photos):
    first = list({photo.lesion_id: photo for photo in photos}.values())
    for fact in ("age", "sex", "site"):
        counts = crosstab([photo.diagnosis for photo in first], [str(getattr(photo, fact)) for photo in first]).count
        assert chi2_contingency(counts).pvalue > 0.01, fact


def test_ages_sexes_and_sites_are_plausible_and_sometimes_missing(photos):
    assert {photo.sex for photo in photos} == {"female", "male", None}
    assert all(photo.age is None or 20 <= photo.age <= 85 for photo in photos)
    assert {None} < {photo.age for photo in photos}
    assert {None, "head/neck"} < {photo.site for photo in photos}


def test_structure_tells_more_than_colour(photos, pixels):
    # The power spectrum is blind to colour and place, and a coarse view of structure: a network sees far more.
    grey = pixels.mean(-1)
    power = np.log(np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2 + 1e-3)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    rings = [power[:, (frequency >= low) & (frequency < low + 0.02)].mean(1) for low in np.arange(0.01, 0.5, 0.02)]
    by_colour = linear_balanced_accuracy(photos, pixels.mean((1, 2)))
    assert linear_balanced_accuracy(photos, np.stack(rings, 1)) > by_colour + 0.1


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("shape", [(64, 64, 3), (60, 90, 3)], ids=["square", "wide"])
def test_an_artefact_changes_a_part_of_a_copy_and_keeps_the_range(name, shape):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        image = rng.uniform(0.4, 0.6, shape).astype(np.float32)
        before = image.copy()
        changed = ARTEFACTS[name][0](image, rng)
        assert changed.shape == shape
        assert 0 <= changed.min() <= changed.max() <= 1
        assert 0.002 < (changed != image).any(-1).mean() < 0.8
        assert (image == before).all()
