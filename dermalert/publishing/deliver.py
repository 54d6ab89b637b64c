"""Before and after a training: settings that make no sense are refused first; at last the release is published."""

import math
from importlib.util import find_spec
from pathlib import Path

from dermalert.config import Config
from dermalert.data import external
from dermalert.errors import RunError, UsageError
from dermalert.publishing import models
from dermalert.release import release_folder, remeasure
from dermalert.release.summary import what_next
from dermalert.training import distributed, run_folder
from dermalert.training.run import Run


def check(config: Config) -> Config:
    """The settings, with those of the release that `weights_from` names; UsageError where one makes no sense."""
    if config.weights_from:
        config = remeasure.settings(config)
    for name in ("epochs", "patience", "batch_size", "learning_rate", "image_size"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name} {value} makes no sense: it must be above 0.")
    if config.batch_size % distributed.count():
        raise UsageError(f"--batch_size {config.batch_size} cannot be shared by {distributed.count()} processes.")
    if not 0 <= config.average < 1:
        raise UsageError(f"--average {config.average} makes no sense: it must be from 0 to below 1.")
    if not 0 <= config.seed < 2**32:
        raise UsageError(f"--seed {config.seed} makes no sense: it must be from 0 to 2**32 - 1.")
    if config.folds == 1 or config.folds < 0:
        raise UsageError(f"--folds {config.folds} makes no sense: it must be 0, for none, or 2 and more.")
    run_folder.check_name(Path(config.output_dir))
    external.check(config.external)
    if config.report_to != "none" and find_spec(config.report_to) is None:
        raise UsageError(f"--report_to {config.report_to} is not installed: pip install -e '.[tracking]'.")
    if (config.push_to_hub is None) != (config.version is None):
        raise UsageError("--push_to_hub USER/REPO and --version v1.0.0 (the release's tag) need each other.")
    if config.accept_regression is not None and config.push_to_hub is None:
        raise UsageError("--accept_regression is said of a release that is published: add --push_to_hub and --version.")
    models.check_reason(config.accept_regression)
    return config


def can_publish(config: Config) -> bool:
    """Refuse, before the work is done, a release that could not be published; whether the repository exists."""
    repo_id, version = config.push_to_hub, config.version
    if not repo_id:
        return False
    assert version is not None  # `check` refuses one without the other
    return distributed.broadcast_from_main(lambda: models.check_can_publish(repo_id, version))


def deliver(run: Run, *, must_exist: bool) -> dict:
    """Publish the release in a run's folder if that is asked for, and print what it is worth; its `metrics.json`.

    Raises:
        RunError: the release is refused, the Hub cannot be reached, or a branch lacks the last checkpoint.
    """
    config, release = run.config, run.folder / "release"
    if behind := run.finish():
        print(behind)  # here too, because the release may be refused
    if config.push_to_hub:
        assert config.version is not None  # `check` refuses one without the other
        accept = config.accept_regression
        print(models.publish(release, config.push_to_hub, config.version, accept=accept, must_exist=must_exist))
    metrics = release_folder.read_metrics(release)
    print(what_next(release, metrics))
    if behind:
        raise RunError(behind)
    return metrics
