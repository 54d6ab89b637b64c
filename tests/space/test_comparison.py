import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dermalert_space import comparison
from dermalert_space.contract import EXPOSURE, PREDICTIONS
from dermalert_space.page import tab_versions
from dermalert_space.release import Release
from scipy import stats
from support.releases import LABELS, measured_release

from dermalert.publishing import models
from dermalert.release import release_comparison
from dermalert.taxonomy import MALIGNANT, PRECURSOR


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two releases, of which the newer has learnt from a few images that the older holds out, and renamed a lesion."""
    root = tmp_path_factory.mktemp("versions")
    learnt = tuple(f"ISIC_{9000000 + number:07d}" for number in range(5))
    old = measured_release(root / "old", blind=0.3, threshold=0.2)
    new = measured_release(root / "new", seed=1, images=500, learnt_from=(*learnt, "17"))
    path = new / PREDICTIONS
    rows = pq.read_table(path).to_pylist()
    rows[100]["truth"] = "nevus" if rows[100]["truth"] != "nevus" else "melanoma"
    rows[200]["image_id"] = rows[201]["image_id"]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return old, new


def test_two_versions_differ_as_the_gate_of_a_release_finds(folders):
    told = comparison.compare(Release.load(folders[1]), Release.load(folders[0]))
    report = release_comparison.compare(*(release_comparison.read(folder, folder.name) for folder in folders)).to_json()
    assert told.images == report["n"]
    assert told.left_out == sum(report["left_out"].values()) == 7
    melanomas, others = report["alerts"]["melanomas"], report["alerts"]["others"]
    assert (told.won, told.lost) == (melanomas["gained"], melanomas["lost"])
    assert (told.false_new, told.false_gone) == (others["gained"], others["lost"])
    assert told.won and told.false_new
    assert (told.watched, told.images - told.watched) == (melanomas["images"], others["images"])
    assert told.flagged[1] - told.flagged[0] == len(told.won) - len(told.lost)
    assert told.false[1] - told.false[0] == len(told.false_new) - len(told.false_gone)
    assert told.unknown == []
    p = comparison.chance(len(told.won), len(told.lost))
    assert p == pytest.approx(melanomas["p"])


@pytest.mark.parametrize("points", [(0.3, 0.1), (0.5, 0.5), (0.02, 0.9)])
def test_the_points_of_attention_differ_as_the_gate_of_a_release_finds(folders, tmp_path, points):
    names = [name for name in LABELS if name in MALIGNANT or name == PRECURSOR]
    asking = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    for folder, threshold in zip(asking, points, strict=True):
        config = json.loads((folder / "config.json").read_text()) | {
            "attention": {"labels": names, "threshold": threshold}
        }
        (folder / "config.json").write_text(json.dumps(config))
    told = comparison.compare(Release.load(asking[1]), Release.load(asking[0]))
    measured = release_comparison.compare(
        *(release_comparison.read(folder, folder.name) for folder in asking)
    ).to_json()["malignant_sensitivity"]
    assert [flagged / told.malignant for flagged in told.attended] == pytest.approx(
        [measured[side]["value"] for side in ("old", "new")]
    )
    assert told.attended[1] - told.attended[0] == told.attended_alone[1] - told.attended_alone[0]
    shown = tab_versions._sentences(Release.load(asking[1]), Release.load(asking[0]), told)
    cells = "".join(f"<td>{flagged}</td>" for flagged in told.attended)
    assert f"malignant or precursor at the point of attention, of {told.malignant}</th>{cells}" in shown


def test_without_a_point_of_attention_there_is_no_row_of_it(folders):
    told = comparison.compare(Release.load(folders[1]), Release.load(folders[0]))
    assert (told.attended, told.malignant) == (None, 0)
    shown = tab_versions._sentences(Release.load(folders[1]), Release.load(folders[0]), told)
    assert "malignant or precursor" not in shown


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 3), (2, 9), (12, 1)])
def test_the_chance_is_that_of_the_exact_test(gained, lost):
    exact = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert comparison.chance(gained, lost) == pytest.approx(exact)


def test_a_version_without_answers_or_threshold_cannot_be_compared(folders, tmp_path):
    served = Release.load(folders[0])
    bare = measured_release(tmp_path / "bare")
    (bare / PREDICTIONS).unlink()
    with pytest.raises(comparison.NotThere, match="does not say what it answers"):
        comparison.compare(served, Release.load(bare))
    with pytest.raises(comparison.NotThere, match="no alert threshold"):
        comparison.compare(served, Release.load(measured_release(tmp_path / "quiet", threshold=None)))


def test_what_a_release_has_learnt_from_may_be_unknown(folders, tmp_path):
    silent = measured_release(tmp_path / "silent")
    (silent / EXPOSURE).unlink()
    other = Release.load(silent)
    assert comparison.compare(Release.load(folders[0]), other).unknown == [str(other)]


@pytest.fixture
def published(hub, folders) -> Release:
    versions = dict(zip(("v1.9.0", "v1.10.0"), folders, strict=True))
    hub.once("shelf", lambda: [models.publish(f, "tester/shelf", v, accept="made up") for v, f in versions.items()])
    return Release.load("tester/shelf", "v1.10.0")


def test_the_tags_of_the_repository_come_newest_first_without_the_served_one(published, folders):
    models.publish(folders[0], "tester/shelf", "v2.0.0", accept="made up")
    shelf = comparison.Shelf(published)
    assert shelf.on_the_hub
    assert shelf.tags() == ["v2.0.0", "v1.9.0"]


def test_one_other_version_is_held_in_memory_and_loaded_once(published, monkeypatch):
    shelf, loaded = comparison.Shelf(published), []
    load = Release.load
    monkeypatch.setattr(Release, "load", lambda *named: loaded.append(named) or load(*named))
    first = shelf.get("v1.9.0")
    assert shelf.get("v1.9.0") is first
    assert loaded == [("tester/shelf", "v1.9.0")]
    assert str(first) == "tester/shelf@v1.9.0"


def test_what_is_no_tag_of_the_repository_is_not_loaded(published):
    for tag in ("main", "v9", "../../etc", ""):
        with pytest.raises(comparison.NotThere, match=r"tester/shelf has no tag"):
            comparison.Shelf(published).get(tag)


def test_a_version_that_answers_otherwise_than_it_was_measured_is_not_compared(hub, published, folders):
    hub.commit("tester/shelf", {"model.safetensors": (folders[0] / "model.safetensors").read_bytes()})
    hub.repo("tester/shelf").tags["v3.0.0"] = hub.branches("tester/shelf")["main"]
    with pytest.raises(comparison.NotThere, match="answers otherwise here than it was measured"):
        comparison.Shelf(published).get("v3.0.0")


def test_where_the_hub_does_not_answer_it_is_a_sentence(published, monkeypatch):
    monkeypatch.setattr(comparison.HfApi, "list_repo_refs", lambda *_: (_ for _ in ()).throw(OSError("no line")))
    with pytest.raises(comparison.NotThere, match=r"^The Hub cannot be asked for other versions just now\.$"):
        comparison.Shelf(published).tags()


def test_a_release_from_a_folder_has_no_versions(folders):
    assert not comparison.Shelf(Release.load(folders[0])).on_the_hub


def test_no_image_in_both_is_no_error(folders, tmp_path):
    empty = measured_release(tmp_path / "empty")
    table = pq.read_table(empty / PREDICTIONS)
    pq.write_table(table.slice(0, 0), empty / PREDICTIONS)
    told = comparison.compare(Release.load(folders[0]), Release.load(empty))
    assert (told.images, told.left_out, told.won, told.flagged) == (0, 0, [], (0, 0))


def test_a_tie_is_undecided_as_the_gate_counts_it(folders, tmp_path):
    tied = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    table = pq.read_table(tied[0] / PREDICTIONS)
    even = pa.array(np.full(len(table), 1 / 9, np.float32))
    for label in LABELS:
        table = table.set_column(table.schema.get_field_index(label), label, even)
    pq.write_table(table, tied[0] / PREDICTIONS)
    compared = comparison.compare(Release.load(tied[1]), Release.load(tied[0]))
    report = release_comparison.compare(*(release_comparison.read(folder, folder.name) for folder in tied)).to_json()
    assert compared.diagnoses == len(report["diagnoses"]) == compared.images
