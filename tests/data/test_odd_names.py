"""Names of files that are no UTF-8, as zips made on Windows leave them."""

import json
import os

import pytest
from support.pictures import class_folders
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.data import identifiers, loading


@pytest.mark.parametrize("name", [b"Myr\xf6n.png", b"\xff\xfe.png", b"caf\xc3\xa9-\xe9.png"])
def test_an_image_under_such_a_name_is_loaded_and_audited_like_any_other(tmp_path, name):
    root = class_folders(tmp_path / "set", images=2)
    picture = next((root / "nevus").iterdir())
    picture.rename(picture.with_name(os.fsdecode(name)))
    dataset = loading.load([str(root)]).dataset
    assert len(dataset) == 18
    assert identifiers.readable(os.fsdecode(name)).removesuffix(".png") in dataset["image_id"]
    assert identifiers.readable(os.fsdecode(b"L\xe4sion")) == "L\u00e4sion"
    assert all(image.size for image in dataset["image"])
    done = CliRunner().invoke(app, ["audit", str(root), "--json", str(tmp_path / "audit.json")])
    assert done.exit_code == 0, done.output
    json.loads((tmp_path / "audit.json").read_text())


def test_a_damaged_image_under_such_a_name_is_named(tmp_path):
    root = class_folders(tmp_path / "set", images=3, labels=("nevus",))
    (root / "nevus" / os.fsdecode(b"Myr\xf6n.png")).write_bytes(b"no picture")
    loaded = loading.load([str(root)])
    assert len(loaded.dataset) == 3
    assert any("Myrön.png" in place for place in loaded.unreadable)
