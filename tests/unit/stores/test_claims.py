"""Tentative claims: bounded, and swept without looking at those that live."""

from rdpbalancer.model import Key, Method
from rdpbalancer.stores.claims import Claims

ANNA = Key(Method.RDP_COOKIE, "anna")
BERT = Key(Method.RDP_COOKIE, "bert")
CORA = Key(Method.RDP_COOKIE, "cora")


def test_what_has_run_out_gives_way_before_what_lives() -> None:
    """A full table of dead claims drops no living one."""
    claims = Claims(2)
    claims.put(ANNA, "ts1", now=0, hold_s=10)
    claims.put(BERT, "ts1", now=5, hold_s=10)
    claims.put(CORA, "ts1", now=10, hold_s=10)
    assert [BERT, CORA] == list(claims)


def test_a_claim_that_is_made_anew_counts_as_new() -> None:
    """The oldest is the one made longest ago, not the one whose key was seen first."""
    claims = Claims(2)
    for key in (ANNA, BERT, ANNA, CORA):
        claims.put(key, "ts1", now=0, hold_s=10)
    assert [ANNA, CORA] == list(claims)


def test_a_shorter_hold_ends_in_time_though_it_lies_behind_a_longer_one() -> None:
    """After a reload with shorter timeouts, claims still end when they should."""
    claims = Claims(10)
    claims.put(ANNA, "ts1", now=0, hold_s=60)
    claims.put(BERT, "ts1", now=0, hold_s=5)
    claims.expire(now=5)
    assert None is claims.get(BERT, now=5)
    assert claims.get(ANNA, now=5) is not None
    claims.expire(now=60)
    assert not claims


def test_releasing_what_has_run_out_does_nothing() -> None:
    """A late release cannot end a claim that was made since."""
    claims = Claims(10)
    claims.put(ANNA, "ts1", now=0, hold_s=5)
    claims.release(ANNA, "ts1", now=6)
    claims.put(ANNA, "ts2", now=6, hold_s=5)
    claims.release(ANNA, "ts1", now=7)
    claim = claims.get(ANNA, now=7)
    assert claim is not None
    assert "ts2" == claim.server
