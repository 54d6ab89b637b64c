import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dermalert_space import abstention, batch, tables
from dermalert_space.prediction import Prediction
from dermalert_space.release import Release
from scipy import stats
from support.releases import LABELS, make_release
from typer.testing import CliRunner

from dermalert.cli import app
from dermalert.errors import UsageError
from dermalert.evaluation import drift, triage_tables
from dermalert.evaluation.triage_tables import Batch

SENTENCES = {name: text.format(value=12.0, threshold=80.0) for name, text in abstention.REASONS.items()}


def simulated(n: int, rng: np.random.Generator, *, alert: float = 0.2, shift: float = 0.0) -> Batch:
    states = rng.choice(
        ["melanoma_alert", "malignant_likely", "none", "unreadable"], n, p=[alert, 0.1, 0.88 - alert, 0.02]
    )
    reasons = Counter(rng.choice([*abstention.REASONS, ""], n, p=[0.01] * 5 + [0.95]))
    del reasons[""]
    return Batch(name="new", files=n, states=Counter(states), reasons=reasons, scores=rng.beta(1, 6, n) + shift)


def chance_of_alarm(rate: float, new_rate: float, n: int, new: int, share: float) -> float:
    """The exact probability that a rate is out of its limits, over all references and batches."""
    total = 0.0
    for hits in range(n + 1):
        low, high = drift.rate_limits(hits, n, new, share)
        inside = stats.binom.cdf(high, new, new_rate) - stats.binom.cdf(low - 1, new, new_rate)
        total += stats.binom.pmf(hits, n, rate) * (1 - inside)
    return total


def of_kind(period: drift.Period, kind: str) -> drift.Statistic:
    return next(statistic for statistic in period.statistics if statistic.kind == kind)


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.9])
def test_a_rate_that_has_not_changed_is_out_of_limits_as_seldom_as_stated(rate):
    assert chance_of_alarm(rate, rate, 60, 25, 0.05) <= 0.05


def test_a_rate_that_has_doubled_is_out_of_limits_more_often_the_more_images_there_are():
    few, many = (chance_of_alarm(0.2, 0.4, 150, new, 0.001) for new in (30, 120))
    assert few < 0.2 < 0.5 < many


def test_the_limits_are_those_of_fishers_exact_test():
    low, high = drift.rate_limits(30, 100, 50, 0.05)
    for count in range(51):
        table = [[30, 70], [count, 50 - count]]
        p = min(stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater"))
        assert (low <= count <= high) == (p > 0.025)


@pytest.mark.parametrize(("n", "new"), [(8, 5), (60, 20)])
def test_scores_that_have_not_changed_are_out_of_limits_as_seldom_as_stated(n, new):
    rng, limit = np.random.default_rng(0), drift.distance_limit(n, new, 0.05)
    distances = [stats.ks_2samp(rng.random(n), rng.random(new), method="asymp").statistic for _ in range(300)]
    assert np.mean(np.array(distances) > limit) <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_any_of_all_statistics_is_out_as_seldom_as_stated():
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(50):
        alarms += bool(drift.compare(simulated(100, rng), simulated(30, rng), false_alarms=0.1).out)
    assert alarms <= stats.binom.ppf(0.99, 50, 0.1)


def test_a_doubled_alert_rate_and_moved_scores_are_seen_and_nothing_else():
    rng = np.random.default_rng(1)
    period = drift.compare(simulated(1000, rng), simulated(300, rng, alert=0.4, shift=0.1))
    assert [statistic.kind for statistic in period.out] == ["alert", "score"]
    assert of_kind(period, "score").higher > 0.6


def test_of_no_images_nothing_is_out_of_limits():
    rng, none = (
        np.random.default_rng(0),
        Batch(name="none", files=2, states=Counter(unreadable=2), reasons=Counter(), scores=np.array([])),
    )
    for pair in ((simulated(100, rng), none), (none, simulated(100, rng))):
        period = drift.compare(*pair)
        assert {statistic.kind for statistic in period.out} <= {"unreadable"}
        assert of_kind(period, "score").value is None


# Tables


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Release:
    return Release.load(make_release(tmp_path_factory.mktemp("release") / "ours", attention=0.2))


def row(number: int, state: str, score: float, reason: str | None = None) -> batch.Row:
    probabilities = dict.fromkeys(LABELS, 0.0) | {"melanoma": score, "nevus": 1 - score}
    prediction = Prediction(
        state=state,
        alert=state == "melanoma_alert",
        abstained=reason,
        sentence="",
        probabilities=probabilities,
        malignant=None,
        attention=score,
        urgency=None,
    )
    return batch.Row(file=f"{number}.png", prediction=prediction, watched=score, problem=None)


def table(path: Path, release: Release, *, alerts: int, others: int = 60, date: str | None = None) -> Path:
    rows = [row(i, "melanoma_alert", 0.3 + i / 1000) for i in range(alerts)]
    rows += [row(i, "none", i / 1000) for i in range(others)]
    rows += [row(0, "cannot_assess", 0.01, reason) for reason in SENTENCES.values()]
    rows.append(batch.Row(file="letter.txt", prediction=None, watched=None, problem="no image."))
    text = tables.as_csv(rows, release)
    if date:
        head, *lines = text.splitlines()
        text = "\n".join([f"{head},date", *(f"{line},{date}" for line in lines)])
    path.write_text(text)
    return path


def run(*words):
    return CliRunner().invoke(app, ["drift", *map(str, words)])


@pytest.mark.integration
def test_a_table_of_triage_is_read_as_it_was_written(release, tmp_path):
    served, reference, (new,) = triage_tables.read(
        table(tmp_path / "a.csv", release, alerts=20), [table(tmp_path / "b.csv", release, alerts=3, others=7)]
    )
    assert (served.release, served.label, served.alert_threshold) == ("ours", "melanoma", "0.1")
    assert (reference.files, new.files, new.read) == (86, 16, 15)
    assert new.states == {"melanoma_alert": 3, "none": 7, "cannot_assess": 5, "unreadable": 1}
    assert new.reasons == dict.fromkeys(abstention.REASONS, 1)
    assert len(new.scores) == 10 and new.scores.max() == pytest.approx(0.302)


@pytest.mark.integration
def test_the_command_reports_writes_and_fails_only_where_it_is_asked_to(release, tmp_path):
    reference = table(tmp_path / "reference.csv", release, alerts=20)
    same, other = (table(tmp_path / f"<b>{n}.csv", release, alerts=n) for n in (20, 200))
    done = run(reference, same, other, "--json", tmp_path / "a.json", "--output", tmp_path / "a.html")
    assert done.exit_code == 0, done.output
    assert "<b>200.csv': alert 0.755 of 265, outside" in done.output and "2 files beside" in done.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["out"] == {same.name: [], other.name: ["alert", "score"]}
    page = (tmp_path / "a.html").read_text()
    assert page.count('class="out"') == 2 and "<svg" in page and "&lt;b&gt;200.csv" in page
    assert "<b>" not in page and "src=" not in page and "<script" not in page and "@import" not in page
    failed = run(reference, same, other, "--fail-on", "alert", "--fail-on", "abstention")
    assert failed.exit_code == 1 and failed.output.endswith("200.csv' (--fail-on).\n")
    assert run(reference, same, "--fail-on", "any").exit_code == 0


@pytest.mark.integration
def test_weeks_are_those_of_the_column_date_across_tables(release, tmp_path):
    reference = table(tmp_path / "reference.csv", release, alerts=20)
    dated = [
        table(tmp_path / f"{i}.csv", release, alerts=2, date=date)
        for i, date in enumerate(["2026-01-01", "2025-12-31T10:00", "2026-01-08"])
    ]
    report = drift.drift(reference, dated, by_week=True)
    assert [(period.name, period.files) for period in report.periods] == [("2026-W01", 136), ("2026-W02", 68)]
    for text, sentence in (("soon", "has the date 'soon': write it as YYYY-MM-DD"), (None, "has no column 'date'")):
        path = table(tmp_path / "other.csv", release, alerts=1, date=text)
        done = run(reference, path, "--by", "week")
        assert done.exit_code == 2 and sentence in done.output


def edited(path: Path, **cells: str) -> Path:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[1] |= cells
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.integration
@pytest.mark.parametrize(
    ("cells", "code", "sentence"),
    [
        ({"tag": "v9"}, 2, "only one release, with the same thresholds, can be watched"),
        ({"release": "theirs"}, 2, "only one release"),
        ({"alert threshold": "0.5"}, 2, "alert from 0.5"),
        ({"state": "well"}, 2, "line 3 of"),
        ({"melanoma probability": "high"}, 1, "has the probability 'high'"),
    ],
)
def test_cells_that_cannot_be_compared_are_one_sentence(release, tmp_path, cells, code, sentence):
    reference = table(tmp_path / "reference.csv", release, alerts=2)
    done = run(reference, edited(table(tmp_path / "new.csv", release, alerts=2), **cells))
    assert done.exit_code == code and sentence in done.output and "Traceback" not in done.output


@pytest.mark.integration
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it lacks file, state, refused"),
        (b"a;b\n1;2\n", "it lacks file, state, refused"),
        (b"\xff\xfe\x00", "it is no CSV in UTF-8"),
        (None, "holds no files: there is nothing to compare"),
    ],
)
def test_what_is_no_table_is_one_sentence(release, tmp_path, content, sentence):
    reference, new = table(tmp_path / "reference.csv", release, alerts=2), tmp_path / "new.csv"
    new.write_bytes(reference.read_bytes().splitlines()[0] + b"\n" if content is None else content)
    for pair in ((reference, new), (new, reference)):
        done = run(*pair)
        assert done.exit_code == 2 and f"new.csv' {'is no table' if content is not None else 'holds'}" in done.output
        assert sentence in done.output
    assert run(reference, tmp_path / "nowhere.csv").exit_code == 2


def test_kinds_and_rates_that_there_are_not_are_refused():
    with pytest.raises(UsageError, match=r"--fail-on 'alerts' is no statistic\. Did you mean 'alert'"):
        drift.check(["alerts"], 0.01)
    with pytest.raises(UsageError, match="is no rate"):
        drift.check(["any"], 1.0)
