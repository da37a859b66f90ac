"""The configs for real models: each, with every fleet that its comment gives, is planned and searched on fakes.

The models themselves are not here, so toys of the same pipeline classes stand in for them.
"""

import math
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from diffusers import WanPipeline
from pipelines import KINDS, Kind, wan_net, wan_parts

import raysearch
from actors.cluster.placement import Node, check_cluster
from actors.models.roles import WORKERS
from actors.models.settled import settled
from actors.plan import checked_model
from raysearch.config import config as configuration
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, run_virtual, virtual_now

pytestmark = pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated")  # diffusers, of SDXL in float16

CONFIGS = Path(__file__).parents[2] / "configs"


def wan(**config: bool) -> WanPipeline:
    """A toy of a Wan pipeline with one transformer."""
    return WanPipeline(**wan_parts(), transformer=wan_net(), **config)


TOYS = {  # by the config's name: a pipeline of the model's class
    "wan2.1_1.3b": Kind(wan, 9, 16),
    "wan2.2_a14b": KINDS["Wan 2.2, two experts"],
    "wan2.2_ti2v_5b": Kind(lambda: wan(expand_timesteps=True), 9, 16),
    "ltx": KINDS["LTX"],
    "hunyuan1.5": KINDS["HunyuanVideo 1.5"],
    "cogvideox": KINDS["CogVideoX, DDIM"],
    "flux": KINDS["FLUX"],
    "sdxl": KINDS["SDXL, Euler"],
}
GUIDE = (CONFIGS / "README.md").read_text().partition("\n## Real models\n")[2].partition("\n## ")[0]
NUMBER = {"One": 1, "Eight": 8}
FLEET = re.compile(r"^# (One|Eight) GPUs? of (\d+) GB.*:\n((?:#   .*\n)+)", re.M)
WEIGHTS = re.compile(r"^#   (?:encoder|denoiser|scorer) .* = ([\d.]+) GB", re.M)
FACTOR = r"[\d,.]+(?: [a-z]+)*"
PRODUCT = re.compile(rf"((?:{FACTOR} x )+[\d.]+ bytes) = ([\d.]+) GB")


def text(name: str) -> str:
    return (CONFIGS / f"{name}.yaml").read_text()


def fleets(name: str) -> list[tuple[int, int, list[str]]]:
    """Of each fleet in a config's comment: how many GPUs, the gigabytes of one, and the overrides."""
    found = FLEET.findall(text(name))
    return [(NUMBER[n], int(size), shlex.split(lines.replace("#", ""))) for n, size, lines in found]


EACH = [(name, i) for name in TOYS for i in range(len(fleets(name)))]


@pytest.mark.parametrize("name", TOYS)
def test_a_comment_has_a_fleet_for_one_gpu_and_one_for_eight(name):
    first, *others = fleets(name)
    assert first[0] == 1
    assert 8 in [n for n, _, _ in others]
    if "as below" in text(name):
        assert configuration.load(CONFIGS / f"{name}.yaml", first[2]) == configuration.load(CONFIGS / f"{name}.yaml")


def test_the_table_of_the_guide_says_what_the_configs_say():
    rows = re.findall(r"^\| `(\S+)\.yaml` \|.*\| (.*) \| `(\w+)` \| (.*) \| (.*) \|$", GUIDE, re.M)
    assert sorted(name for name, *_ in rows) == sorted(TOYS)
    for name, makes, policy, *sizes in rows:
        c = configuration.load(CONFIGS / f"{name}.yaml")
        m = c.model
        kind = f"{m.num_frames} frames" if m.num_frames > 1 else "images"
        assert (makes, policy) == (f"{kind} of {m.height} x {m.width}", c.policy["name"])
        for gpus, said in zip((1, 8), sizes, strict=True):
            assert [int(n) for n in re.findall(r"\d+", said)] == [size for n, size, _ in fleets(name) if n == gpus]


@pytest.mark.parametrize("name", TOYS)
def test_the_arithmetic_of_a_comment_is_right(name):
    products = PRODUCT.findall(text(name))
    assert len(products) == 5
    for factors, gigabytes in products:
        numbers = [float(n.replace(",", "")) for n in re.findall(r"[\d,.]+", factors)]
        found = math.prod(numbers) * (1 if "billion" in factors else 1e-9)
        digits = len(gigabytes.partition(".")[2])
        assert f"{found:.{digits}f}" == gigabytes, factors
    (_, size, _), *_ = fleets(name)
    assert 0.4 * size < sum(map(float, WEIGHTS.findall(text(name)))) < 0.8 * size


@pytest.mark.parametrize(("name", "i"), EACH)
def test_a_fleet_fits_its_gpus_and_a_search_on_it_ends_with_a_winner(name, i, tmp_path):
    gpus, _, overrides = fleets(name)[i]
    c = configuration.load(CONFIGS / f"{name}.yaml", overrides)
    check_cluster(c, [Node({"GPU": gpus, "CPU": 4 * gpus, "object_store_memory": 64e9})])
    fleet = FakeFleet(c.fleet.denoisers.fewest, c.fleet.denoisers.slots, c.fleet.scorers.fewest)
    run_virtual(Session(c, FakeBackend(fleet), run_dir=tmp_path / "run", clock=virtual_now).run())
    (row,) = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert (row["status"], row["reason"]) == ("done", "")
    assert row["winner"]


@pytest.fixture(scope="module", params=TOYS)
def toy(request, tmp_path_factory):
    """The name of a config, the folder of its toy, and the overrides that make the config one for the toy."""
    name, kind = request.param, TOYS[request.param]
    folder = tmp_path_factory.mktemp("toy")
    c = configuration.load(CONFIGS / f"{name}.yaml")
    kind.make().save_pretrained(folder, variant=c.model.variant)
    length = {"max_sequence_length": kind.max_sequence_length if c.sampler.name == "own" else 512}
    size = [f"model.{k}={v}" for k, v in (kind.blocks["model"] | length).items()]
    return name, folder, [f"model.path={folder}", *size, "sampler.num_steps=4"]


def test_every_fleet_is_one_that_the_pipeline_can_have(toy):
    """The pipeline takes the arguments of its call, and has the parts that are asked to be special."""
    name, folder, overrides = toy
    for _, _, fleet in fleets(name):
        c = settled(configuration.load(CONFIGS / f"{name}.yaml", [*fleet, *overrides]), lambda line: None)
        model = checked_model(c, configuration.arms(c))
        assert model.source.folder == folder
        assert model.source.runs_pipeline == (c.sampler.name == "own")


def test_a_config_searches_with_a_toy(toy, tmp_path):
    name, _, overrides = toy
    here = ["fleet.backend=local", *(f"fleet.{kind}s.num_gpus=0" for kind in WORKERS)]
    few = ["policy.name=best_of_n", "policy.n=2", "rewards.search.name=tiny:Redness", f"run_dir={tmp_path / 'run'}"]
    run = raysearch.run(CONFIGS / f"{name}.yaml", [*overrides, *here, *few], report=lambda line: None)
    (row,) = run.searches.to_pylist()
    assert (row["status"], row["reason"]) == ("done", "")
