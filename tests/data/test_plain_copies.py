"""A data set takes DICOM files and HEIC photos as pictures, without what else they say."""

import pytest
from PIL import ExifTags, Image
from support.dicom import NUMBER, PATIENT, dicom, heic
from support.pictures import class_folders, picture

from dermalert.data import loading

pytest.importorskip("pydicom", reason="needs pydicom: `pip install 'dermalert[formats]'`")
pytest.importorskip("pillow_heif", reason="needs pillow-heif: `pip install 'dermalert[formats]'`")


def test_they_are_loaded_as_any_other_and_nobodys_name_comes_along(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = class_folders(tmp_path / "set", images=2)
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Artist] = "Apple", PATIENT
    (folder / "nevus" / "a.dcm").write_bytes(dicom(picture(100)))
    (folder / "nevus" / "b.dcm").write_bytes(dicom(picture(101), compressed=True))
    (folder / "nevus" / "c.heic").write_bytes(heic(picture(102), exif=exif))
    (folder / "nevus" / "bad.dcm").write_bytes(b"no DICOM")
    loaded = loading.load([str(folder)])
    rows = {row["image_id"]: row["image"] for row in loaded.dataset}
    assert {"a", "b", "c"} <= set(rows) and all(rows[name].size == (32, 32) for name in "abc")
    assert rows["a"].tobytes() == picture(100).tobytes()
    assert len(loaded.unreadable) == 1 and "bad.dcm" in loaded.unreadable[0]
    copies = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in copies if "plain" in str(path)) == [".jpg", ".png", ".png"]
    contents = b"".join(path.read_bytes() for path in copies)
    assert b"Apple" in contents and not any(name.encode() in contents for name in (PATIENT, NUMBER))
