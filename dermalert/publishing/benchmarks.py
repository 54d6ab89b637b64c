"""A benchmark as a data set of the Hub, and a model's scores on one as a pull request to the model's repository."""

import datetime
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from dermalert_space import files
from dermalert_space.contract import CARD, HubName, Json
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCardData, HfApi, hf_hub_download
from huggingface_hub.utils import filter_repo_objects

from dermalert.benchmark import results
from dermalert.benchmark.grade import BenchmarkReport
from dermalert.benchmark.manifest import ASIDE, ERRATA, FEWEST, INFO, OTHERS, TEST, WORST, Benchmark
from dermalert.data import provenance
from dermalert.errors import RunError, UsageError
from dermalert.hub import client
from dermalert.hub.retries import with_retries
from dermalert.release import card

_DESCRIPTION = (
    "Measured by `dermalert evaluate MODEL --benchmark REPO --submit`. The notes of each score have its interval, "
    "coverage and contamination."
)
_TEMPLATE = Path(__file__).with_name("benchmark_card.md")
_EVAL = "eval.yaml"
_OURS = [CARD, INFO, _EVAL, ERRATA, "data/*.parquet"]


def contents(benchmark: Benchmark) -> dict[str, bytes]:
    """The files of a benchmark by name, its card and what makes the Hub take it for one included."""
    parts = benchmark.files()
    texts = {CARD: _card(benchmark, parts.keys()), _EVAL: _eval_yaml(benchmark)}
    return parts | {name: text.encode() for name, text in texts.items()}


def check_new(folder: Path) -> None:
    """Refuse, before the work is done, a folder that is there already."""
    if folder.exists():
        raise UsageError(f"--output '{folder}' is there already: name a new folder.")


def write(benchmark: Benchmark, folder: Path) -> None:
    """Write the files of a benchmark into a new folder, which is there whole or not at all."""
    files.write_folder(folder, contents(benchmark))


def publish(benchmark: Benchmark, *, public: bool, must_exist: bool = False) -> bool:
    """Publish a benchmark by one commit; True if anything there has changed.

    Called again after any failure it finishes the job. What the repository then holds is compared with what was sent.

    Args:
        benchmark: to publish under its `repo_id`.
        public: whether everybody sees a repository that is made.
        must_exist: the repository has been there since the command began, and is not made.

    Raises:
        RunError: it failed on the way, somebody else was first, or the repository has vanished.
    """
    repo_id, ours = benchmark.repo_id, contents(benchmark)
    with client.on_the_hub(f"publishing {repo_id}"):
        api = HfApi()
        if not must_exist:
            with_retries(api.create_repo, repo_id, repo_type="dataset", private=not public, exist_ok=True)
        before = with_retries(api.dataset_info, repo_id)
        old = [file.rfilename for file in before.siblings or ()]
        stale = [name for name in filter_repo_objects(old, allow_patterns=_OURS) if name not in ours]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, data) for name, data in ours.items()
        ]
        operations += [CommitOperationDelete(name) for name in stale]
        message = f"{len(benchmark.rows)} images of {len(benchmark.clinics)} clinics and others"
        commit = api.create_commit(
            repo_id, operations, commit_message=message, repo_type="dataset", parent_commit=before.sha
        )
        there = client.content(api, repo_id, commit.oid, belongs=ours.__contains__, repo_type="dataset")
    if wrong := client.differing(there, {name: client.ids(data) for name, data in ours.items()}):
        raise RunError(f"{repo_id} does not hold what was sent ({wrong[0]}): run the same command again.")
    return commit.oid != before.sha


def _eval_yaml(benchmark: Benchmark) -> str:
    """What makes the Hub take a data set for a benchmark."""
    names = ", ".join(benchmark.clinics)
    content = {
        "name": benchmark.repo_id.split("/")[-1],
        "description": f"Melanoma in dermoscopic images of {len(benchmark.clinics)} clinics ({names}), by AUROC. No "
        "tested lesion, and no copy of one that was found, is among the training images. The worst clinic counts.",
        "evaluation_framework": "dermalert",
        "tasks": [
            {"id": WORST, "config": "default", "split": TEST},
            *({"id": task, "config": task, "split": TEST} for task in benchmark.tasks),
        ],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _card(benchmark: Benchmark, names: Collection[str]) -> str:
    info = benchmark.info()
    counts = Counter(zip(*(benchmark.rows[name].to_pylist() for name in ("clinic", "license")), strict=True))
    credits = {name: terms.credit for name, _ in counts if (terms := provenance.terms(name))}
    return card.render(
        _TEMPLATE,
        metadata=_metadata(benchmark, info, names).to_yaml(),
        sources=[
            (*source, n, credits.get(source[0], "as the source asks for it")) for source, n in counts.most_common()
        ],
        fewest=FEWEST,
        **info,
    )


def _metadata(benchmark: Benchmark, info: Json, names: Collection[str]) -> DatasetCardData:
    parts = sorted({row["split"] for row in benchmark.rows.select(["split"]).to_pylist()} - {ASIDE})
    configs = {"default": {split: f"data/*-{split}.parquet" for split in parts}}
    for task in [*benchmark.tasks, OTHERS]:
        held = [s for s in parts if f"data/{task}-{s}.parquet" in names]
        configs |= {task: {split: f"data/{task}-{split}.parquet" for split in held}} if held else {}
    metadata = DatasetCardData(
        license=info["license"],
        task_categories=["image-classification"],
        pretty_name=benchmark.repo_id.split("/")[1],
        tags=["dermatology", "dermoscopy", "melanoma", "skin-lesion", "benchmark", "dermalert"],
    )
    metadata["configs"] = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in paths.items()]}
        for name, paths in configs.items()
    ]
    return metadata


# Scores.


def check_can_submit(model: str, benchmark: Benchmark) -> None:
    """Refuse, before the work is done, scores that could not be submitted.

    Raises:
        UsageError: the model or the benchmark is not on the Hub, or there is no token.
    """
    if Path(model).exists():
        raise UsageError(f"--submit opens a pull request on a model of the Hub, and '{model}' is a folder: publish it.")
    if benchmark.revision is None:
        raise UsageError("--submit needs a benchmark that others can read: name one of the Hub, USER/REPO.")
    client.check_repo(HubName.parse(model).repo)


def submit(report: BenchmarkReport, model: str, date: datetime.date) -> str:
    """Open a pull request with a model's scores on its repository, or bring up to date the one that is open.

    Args:
        report: whose whole scores are submitted.
        model: repository of the Hub.
        date: of the measurement.

    Returns:
        A sentence with the address.

    Raises:
        UsageError: no score is whole, or the benchmark or the model is not on the Hub.
        RunError: it failed on the way.
    """
    entries = results.entries(report, date, whole=True)
    name, data = results.file_name(report), results.as_yaml(entries).encode()
    title = f"Scores on {report.benchmark} at {str(report.revision)[:7]}"
    with client.on_the_hub(f"submitting scores to {model}"):
        api = HfApi()
        user = with_retries(api.whoami)["name"]
        pulls = with_retries(lambda: list(api.get_repo_discussions(model, discussion_type="pull_request")))
        ours = [each for each in pulls if (each.title, each.author, each.status) == (title, user, "open")]
        where: dict[str, Any] = {"revision": f"refs/pr/{ours[0].num}"} if ours else {"create_pr": True}
        commit = api.create_commit(
            model, [CommitOperationAdd(name, data)], commit_message=title, commit_description=_DESCRIPTION, **where
        )
        revision = commit.pr_revision or where.get("revision") or "main"
        sent = Path(with_retries(hf_hub_download, model, name, revision=revision)).read_bytes()
    if sent != data:
        raise RunError(f"{model} does not hold what was sent at {revision}: run the same command again.")
    return f"{len(entries)} scores are at {commit.pr_url or f'{revision} of {model}'}."
