"""The health word, which `status`, `/readyz` and whoever watches them share."""

import pytest

from rdpbalancer.core.readiness import HealthWord, health_word


@pytest.mark.parametrize(
    ("usable", "service", "expected"),
    [
        ({"desktops": 2}, None, HealthWord.OK),
        ({"desktops": 0}, None, HealthWord.NO_SERVERS),
        ({"desktops": 0, "gateway": 1}, None, HealthWord.OK),
        ({"desktops": 0, "gateway": 0}, None, HealthWord.NO_SERVERS),
        ({"desktops": 0, "gateway": 1}, "desktops", HealthWord.NO_SERVERS),
        ({"desktops": 0, "gateway": 1}, "gateway", HealthWord.OK),
        ({"desktops": 1}, "desktop", HealthWord.UNKNOWN_SERVICE),
        ({"desktops": 1}, "", HealthWord.UNKNOWN_SERVICE),
    ],
)
def test_what_matters_is_a_server_for_a_new_user(
    usable: dict[str, int], service: str | None, expected: HealthWord
) -> None:
    """Of one service, or of any if nobody says which; a service that is not there is never `ok`."""
    assert expected == health_word(usable, accepting=True, stopping=False, service=service)


@pytest.mark.parametrize("usable", [0, 3])
def test_before_and_after_no_server_counts(usable: int) -> None:
    """A balancer that does not listen yet, or no more, sends nobody anywhere; stopping is the last word."""
    services = {"desktops": usable}
    for service in (None, "desktops"):
        starting = health_word(services, accepting=False, stopping=False, service=service)
        assert HealthWord.STARTING == starting
        for accepting in (True, False):
            stopping = health_word(services, accepting=accepting, stopping=True, service=service)
            assert HealthWord.STOPPING == stopping
