"""What a release is developed and reported on: the splits, the folds, what its base model has learnt from."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

from datasets import Dataset
from dermalert_space import contract
from dermalert_space.contract import Json

from dermalert.config import Config
from dermalert.data import contamination, external, schema, splits, table_columns
from dermalert.data.audit import Report
from dermalert.data.loading import Reading
from dermalert.data.prepare import Prepared, prepare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reported:
    """What is reported beside the splits."""

    audit: Report
    """Of the data set as it was shipped."""
    external: external.External
    """Data sets that are measured only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Development:
    """The data of a training, split when the splits are first asked for."""

    config: Config
    prepared: Prepared
    reading: Reading
    """How the data sets are read."""
    columns: table_columns.Columns
    """Those of the reading, which remember the data sets that have them."""

    @functools.cached_property
    def base_exposure(self) -> Mapping[str, str]:
        """See `contamination.read`; empty where the base model does not say what it has learnt from."""
        return contamination.read(contract.find(self.config.model_name_or_path))

    @functools.cached_property
    def splits(self) -> dict[str, Dataset]:
        """The splits, which respect what the base model has learnt from.

        Raises:
            UsageError: see `Prepared.split`.
        """
        return self.prepared.split(seed=self.config.split_seed, exposure=self.base_exposure)

    @functools.cached_property
    def folds(self) -> list[dict[str, Dataset]]:
        """The splits of each fold."""
        n, seed = self.config.folds, self.config.split_seed
        folds = (splits.fold(self.splits, number, n, seed=seed) for number in range(n))
        return [contamination.exclude_exposed(fold, self.base_exposure) for fold in folds]

    @functools.cached_property
    def exposure(self) -> Mapping[str, str]:
        """As `base_exposure`, of the model that is trained here."""
        return contamination.of(self.splits, self.base_exposure)

    @functools.cached_property
    def description(self) -> Json:
        """The images that are split: see `schema.describe`."""
        return {**schema.describe(self.prepared.dataset)}

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """What tells other images, or another split of them, from these."""
        return {"data": self.description["fingerprint"], "sides": splits.fingerprint(self.splits)}

    def report(self, config: Config) -> Reported:
        """Audit the images, and load the external data sets that the configuration names.

        Raises:
            UsageError: an external data set cannot be read, or no data set has a column that `--columns` names.
        """
        audit = self.prepared.audit()
        reported = external.load(
            config.external,
            self.reading,
            splits=self.splits,
            exposure=self.exposure,
            policy=config.label_repair,
            beside=config.dataset_name,
        )
        self.columns.check()
        return Reported(audit=audit, external=reported)

    def describe(self, seed: int, external_report: Json) -> Json:
        """The `data` of `metrics.json`."""
        exposed = ~contamination.are_unseen(self.splits["official_test"], self.base_exposure)
        return (
            self.description
            | {"shipped": schema.describe(self.prepared.shipped), "repair": self.prepared.repair.to_json()}
            | {"external": external_report, "hub_datasets": _hub_names(self.config.dataset_name)}
            | {"reference_standard": schema.confirmations(self.prepared.dataset)}
            | {"patients": len(set(self.prepared.dataset["patient_id"][:]) - {None})}
            | {"base_model_learnt_from": "known" if self.base_exposure else "not known"}
            | {"official_test_known_to_base": int(exposed.sum())}
            | splits.describe(self.splits, seed)
        )


def _hub_names(datasets: Iterable[str]) -> list[str]:
    """The data sets of the Hub among those that a configuration names; folders stay out of what is published."""
    on_hub = (name for name in datasets if contract.is_hub_name(name) and not Path(name).exists())
    return [contract.HubName.parse(name).repo for name in on_hub]


def load(config: Config) -> Development:
    """Load, link and repair what the configuration names.

    Raises:
        UsageError: see `prepare.prepare`.
        RunError: the Hub cannot be reached, or there is no room for the thumbnails.
    """
    columns = table_columns.Columns(table_columns.mapping(config.columns or []))
    reading = Reading(
        columns=columns,
        image_types=config.image_types,
        streaming=config.streaming,
        strict=config.strict,
        # What the shortcut baselines and the search for copies see comes out of the first look at each image.
        shortcuts=True,
        squares=bool(config.external),
    )
    prepared = prepare(config.dataset_name, config.label_repair, reading)
    return Development(config=config, prepared=prepared, reading=reading, columns=columns)
