import pytest

from raysearch.engine.scheduler import ReplicaSlots, Scheduler, Work


def place(replicas: str, work: str) -> str:
    """Replicas "id:node:slots:busy[:ahead] ..." and works "id:age:place[:alone]" -> "id>replica ..." in order."""
    scheduler = Scheduler()
    places = {"": ""}
    for s in replicas.split():
        name, node, slots, busy, *ahead = s.split(":")
        places[name] = f"{name}@{node}"
        scheduler.open(ReplicaSlots(name, "denoiser", node, int(slots), int(busy), int(*ahead)))
    for w in work.split():
        i, age, home, *alone = w.split(":")
        scheduler.add(Work(int(i), "denoiser", int(age), places[home], bool(alone)))
    return " ".join(f"{w.id}>{replica.id}" for w, replica in scheduler.assign())


@pytest.mark.parametrize(
    ("replicas", "work", "expected"),
    [
        ("a:n:1:0", "", ""),
        ("a:n:0:0", "1:0:", ""),
        ("a:n:1:0", "1:0:", "1>a"),
        ("a:n:2:0", "1:5: 2:3: 3:4:", "2>a 3>a"),  # the oldest search first, whatever came first
        ("a:n:2:0", "2:3: 1:3:", "1>a 2>a"),  # within a search, in the order asked
        ("a:n:1:0 b:n:1:0", "1:0:b", "1>b"),  # where its input was made
        ("a:m:1:0 b:n:1:1 c:n:1:0", "1:0:b", "1>c"),  # else on the node of its input
        ("a:m:2:0 b:n:1:1", "1:0:b", "1>a"),  # never idle while work waits
        ("a:n:4:3 b:n:4:1", "1:0:", "1>b"),  # else the emptiest
        ("a:n:1:0 b:n:1:0", "1:1:a 2:0:a", "2>a 1>b"),  # age before locality
        ("a:n:2:0", "1:5::alone 2:3:", "1>a"),  # alone means alone
        ("a:n:2:1", "1:5::alone 2:3:", ""),  # and the emptiest replica is kept free for it
        ("a:n:1:1:1", "1:0: 2:1:", "1>a"),  # no slot is free: one may wait at the replica
        ("a:n:1:1:1 b:n:1:0:1", "1:0:a 2:1:a 3:2:a", "1>b 2>a"),  # free slots first
        ("a:n:1:1:1 b:n:1:1:1", "1:0:", ""),  # another replica may be free before this one
        ("a:n:1:1:1 b:n:1:1:1", "1:0:b 2:1:a 3:2:a", "1>b 2>a"),
        ("a:n:2:1:1", "1:5::alone 2:3: 3:3: 4:3:", ""),  # kept free of those, too
        ("a:n:2:1 b:n:2:0", "1:5::alone 2:3:", "1>b 2>a"),
        ("a:n:1:1 b:n:2:1", "1:5::alone 2:6::alone 3:7:", ""),
    ],
)
def test_table(replicas, work, expected):
    assert place(replicas, work) == expected


def test_what_was_made_before_its_maker_moved_is_on_the_old_node():
    scheduler = Scheduler([old := ReplicaSlots("a", "denoiser", "m", 1), ReplicaSlots("b", "denoiser", "m", 1, busy=1)])
    scheduler.shut(old)
    scheduler.open(ReplicaSlots("a", "denoiser", "n", 1))
    scheduler.open(ReplicaSlots("c", "denoiser", "m", 1))
    scheduler.add(Work(1, "denoiser", 0, old.place))
    scheduler.add(Work(2, "denoiser", 1, "a@n"))
    assert [(w.id, s.id) for w, s in scheduler.assign()] == [(1, "c"), (2, "a")]


def test_an_item_alone_gets_its_replica_when_it_empties_and_gives_it_back():
    scheduler = Scheduler([replica := ReplicaSlots("a", "denoiser", "n", 2, busy=1)])
    scheduler.add(Work(1, "denoiser", 0, alone=True))
    scheduler.add(Work(2, "denoiser", 0))
    assert list(scheduler.assign()) == []
    scheduler.release(replica)
    assert [w.id for w, _ in scheduler.assign()] == [1]
    scheduler.release(replica)
    assert [w.id for w, _ in scheduler.assign()] == [2]


def test_an_item_alone_takes_another_replica_that_empties_first_and_frees_the_one_kept_for_it():
    scheduler = Scheduler(
        [kept := ReplicaSlots("a", "denoiser", "n", 3, busy=1), other := ReplicaSlots("b", "denoiser", "n", 3, busy=2)]
    )
    scheduler.add(Work(1, "denoiser", 0, alone=True))
    scheduler.add(Work(2, "denoiser", 0))
    assert [(w.id, s.id) for w, s in scheduler.assign()] == [(2, "b")]  # a is kept
    for _ in range(3):
        scheduler.release(other)
    scheduler.add(Work(3, "denoiser", 0))
    assert [(w.id, s.id) for w, s in scheduler.assign()] == [(1, "b"), (3, "a")]
    assert kept.busy == 2


def test_a_cancelled_item_alone_lets_go_of_the_replica_kept_for_it():
    scheduler = Scheduler([ReplicaSlots("a", "denoiser", "n", 2, busy=1)])
    scheduler.add(Work(1, "denoiser", 0, alone=True))
    assert list(scheduler.assign()) == []
    assert scheduler.remove(1)
    scheduler.add(Work(2, "denoiser", 0))
    assert [w.id for w, _ in scheduler.assign()] == [2]


def test_kinds_do_not_mix_and_a_seat_out_of_service_takes_nothing():
    scheduler = Scheduler([ReplicaSlots("s", "scorer", "n", 1), gone := ReplicaSlots("d", "denoiser", "n", 1)])
    assert scheduler.shut(gone)
    assert not scheduler.shut(gone)
    scheduler.add(Work(1, "denoiser", 0))
    scheduler.add(Work(2, "scorer", 1))
    assert [(w.id, s.id) for w, s in scheduler.assign()] == [(2, "s")]
    scheduler.release(gone)  # a late release of a dead replica changes nothing
    assert list(scheduler.assign()) == []
    assert scheduler.depth() == {"denoiser": 1}
    assert not scheduler.remove(2)


def test_a_late_release_of_a_dead_seat_does_not_free_the_new_one():
    scheduler = Scheduler([old := ReplicaSlots("a", "denoiser", "n", 1, busy=1)])
    scheduler.shut(old)
    scheduler.open(ReplicaSlots("a", "denoiser", "n", 1, busy=1))
    scheduler.release(old)
    scheduler.add(Work(1, "denoiser", 0))
    assert list(scheduler.assign()) == []


def test_a_cancelled_item_is_not_counted_among_those_that_wait():
    scheduler = Scheduler([ReplicaSlots("a", "denoiser", "n", 2, busy=2, ahead=1)])
    for i in range(2):
        scheduler.add(Work(i, "denoiser", 0))
    scheduler.remove(0)
    assert list(scheduler.assign()) == []
    scheduler.add(Work(2, "denoiser", 0))
    assert [w.id for w, _ in scheduler.assign()] == [1]


def test_after_a_death_as_many_must_wait_before_one_goes_ahead_as_before():
    scheduler = Scheduler([old := ReplicaSlots("a", "denoiser", "n", 2, busy=2, ahead=1)])
    scheduler.shut(old)
    scheduler.open(ReplicaSlots("a", "denoiser", "n", 2, busy=2, ahead=1))
    for i in range(2):
        scheduler.add(Work(i, "denoiser", 0))
    assert [w.id for w, _ in scheduler.assign()] == [0]


def test_a_seat_shrinks_to_one_item_fewer_than_it_had_when_memory_ran_out():
    scheduler = Scheduler([replica := ReplicaSlots("a", "denoiser", "n", 8, busy=3)])
    assert (scheduler.shrink(replica), replica.slots) == (6, 2)
    replica.busy = 1
    assert (scheduler.shrink(replica), replica.slots) == (1, 1)


def test_what_is_ahead_of_a_replica_that_dies_leaves_no_trace():
    scheduler = Scheduler([old := ReplicaSlots("a", "denoiser", "n", 1, ahead=1)])
    for i in range(3):
        scheduler.add(Work(i, "denoiser", 0))
    assert [w.id for w, _ in scheduler.assign()] == [0, 1]
    scheduler.shut(old)
    scheduler.release(old)
    scheduler.release(old)
    assert list(scheduler.assign()) == []
    scheduler.open(ReplicaSlots("a", "denoiser", "n", 1, ahead=1))
    assert [w.id for w, _ in scheduler.assign()] == [2]


@pytest.mark.parametrize(
    ("guesses", "work", "expected"),
    [
        ("a:1,5 b:2,3", "", "b"),  # the best of a is better than the best of b
        ("a:2,3 b:1,5", "", "a"),
        ("a:1,5 b:2,3", "a", "b"),  # wherever its input was made
        ("a:1 b:", "a", "b"),  # none leaves while a replica has none
        ("a:1,5 b:2", ":alone", "b"),  # alone: the fewest leave
        ("a:2 b:1,5", ":alone", "a"),
        ("a:1 b:", ":alone", "b"),
    ],
)
def test_the_guesses_that_make_room(guesses, work, expected):
    """Replicas "id:orders of guesses ..." and an item "place[:alone]" -> the replica that it goes to."""
    scheduler = Scheduler()
    for s in guesses.split():
        name, _, given = s.partition(":")
        orders = {i: (float(order),) for i, order in enumerate(given.split(",")) if order}
        scheduler.open(ReplicaSlots(name, "denoiser", "n", 2, guesses=orders))
        scheduler.guessing += len(orders)
    home, *alone = work.split(":")
    scheduler.add(Work(9, "denoiser", 0, f"{home}@n" if home else "", bool(alone)))
    assert [replica.id for _, replica in scheduler.assign()] == [expected]
