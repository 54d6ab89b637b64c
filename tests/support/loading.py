"""Images of data sets in one line, whatever the options."""

from datasets import Dataset

from dermalert.data import loading
from dermalert.taxonomy import DIAGNOSES


def load(*names, labels=DIAGNOSES, merge: bool = True, beside=(), **reading) -> Dataset:
    """The images as `loading.load` gives them; `reading` are fields of `loading.Reading`."""
    options = {"labels": labels, "merge": merge, "beside": map(str, beside)}
    return loading.load(map(str, names), loading.Reading(**reading), **options).dataset
