"""The lease of a run's folder in a store: one run has it, whatever the network and the clocks do."""

import json

import pytest
from stores import Clock, Memory

from raysearch.errors import ConfigError, StoreError
from raysearch.remote.lease import LASTS, LEASE, Lease, going
from raysearch.remote.store import Missing, Taken


def leases(store, clock, *names):
    return [Lease(store, n, f"host-{n}", wall=clock, pause=clock.pass_by) for n in names]


def quiet(line):
    raise AssertionError(line)


def test_one_run_has_it_until_it_is_released():
    store, clock = Memory(), Clock()
    a, b = leases(store, clock, "a", "b")
    assert not going(store, wall=clock)
    a.claim(quiet)
    assert going(store, wall=clock)
    with pytest.raises(ConfigError, match=r"no other run is writing to now \(a run on host-a has its lease for 60 s"):
        b.claim(quiet)
    a.release()
    assert not going(store, wall=clock)
    b.claim(quiet)
    with pytest.raises(Taken):
        a.renew()


def test_a_renewed_lease_does_not_run_out_and_another_does():
    store, clock = Memory(), Clock()
    a, b = leases(store, clock, "a", "b")
    a.claim(quiet)
    for _ in range(10):
        clock.pass_by(LASTS / 2)
        a.renew()
        with pytest.raises(ConfigError):
            b.claim(quiet)
    clock.pass_by(LASTS + 1)
    b.claim(quiet)
    with pytest.raises(Taken, match="a run on host-b has taken over its lease"):
        a.renew()
    with pytest.raises(Taken):
        a.release()
    b.renew()


def test_of_two_that_take_over_at_once_one_does():
    """Both have read the lease that ran out when the first of them writes."""
    store, clock = Memory(), Clock()
    a, b, c = leases(store, clock, "a", "b", "c")
    a.claim(quiet)
    clock.pass_by(LASTS + 1)

    def fault(call, name):
        if call == "put_if":
            store.fault = lambda call, name: None
            c.claim(quiet)

    store.fault = fault
    with pytest.raises(ConfigError, match="host-c"):
        b.claim(quiet)
    c.renew()


def test_an_answer_that_is_lost_loses_no_lease():
    store, clock = Memory(), Clock()
    (a,) = leases(store, clock, "a")
    a.claim(quiet)
    store.fault = lambda call, name: "lost" if call == "put_if" else None
    with pytest.raises(StoreError):
        a.renew()
    store.fault = lambda call, name: None
    a.renew()
    a.release()


def test_a_claim_of_which_no_answer_came_can_be_made_again():
    store, clock = Memory(), Clock()
    a, b = leases(store, clock, "a", "b")
    store.fault = lambda call, name: "lost" if call == "put_if" else None
    with pytest.raises(StoreError):
        a.claim(quiet, patient=True)
    store.fault = lambda call, name: None
    a.claim(quiet, patient=True)
    with pytest.raises(ConfigError, match="host-a"):
        b.claim(quiet)


@pytest.mark.parametrize("error", [Taken, Missing])
def test_a_lease_that_was_deleted_is_lost(error):
    """S3 says of a condition on a file that is gone that the file is missing."""
    store, clock = Memory(), Clock()
    (a,) = leases(store, clock, "a")
    a.claim(quiet)
    store.delete(LEASE)

    def fault(call, name):
        if call == "put_if":
            raise error("gone")

    store.fault = fault
    with pytest.raises(Taken, match=r"^its lease\.json is no longer there$"):
        a.renew()


def test_it_is_certain_only_while_the_last_answer_says_so():
    store, clock = Memory(), Clock()
    (a,) = leases(store, clock, "a")
    assert not a.certain
    a.claim(quiet)
    clock.pass_by(LASTS - 1)
    assert a.certain
    store.fault = lambda call, name: "fail"
    with pytest.raises(StoreError):
        a.renew()
    clock.pass_by(1)
    assert not a.certain
    store.fault = lambda call, name: None
    a.renew()
    assert a.certain
    a.release()
    assert not a.certain


def test_a_lease_of_a_clock_far_ahead_is_not_waited_for():
    """It would run out in hours: the machine's clock is wrong, and a user has to look."""
    store, clock = Memory(), Clock()
    for ahead, waits in ((0, True), (1, False)):
        expires = clock() + LASTS + ahead
        store.put(LEASE, json.dumps({"owner": "c", "host": "host-c", "expires": expires}).encode())
        (b,) = leases(store, clock, f"b{ahead}")
        said = []
        if waits:
            b.claim(said.append, patient=True)
        else:
            with pytest.raises(ConfigError, match="host-c has its lease for 61 s more"):
                b.claim(said.append, patient=True)
        assert bool(said) is waits


def test_a_dead_process_of_this_stage_is_not_waited_for():
    store, clock = Memory(), Clock()
    a, b = leases(store, clock, "a", "b")
    a.claim(quiet)
    b.claim(quiet, before="a", patient=True)
    with pytest.raises(Taken):
        a.renew()


def test_a_run_that_goes_on_waits_until_a_dead_ones_lease_runs_out():
    store, clock = Memory(), Clock()
    a, b = leases(store, clock, "a", "b")
    a.claim(quiet)
    clock.pass_by(20)
    said, began = [], clock()
    b.claim(said.append, patient=True)
    assert said == ["a run on host-a holds the lease; waiting at most 60 s for it to run out"]
    assert clock() - began == pytest.approx(40, abs=1.5)


def test_a_run_that_goes_on_does_not_wait_for_a_live_one():
    store, clock = Memory(), Clock()
    (a,) = leases(store, clock, "a")

    def pause(seconds):
        clock.pass_by(seconds)
        if clock() > 1015:
            a.renew()

    a.claim(quiet)
    with pytest.raises(ConfigError, match="host-a"):
        Lease(store, "b", "host-b", wall=clock, pause=pause).claim(lambda line: None, patient=True)
    assert clock() < 1020


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b'{"owner": 1, "host": 2, "expires": "soon"}'])
def test_what_is_no_lease_belongs_to_nobody(content):
    store, clock = Memory(), Clock()
    store.put(LEASE, content)
    (a,) = leases(store, clock, "a")
    assert not going(store, wall=clock)
    a.claim(quiet)
    assert json.loads(store.content(LEASE)) == {"owner": "a", "host": "host-a", "expires": clock() + LASTS}


def test_a_server_that_ignores_conditions_is_found_out():
    store, clock = Memory(), Clock()
    store.heeds = False
    a, b = leases(store, clock, "a", "b")
    a.claim(quiet)
    assert not store.conditional
    a.renew()
    with pytest.raises(ConfigError, match="host-a"):
        b.claim(quiet)
    clock.pass_by(LASTS + 1)
    b.claim(quiet)
    with pytest.raises(Taken, match="host-b"):
        a.renew()
    heedful = Memory()
    leases(heedful, clock, "a")[0].claim(quiet)
    assert heedful.conditional
