import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image, ImageEnhance
from support.pictures import jpeg

from dermalert.data import copies, near_duplicates, schema
from dermalert.data.audit import audit
from dermalert.data.loading import Loaded
from dermalert.data.prepare import link_and_repair
from dermalert.imaging import synthetic_lesions
from dermalert.taxonomy import DIAGNOSES

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cache")]


@pytest.fixture(scope="module")
def lesions() -> list[Image.Image]:
    return [synthetic_lesions.lesion(DIAGNOSES[i % 9], lesion_seed=i) for i in range(18)]


def again(image: Image.Image, number: int) -> Image.Image:
    """The same photograph as another archive has it: turned, cropped, squashed, in other colours."""
    rng = np.random.default_rng(number)
    w, h = image.size
    image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
    left, top, right, low = rng.uniform(0.08, 0.16, 4)
    image = image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - low))))
    image = ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(0.6)).enhance(1.2)
    return Image.fromarray((np.asarray(image) * [1.0, 0.85, 0.9]).astype(np.uint8)).resize((200, 170))


def row(file: bytes, number: int, source: str) -> dict:
    fields = {"image": {"bytes": file, "path": None}, "content": hashlib.sha256(file).hexdigest(), "source": source}
    names = {"image_id": f"{source}_{number}", "lesion_id": f"lesion {source} {number}", "label": number % 9}
    return dict.fromkeys(schema.FEATURES) | fields | names | {"group": f"lesion {source} {number}"}


def dataset_of(rows: list[dict]) -> Dataset:
    return Dataset.from_list(rows, features=schema.FEATURES)


@pytest.fixture(scope="module")
def rows(lesions) -> list[dict]:
    """Twelve lesions of one source, the first six again in another, which has six of its own."""
    here = [row(jpeg(image), i, "here") for i, image in enumerate(lesions[:12])]
    there = [row(jpeg(again(image, i), 70), i, "there") for i, image in enumerate(lesions[:6])]
    return here + there + [row(jpeg(image), 12 + i, "there") for i, image in enumerate(lesions[12:])]


TRUE = [(i, 12 + i) for i in range(6)]


def pairs_of(result: copies.Copies) -> list[tuple[int, int]]:
    return sorted(zip(result.first.tolist(), result.second.tolist(), strict=True))


def test_another_crop_in_other_colours_is_a_copy_and_no_other_lesion_is(rows):
    assert pairs_of(copies.search(dataset_of(rows))) == TRUE


def test_copies_are_in_one_group_and_the_audit_counts_them_by_sources(rows):
    prepared = link_and_repair(Loaded(dataset_of(rows)))
    groups = list(prepared.shipped["group"])
    assert all(groups[a] == groups[b] for a, b in TRUE)
    assert len(set(groups)) == len(rows) - len(TRUE)
    finding = prepared.audit()["findings"]["cross-source-copies"]
    assert (finding["found"], finding["count"], finding["by_sources"]) == (True, 6, {"here / there": 6})
    assert [image["source"] for image in finding["cases"][0]["images"]] == ["here", "there"]


def test_near_duplicates_alone_would_leave_them_apart(rows):
    assert len(set(near_duplicates.link(dataset_of(rows))["group"])) == len(rows)


def test_the_order_of_the_images_changes_no_pair(rows, tmp_path, monkeypatch):
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    straight = copies.search(dataset_of(rows))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    mixed = copies.search(dataset_of([rows[i] for i in order]))
    named = sorted(tuple(sorted((order[a], order[b]))) for a, b in pairs_of(mixed))
    assert named == pairs_of(straight)
    assert mixed.similarity.tolist() == straight.similarity.tolist()


def test_the_index_of_many_features_finds_the_same_pairs(rows, monkeypatch):
    monkeypatch.setattr(copies, "_EXACT", 100)
    monkeypatch.setattr(copies, "_A_CELL", 100)
    assert pairs_of(copies.search(dataset_of(rows))) == TRUE


def test_one_source_needs_no_search(rows, monkeypatch):
    monkeypatch.setattr(copies.local_features, "features", lambda _: pytest.fail("an image was looked at"))
    alone = dataset_of(rows[:12])
    assert pairs_of(copies.search(alone)) == []
    assert audit(alone)["findings"]["cross-source-copies"]["count"] is None


def test_a_second_search_reads_no_image(rows, monkeypatch):
    first = copies.search(dataset_of(rows))
    monkeypatch.setattr(copies.local_features, "features", lambda _: pytest.fail("an image was looked at"))
    assert [column.tolist() for column in copies.search(dataset_of(rows))] == [column.tolist() for column in first]


def test_other_sources_are_another_search(rows):
    copies.search(dataset_of(rows))
    swapped = [line | {"source": "here"} if i == 12 else line for i, line in enumerate(rows)]
    assert pairs_of(copies.search(dataset_of(swapped))) == TRUE[1:]


def test_rows_before_the_start_are_no_pair(rows):
    assert pairs_of(copies.search(dataset_of(rows), start=15)) == TRUE[3:]


def test_blank_and_broken_images_are_copies_of_nothing(rows):
    blank = io.BytesIO()
    Image.new("RGB", (64, 64), "pink").save(blank, "PNG")
    files = [blank.getvalue(), rows[0]["image"]["bytes"][:300], b""]
    odd = [row(file, 100 + i, "here") for i, file in enumerate(files)]
    odd += [row(file + b" ", 200 + i, "there") for i, file in enumerate(files)]
    assert pairs_of(copies.search(dataset_of(odd))) == []
    assert pairs_of(copies.search(dataset_of(rows + odd))) == TRUE


@pytest.fixture(scope="module")
def real_pairs(real_images) -> list[tuple[Path, Path]]:
    """Every tenth of the lesions that MILK10k and HAM10000 share, where a photograph of each is there."""
    table = real_images / "metadata" / "same_lesion_as_ham10000.csv"
    if not (table.exists() and (real_images / "milk10k").is_dir()):
        pytest.skip(f"needs the real-images: no '{table}' or no MILK10k beside it")
    files = {path.stem: path for name in ("ham10000", "ham10000_224") for path in (real_images / name).rglob("*.jpg")}
    with table.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["source"] == "milk10k"]
    pairs = [(real_images / "milk10k" / f"{line['image_id']}.jpg", line["ham10000_image"]) for line in lines]
    return [(one, files[other]) for one, other in pairs if other in files][::10]


def test_nine_in_ten_lesions_that_two_real_archives_share_are_found_and_no_others(real_pairs):
    rows = [row(one.read_bytes(), i, "MILK10k") for i, (one, _) in enumerate(real_pairs)]
    rows += [row(other.read_bytes(), i, "HAM10000") for i, (_, other) in enumerate(real_pairs)]
    pairs = pairs_of(copies.search(dataset_of(rows)))
    assert {second - first for first, second in pairs} == {len(real_pairs)}, "two different lesions were taken for one"
    assert len(pairs) >= 0.9 * len(real_pairs)
