import types
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from support.hub_server import Fault

from dermalert.errors import RunError
from dermalert.hub import retries


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that were waited."""
    found = []
    monkeypatch.setattr(retries, "time", types.SimpleNamespace(sleep=found.append))
    return found


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, "drop"])
def test_a_failure_that_may_pass_is_waited_out_ever_longer(status, hub, waits):
    hub.faults.append(Fault("GET", "whoami", status, times=5))
    assert retries.with_retries(HfApi().whoami)["name"] == "tester"
    assert waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("status", [500, "drop"])
def test_a_failure_that_stays_is_raised_in_the_end(status, hub, waits):
    hub.faults.append(Fault("GET", "whoami", status, times=100))
    with pytest.raises(Exception, match=r"500|disconnected") as failed:
        retries.with_retries(HfApi().whoami)
    assert retries.status(failed.value) == (None if status == "drop" else 500)
    assert len(waits) == 5
    assert len(hub.requests) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422])
def test_what_is_refused_is_not_asked_again(status, hub, waits):
    hub.faults.append(Fault("GET", "/refs", status))
    hub.create("tester/derm")
    with pytest.raises(HfHubHTTPError):
        retries.with_retries(HfApi().list_repo_refs, "tester/derm")
    assert waits == []
    assert len(hub.requests) == 1


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("off"), FileNotFoundError("gone"), RuntimeError("broken")])
def test_what_is_no_failure_of_the_hub_is_not_asked_again(error, waits):
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        retries.with_retries(fail)
    assert waits == []


def test_a_failure_that_the_client_has_wrapped_is_asked_again(hub, waits):
    calls = []

    def upload() -> str:
        calls.append(1)
        try:
            return HfApi().whoami()["name"]
        except HfHubHTTPError as error:
            raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.") from error

    hub.faults.append(Fault("GET", "whoami", 503))
    assert retries.with_retries(upload) == "tester"
    assert len(calls) == 2
    assert waits == [1]


ASKED = {
    "seconds": ({"Retry-After": "30"}, 30),
    "seconds and a space": ({"Retry-After": " 30 "}, 30),
    "less than it would wait anyway": ({"Retry-After": "0"}, 1),
    "a limit that is used up": ({"RateLimit": '"api";r=0;t=55'}, 55),
    "the longer of both": ({"RateLimit": '"api";r=0;t=55', "Retry-After": "60"}, 60),
    "a limit that is not used up": ({"RateLimit": '"api";r=10;t=55'}, 1),
    "nonsense": ({"Retry-After": "soon"}, 1),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("case", ASKED)
def test_the_hub_is_left_alone_for_as_long_as_it_asks(case, status, hub, waits):
    headers, seconds = ASKED[case]
    hub.faults.append(Fault("GET", "whoami", status, headers=headers))
    retries.with_retries(HfApi().whoami)
    assert waits == [seconds]


def test_the_hub_may_name_a_time(hub, waits):
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    hub.faults.append(Fault("GET", "whoami", 503, headers={"Retry-After": until}))
    retries.with_retries(HfApi().whoami)
    assert 90 < waits[0] <= 100


def test_who_is_asked_to_wait_for_long_is_told(hub, waits):
    hub.faults.append(Fault("GET", "whoami", 429, headers={"Retry-After": "3600"}))
    with pytest.raises(RunError, match="the Hub asks to wait for 3,600 seconds: run the same command again then"):
        retries.with_retries(HfApi().whoami)
    assert waits == []


def test_a_wait_is_said_without_the_token(hub, waits, capsys):
    hub.faults.append(Fault("GET", "whoami", 429, headers={"Retry-After": "7"}))
    retries.with_retries(HfApi().whoami)
    assert capsys.readouterr().err == "The Hub answers 429: asking again in 7 s.\n"
    assert waits == [7]
