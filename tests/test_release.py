import pytest
from conftest import REPOSITORY

from dermalert import release
from space.triage import NOT_A_DEVICE


def test_a_release_is_assembled_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), release.assembled(tmp_path / "release") as staging:
        (staging / "config.json").write_text("{}")
        raise RuntimeError
    assert not (tmp_path / "release").exists()
    with release.assembled(tmp_path / "release") as staging:
        assert list(staging.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_one_wording_says_that_it_is_no_device():
    for name in ("README.md", "model_card.md", "space/README.md"):
        text = (REPOSITORY / name).read_text()
        assert NOT_A_DEVICE in text or "{{ not_a_device }}" in text, name
