from datasets import Dataset

from dermalert.data import development, schema


def test_of_the_data_sets_only_those_of_the_hub_are_published_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clinic" / "images").mkdir(parents=True)
    names = ["somebody/lesions@v1.0.0", "clinic/images", str(tmp_path), "demo"]
    assert development._hub_names(names) == ["somebody/lesions"]


def test_of_each_diagnosis_it_is_counted_how_it_was_confirmed():
    rows = {"label": [3, 3, 4], "confirmation": ["histopathology", None, "follow-up"]}
    counts = schema.confirmations(Dataset.from_dict(rows).cast_column("label", schema.FEATURES["label"]))
    assert counts["melanoma"] == {"histopathology": 1, "not recorded": 1}
    assert (counts["nevus"], counts["dermatofibroma"]) == ({"follow-up": 1}, {})
