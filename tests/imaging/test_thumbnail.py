"""Fingerprints: each file decoded once, and what is no image told from what is one."""

import hashlib
import io
import logging

import numpy as np
import pytest
from datasets import Dataset, Features
from dermalert_space.images import UnreadableImage, read_image
from PIL import Image
from support.pictures import jpeg

from dermalert.data import loading, near_duplicates, schema
from dermalert.errors import RunError
from dermalert.imaging import local_features, shortcut_features, synthetic_lesions, thumbnail
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def lesions() -> list[Image.Image]:
    return [synthetic_lesions.lesion(DIAGNOSES[i % 9], lesion_seed=i) for i in range(5)]


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """The contents of all files that are decoded."""
    calls, real = [], thumbnail.fingerprint
    monkeypatch.setattr(thumbnail, "fingerprint", lambda content, **how: calls.append(content) or real(content, **how))
    return calls


def dataset_of(files: list[bytes]) -> Dataset:
    rows = [{"image": {"bytes": file, "path": None}, "content": hashlib.sha256(file).hexdigest()} for file in files]
    return Dataset.from_list(rows, features=Features({k: schema.FEATURES[k] for k in ("image", "content")}))


def test_each_content_is_decoded_once_and_then_never_again(lesions, cache, decoded):
    files = [jpeg(image) for image in lesions[:5]]
    first = thumbnail.fingerprints(dataset_of([*files, files[0], b"no image"]))
    assert len(decoded) == 6
    assert first.unreadable.tolist() == [False] * 6 + [True]
    assert (first.thumbnails[5] == first.thumbnails[0]).all()
    assert first.sizes[0].tolist() == [128, 128]
    second = thumbnail.fingerprints(dataset_of(list(reversed(files))))
    assert len(decoded) == 6
    assert (second.thumbnails == first.thumbnails[4::-1]).all()
    assert cache.is_file()


def test_what_could_not_be_read_is_tried_again(monkeypatch):
    assert thumbnail.fingerprints(dataset_of([b"no image"])).unreadable.all()
    monkeypatch.setattr(thumbnail, "fingerprint", lambda *_, **__: np.ones(1, thumbnail.ROW).tobytes())
    assert not thumbnail.fingerprints(dataset_of([b"no image"])).unreadable.any()


@pytest.mark.parametrize("spoil", ["damaged", "a folder", "not to be made"])
def test_without_a_cache_all_works_as_well(spoil, lesions, cache, caplog, monkeypatch, tmp_path):
    if spoil == "damaged":
        cache.parent.mkdir(parents=True)
        cache.write_bytes(b"no data base" * 1000)
    elif spoil == "a folder":
        cache.mkdir(parents=True)
    else:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        fingerprints = thumbnail.fingerprints(dataset_of([jpeg(lesions[0])]))
    assert not fingerprints.unreadable.any()
    assert "going on without a cache" in caplog.text


def test_a_large_photo_has_the_thumbnail_of_its_smaller_copy(lesions):
    large = lesions[0].resize((2400, 1800), Image.Resampling.BICUBIC)
    fingerprint = thumbnail.fingerprints(dataset_of([jpeg(large), jpeg(lesions[0])]))
    assert fingerprint.sizes[0].tolist() == [2400, 1800]
    assert near_duplicates.similarities(*fingerprint.thumbnails[:, None]) > 0.98


def test_reading_a_folder_decodes_each_file_once_and_again_not_at_all(lesions, decoded, tmp_path):
    (tmp_path / "set" / "nevus").mkdir(parents=True)
    for i, lesion in enumerate([*lesions, lesions[0]]):
        lesion.save(tmp_path / "set" / "nevus" / f"{i}.png")
    for _ in range(2):
        dataset = loading.load([str(tmp_path / "set")]).dataset
        assert not thumbnail.fingerprints(dataset).unreadable.any()
    assert len(decoded) == 5


def test_features_of_shortcuts_and_grey_squares_come_out_of_the_look_that_asks_for_them(lesions, decoded):
    files = [jpeg(lesion) for lesion in lesions]
    dataset = dataset_of(files)
    kind = thumbnail.row_type(shortcuts=True, square=True)
    looks = thumbnail.look([{"bytes": file, "path": None} for file in files], kind)
    assert all(look.fault is None for look in looks)
    assert len(decoded) == 5
    kept = thumbnail.shortcut_features(dataset)
    assert (thumbnail.fingerprints(dataset).sizes == 128).all()
    assert len(decoded) == 5
    for row, file in zip(kept, files, strict=True):
        assert row.tobytes() == shortcut_features.features(read_image(file)).tobytes()
    (squares,) = thumbnail.squares(dataset)
    assert len(decoded) == 5
    for square, file in zip(squares, files, strict=True):
        assert (square == local_features.square(read_image(file))).all()


def test_nobody_but_its_owner_reads_the_cache_which_shows_pictures(lesions, cache):
    thumbnail.fingerprints(dataset_of([jpeg(lesions[0])]))
    assert cache.stat().st_mode & 0o077 == 0


def test_a_fingerprint_without_the_features_of_shortcuts_is_completed(lesions, decoded):
    dataset = dataset_of([jpeg(lesion) for lesion in lesions])
    thumbnails = thumbnail.fingerprints(dataset).thumbnails[:]
    assert thumbnail.shortcut_features(dataset)["mean_colour"].all()
    assert len(decoded) == 10
    assert (thumbnail.fingerprints(dataset).thumbnails[:] == thumbnails).all()
    assert len(decoded) == 10


def test_no_features_are_made_up_for_an_image_that_is_gone():
    with pytest.raises(RunError, match="was changed or removed while the run read it"):
        thumbnail.shortcut_features(dataset_of([b"no image"]))


def test_a_look_tells_what_is_no_image_and_why(lesions, tmp_path):
    files = [{"bytes": content, "path": None} for content in (jpeg(lesions[0]), b"no image")]
    good, bad, gone = thumbnail.look([*files, {"bytes": None, "path": str(tmp_path / "gone.png")}])
    assert (good.content, good.fault) == (hashlib.sha256(jpeg(lesions[0])).hexdigest(), None)
    assert isinstance(bad.fault, UnreadableImage) and "cannot be read as an image" in str(bad.fault)
    assert isinstance(gone.fault, FileNotFoundError) and gone.content is None


@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_that_is_cut_short_is_no_image_here_where_it_is_none_for_the_judge(lesions, progressive):
    buffer = io.BytesIO()
    lesions[0].resize((700, 700)).save(buffer, "JPEG", progressive=progressive)
    whole = buffer.getvalue()
    for length in np.linspace(0, len(whole), 40, dtype=int):
        verdicts = []
        for judge in (thumbnail.fingerprint, read_image):
            try:
                judge(whole[:length])
                verdicts.append("an image")
            except UnreadableImage:
                verdicts.append("none")
        assert verdicts[0] == verdicts[1], length
