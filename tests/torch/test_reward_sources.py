"""A run's digest knows each module of code by which a learned reward of published weights computes its scores."""

import inspect
from pathlib import Path

import pytest
import toy_images
import toy_rewards as toys

from actors.features import vision
from actors.rewards import backbones, clip, hps3, linears, pictures, planning, qwen_vl, videoalign
from actors.shipped import find

READ = planning.finite_chunks
SHARED = {
    "videoalign": {pictures, qwen_vl},
    "hps3": {pictures, qwen_vl},
    "vqa": {backbones, pictures, qwen_vl},
    "pickscore": {backbones, clip, pictures},
    "clipscore": {backbones, clip, pictures},
    "hps": {backbones, clip, pictures},
    "imagereward": {linears, pictures},
    "vbench_consistency": {pictures, vision},
    "aesthetic": {backbones, linears, pictures},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The arguments of each reward, of toys."""
    folder = tmp_path_factory.mktemp("rewards")
    toys.videoreward(folder / "videoreward"), toys.hps3(folder / "hpsv3"), toys.base(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(videoalign, "TEMPLATE_SHA256", toys.SHA256)
        patch.setattr(hps3, "TEMPLATE_SHA256", toys.HPS_SHA256)
        videoalign.convert(folder / "videoreward", folder / "videoalign", base=folder / "base")
        hps3.convert(folder / "hpsv3", folder / "hps3", base=folder / "base")
    toys.qwen(folder / "vqa", "qwen2_vl")
    found = {name: {"folder": str(folder / name)} for name in ("videoalign", "hps3", "vqa")}
    of_clip = {"folder": str(toy_images.clip_folder(folder / "clip"))}
    found |= dict.fromkeys(("pickscore", "clipscore", "hps"), of_clip)
    found["imagereward"] = {"folder": str(toy_images.image_reward_folder(folder))}
    found["aesthetic"] = of_clip | {"head": str(toy_images.aesthetic_head(folder / "head", [toy_images.WIDTH, 1]))}
    found["vbench_consistency"] = {"clip": of_clip["folder"], "dino": None}
    return found


def identity(name: str, arguments: dict) -> bytes:
    return planning.reward("rewards.search", {"name": name, **arguments}, {}, (), (1, 8, 5, 8, 8)).identity


@pytest.mark.parametrize("name", SHARED)
def test_other_code_is_another_reward(folders, name, monkeypatch):
    before = identity(name, folders[name])
    assert identity(name, folders[name]) == before
    own = Path(str(inspect.getsourcefile(find(name))))
    for file in (Path(str(module.__file__)) for module in SHARED[name]):
        assert file != own
        with monkeypatch.context() as patch:
            patch.setattr(planning, "finite_chunks", lambda f, key, file=file: [b"new"] if f == file else READ(f, key))
            assert identity(name, folders[name]) != before, file
