"""The mirror of a run's stage, in virtual time: what goes up when, and what a store that fails does to it."""

import shutil

import pytest
from fakes import ARMS, run
from stores import Clock, Memory, Wire

from raysearch.remote import segments
from raysearch.remote.mirror import AGAIN, GIVE_UP, MOST_BEHIND, PATIENCE, SEGMENT_S, Mirror
from raysearch.remote.segments import Sealed, name_of, numbered
from raysearch.remote.stage import MADE
from raysearch.session import journal

FEW = {"arms": ARMS[:3], "output": {"latents": True}}
LINE = b"00000000 {}\n"


class Mirrored:
    """A stage with a mirror, which a test fills."""

    def __init__(self, folder, *, takes=0.0, sealed=None, store=None, known=None):
        self.may = True
        self.clock, self.store, self.said = Clock(), store or Memory(), []
        self.wire, self.stage = Wire(self.clock, takes), folder
        (folder / "journal").mkdir(parents=True, exist_ok=True)
        self.mirror = Mirror(
            self.store,
            folder,
            sealed or Sealed(),
            known or {},
            self.wire.submit,
            self.said.append,
            may=lambda: self.may,
            clock=self.clock,
        )

    def begin(self):
        self.write("config.yaml", b"a: 1")
        self.write("journal/content.json", b"{}")
        self.answer(0)
        return self

    def write(self, name, content):
        (self.stage / name).parent.mkdir(parents=True, exist_ok=True)
        (self.stage / f"{name}.partial").write_bytes(content)
        (self.stage / f"{name}.partial").replace(self.stage / name)

    def answer(self, lines):
        with open(self.stage / "journal" / "answers.jsonl", "ab") as file:
            file.write(LINE * lines)

    def rounds(self, seconds):
        """A round each second."""
        for _ in range(int(seconds)):
            self.mirror.round()
            self.clock.pass_by(1)
            self.wire.work()
        self.mirror.round()

    def finish(self, bound=None):
        def pause(seconds):
            self.clock.pass_by(1)
            self.wire.work()

        return self.mirror.finish(bound, pause=pause)

    def sealed(self):
        """The lines of all segments in the store."""
        n = numbered(self.store.files)
        assert sorted(x for x in self.store.files if x.startswith("journal/segments/")) == [
            name_of(i) for i in range(1, n + 1)
        ]
        return b"".join(segments.opened(self.store.content(name_of(i)), i)[0] for i in range(1, n + 1))


def test_nothing_goes_up_before_the_run_has_begun(tmp_path):
    m = Mirrored(tmp_path)
    m.write("status.json", b"{}")
    m.rounds(20)
    m.answer(1)
    m.write("config.yaml", b"")  # claimed
    m.rounds(20)
    assert m.store.calls == []


def test_the_config_goes_first(tmp_path):
    m = Mirrored(tmp_path, takes=1).begin()
    m.write("videos/a.mp4", b"a")
    m.answer(3)
    m.rounds(40)
    names = [name for call, name in m.store.calls]
    assert sorted(names[:2]) == ["config.yaml", "journal/content.json"]
    assert names.index("videos/a.mp4") < names.index(name_of(1))


def test_a_segment_is_cut_after_a_while_and_written_once(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.rounds(5)
    m.answer(2)
    m.rounds(SEGMENT_S)
    assert m.sealed() == LINE * 2
    m.rounds(100)
    assert numbered(m.store.files) == 1  # nothing new, no segment
    m.answer(1)
    m.rounds(1)
    assert m.sealed() == LINE * 3
    m.answer(1)
    m.rounds(2)
    assert m.sealed() == LINE * 3  # not yet
    assert m.finish() and m.sealed() == LINE * 4
    assert [m.store.files[name_of(i)][1] for i in (1, 2, 3)] == [1, 1, 1]


def test_a_torn_line_is_not_sealed(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.answer(1)
    with open(tmp_path / "journal" / "answers.jsonl", "ab") as file:
        file.write(LINE[:5])
    m.rounds(20)
    assert m.sealed() == LINE


def test_long_journals_go_up_in_pieces_of_whole_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "MOST", 30)
    m = Mirrored(tmp_path).begin()
    m.answer(5)
    with open(tmp_path / "journal" / "answers.jsonl", "ab") as file:
        file.write(b"x" * 100 + b"\n")
    m.answer(1)
    assert m.finish() and m.sealed() == LINE * 5 + b"x" * 100 + b"\n" + LINE
    assert numbered(m.store.files) == 4


def test_what_is_written_once_goes_up_at_once_and_once(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.write("videos/a.mp4", b"a" * 100)
    m.rounds(2)
    assert m.store.content("videos/a.mp4") == b"a" * 100
    m.rounds(100)
    assert m.store.count("put", "videos/a.mp4") == 1
    assert not any(n.endswith("partial") or n == "journal/answers.jsonl" for n in m.store.files)


def test_what_changes_goes_up_now_and_then_and_at_the_end(tmp_path):
    m = Mirrored(tmp_path).begin()
    for i in range(60):
        m.write("status.json", b"%d" % i)
        m.rounds(1)
    assert 60 / AGAIN - 1 <= m.store.count("put", "status.json") <= 60 / AGAIN + 2
    m.write("status.json", b"last")
    assert m.finish() and m.store.content("status.json") == b"last"


def test_a_slow_store_is_not_filled_with_tables(tmp_path):
    m = Mirrored(tmp_path, takes=10).begin()
    for i in range(600):
        m.write("status.json", b"%d" % i)
        m.rounds(1)
    assert 2 <= m.store.count("put", "status.json") <= 4  # 20 times what sending it takes lies between two


def test_links_are_not_followed(tmp_path):
    m = Mirrored(tmp_path / "run").begin()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    (m.stage / "folder").symlink_to(tmp_path / "secret")
    (m.stage / "file").symlink_to(tmp_path / "secret" / "file")
    assert m.finish()
    assert sorted(m.store.files) == ["config.yaml", "journal/content.json"]


def test_the_run_deletes_what_it_needs_no_longer_and_nothing_else(tmp_path):
    m = Mirrored(tmp_path).begin()
    for name in ("spill/a.part", "rollouts/a.arrow", "videos/a.mp4", "wandb.jsonl"):
        m.write(name, b"a")
    m.rounds(3)
    for name in ("spill", "rollouts", "videos"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "wandb.jsonl").unlink()
    assert m.finish()
    assert {"videos/a.mp4", "wandb.jsonl"} <= set(m.store.files)
    assert not {"spill/a.part", "rollouts/a.arrow"} & set(m.store.files)


def test_a_segment_waits_for_files_but_not_for_ever(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.store.fault = lambda call, name: "fail" if name == "videos/a.mp4" else None
    m.write("videos/a.mp4", b"a")
    m.answer(1)
    m.rounds(PATIENCE)
    assert numbered(m.store.files) == 0
    m.rounds(SEGMENT_S + 2)
    assert m.sealed() == LINE
    assert not m.finish()
    assert m.mirror.left == 1


def test_a_store_that_fails_is_tried_again_and_named_once(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.rounds(3)
    m.store.fault = lambda call, name: "fail"
    m.write("videos/a.mp4", b"a")
    m.answer(4)
    m.rounds(600)
    assert m.said == [
        "the run goes on, but the store does not take videos/a.mp4 now; it is tried again (StoreError: 503 slow down)"
    ]
    assert 10 < m.store.count("put", "videos/a.mp4") < 20  # after 1, 2, 4 ... 60 seconds
    m.store.fault = lambda call, name: None
    m.rounds(61)
    assert m.said[1:] == ["the store takes files again"]
    assert m.store.content("videos/a.mp4") == b"a" and m.sealed() == LINE * 4
    assert m.mirror.broken == ""


def test_a_store_that_takes_nothing_for_long_ends_the_run(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.rounds(3)
    m.store.fault = lambda call, name: "fail"
    m.answer(1)
    m.rounds(MOST_BEHIND - 10)
    assert m.mirror.broken == ""
    m.rounds(100)
    assert m.mirror.broken == "the store has taken no file for 30 minutes"


def test_a_run_with_nothing_to_send_may_last(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.rounds(2 * MOST_BEHIND)
    m.store.fault = lambda call, name: "fail"
    m.answer(1)
    m.rounds(100)
    assert m.mirror.broken == ""


@pytest.mark.parametrize("bound", [None, 20.0])
def test_a_dead_store_does_not_hold_up_the_end(tmp_path, bound):
    m = Mirrored(tmp_path).begin()
    m.rounds(3)
    m.store.fault = lambda call, name: "fail"
    m.write("videos/a.mp4", b"a")
    m.answer(1)
    began = m.clock()
    assert not m.finish(bound)
    assert m.mirror.left == 2
    assert m.clock() - began <= (bound or 180) + 2


def test_an_answer_that_is_lost_seals_nothing_twice(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.rounds(2)
    m.store.fault = lambda call, name: "lost" if call == "put_if" and m.store.count("put_if", name) == 1 else None
    m.answer(3)
    m.rounds(20)
    assert m.sealed() == LINE * 3 and m.mirror.broken == ""
    assert m.store.files[name_of(1)][1] == 1
    m.answer(1)
    assert m.finish() and m.sealed() == LINE * 4


def test_another_runs_segment_ends_this_run(tmp_path):
    m = Mirrored(tmp_path).begin()
    segments.seal(m.store, Sealed(), b"another's\n")
    m.answer(1)
    m.rounds(20)
    assert m.mirror.broken == "another run has written segment 1 of its journal"
    assert not m.finish()


def test_the_next_process_sends_what_is_left_and_no_video_twice(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.store.fault = lambda call, name: "fail" if name in ("videos/b.mp4", name_of(2)) else None
    m.write("videos/a.mp4", b"a")
    m.answer(1)
    m.rounds(20)
    m.write("videos/b.mp4", b"b")
    m.answer(1)
    assert not m.finish()
    m.store.fault = lambda call, name: None
    again = Mirrored(tmp_path, sealed=Sealed().after(LINE), store=m.store, known=m.store.list())
    assert again.finish() and again.sealed() == LINE * 2
    assert m.store.count("put", "videos/a.mp4") == 1
    assert m.store.content("videos/b.mp4") == b"b"


def test_a_video_of_another_size_than_the_stores_goes_up_again(tmp_path):
    store = Memory()
    store.put("videos/a.mp4", b"aa")
    store.put("videos/b.mp4", b"b")
    (tmp_path / "videos").mkdir()
    for name in "ab":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(name.encode())
    m = Mirrored(tmp_path, store=store, known=store.list()).begin()
    assert m.finish()
    assert (store.count("put", "videos/a.mp4"), store.count("put", "videos/b.mp4")) == (2, 1)


def test_nothing_goes_up_while_the_lease_may_be_anothers(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.rounds(20)
    before = list(m.store.calls)
    m.may = False
    m.write("videos/a.mp4", b"a")
    m.answer(1)
    m.rounds(60)
    assert m.store.calls == before and not m.mirror.broken
    m.may = True
    assert m.finish() and m.sealed() == LINE and m.store.content("videos/a.mp4") == b"a"
    assert m.said == [
        "the run goes on, but its lease cannot be renewed now; until it can, nothing is uploaded",
        "the lease is renewed again, and files are uploaded",
    ]


def test_what_waits_for_its_turn_does_not_go_up_once_the_lease_has_run_out(tmp_path):
    """As of a process that was stopped, with uploads in its lane, until another run had taken over its lease."""
    m = Mirrored(tmp_path, takes=5).begin()
    m.rounds(20)
    m.write("videos/a.mp4", b"a")
    m.mirror.round()
    before = list(m.store.calls)
    m.may = False
    m.clock.pass_by(100)
    m.wire.work()
    assert m.store.calls == before
    m.may = True
    assert m.finish() and m.store.content("videos/a.mp4") == b"a"


def test_a_lease_that_cannot_be_renewed_does_not_hold_up_the_end(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.rounds(20)
    m.may = False
    m.answer(1)
    began = m.clock()
    assert not m.finish() and GIVE_UP < m.clock() - began < GIVE_UP + 5


def test_an_end_without_the_lease_sends_nothing_and_says_so(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.may, m.mirror.broken = False, "a run on host-b has taken over its lease"
    assert not m.finish() and not m.store.calls


def test_a_run_that_has_not_begun_after_all_leaves_nothing(tmp_path):
    m = Mirrored(tmp_path).begin()
    m.write("status.json", b"a")
    m.rounds(3)
    assert m.store.files
    m.mirror.withdraw()
    assert not m.store.files


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_sealed_names_only_files_that_are_there(tmp_path, seed):
    """A run of the fakes is played to the stage record by record, while calls fail or lose their answers."""
    import random

    rng = random.Random(seed)
    run(tmp_path / "whole", **FEW)
    m = Mirrored(tmp_path / "stage", takes=0.5)
    faults = {"put": 0.3, "put_if": 0.3}
    m.store.fault = lambda call, name: rng.choice(["fail", "lost"]) if rng.random() < faults.get(call, 0) else None
    m.begin()
    lines = (tmp_path / "whole" / "journal" / "answers.jsonl").read_bytes().splitlines(keepends=True)
    for line, record in zip(lines, journal.read(tmp_path / "whole" / "journal"), strict=True):
        if record["kind"] == "search":
            for folder in MADE:
                for file in (tmp_path / "whole" / folder).glob(f"{record['search_id']}.*"):
                    m.write(f"{folder}{file.name}", file.read_bytes())
        with open(m.stage / "journal" / "answers.jsonl", "ab") as file:
            file.write(line)
        m.rounds(rng.randrange(12))
        (tmp_path / "store" / "journal").mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / "journal" / "answers.jsonl").write_bytes(m.sealed())
        for r in journal.read(tmp_path / "store" / "journal"):
            if r["kind"] == "search" and r["status"] == "done":
                assert f"latents/{r['search_id']}.safetensors" in m.store.files
    assert numbered(m.store.files) > 1
    assert m.finish() and m.sealed() == b"".join(lines)
