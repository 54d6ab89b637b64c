"""The photographs that the Space shows as examples, which are kept out of every training."""

from datasets import Dataset

from dermalert.data.identifiers import archive_number

EXAMPLES = frozenset({"ISIC_6090497", "ISIC_7376452", "ISIC_7708200", "ISIC_0010879", "ISIC_1368976", "ISIC_2248597"})
"""Their numbers in the archive."""


def groups_of(dataset: Dataset) -> set[str]:
    """The groups of a data set that hold one of them."""
    ids = zip(dataset["group"][:], dataset["image_id"][:], strict=True)
    return {group for group, image_id in ids if archive_number(image_id) in EXAMPLES}
