from dermalert.data import development


def test_of_the_data_sets_only_those_of_the_hub_are_published_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clinic" / "images").mkdir(parents=True)
    names = ["somebody/lesions@v1.0.0", "clinic/images", str(tmp_path), "demo"]
    assert development._hub_names(names) == ["somebody/lesions"]
