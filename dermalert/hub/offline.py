"""Without a network (HF_HUB_OFFLINE): what the cache holds of the Hub is used, and what it lacks is named.

Base models are looked for by `dermalert_space.pretrained`, data sets by `data.hub_datasets`, and what a base model has
learnt from by `data.contamination`.
"""

from collections.abc import Sequence
from pathlib import Path

from dermalert_space.contract import HubName
from huggingface_hub import constants, try_to_load_from_cache

from dermalert.errors import UsageError, first_few


def is_on() -> bool:
    """Whether nothing may be asked of the Hub."""
    return constants.HF_HUB_OFFLINE


def cached_folder(named: HubName, names: Sequence[str]) -> Path:
    """The folder of the cache that holds these files of a model, the first of which lies at its top.

    Raises:
        UsageError: it lacks one of them.
    """
    paths = [try_to_load_from_cache(named.repo, name, revision=named.revision) for name in names]
    if missing := [name for name, path in zip(names, paths, strict=True) if not isinstance(path, str)]:
        raise UsageError(
            f"HF_HUB_OFFLINE is set and the cache lacks {first_few(missing)} of '{named}': {named.how_to_cache}."
        )
    return Path(str(paths[0])).parent
