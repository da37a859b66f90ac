"""The command line in a process of its own, with fake replicas that take real time: no torch, and seconds to start.

python -m tests.fake_command run configs/mixture.yaml run_dir=s3://bucket/run
"""

import sys
from types import ModuleType

from raysearch.__main__ import main
from raysearch.remote import lease, mirror, place
from raysearch.testing import FakeBackend, FakeFleet

if __name__ == "__main__":
    fakes = ModuleType("actors.backend")
    seconds = {"denoiser": 0.002, "scorer": 0.02, "encoder": 0.0}
    fakes.Backend = lambda say: FakeBackend(FakeFleet(2, 2, seconds=seconds))
    sys.modules["actors.backend"] = fakes
    # Faster than a real run, so that a test of a few seconds sees several segments.
    mirror.SEGMENT_S, mirror.GIVE_UP, place.EVERY, place.RENEWED = 0.5, 3.0, 0.1, 0.5
    lease.LASTS = 10.0
    sys.exit(main())
