"""Models by hub id, on a machine that may not ask the hub, and paths that are no ids."""

import os

from mistakes import Mistake

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

OFFLINE = "is no folder here, and it is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
NO_FOLDER = "is not allowed; it must be an existing folder in diffusers' layout"

TABLE = [
    Mistake("model.path=Wan-AI/Wan2.1-T2V-1.3B-Diffusers", f"model.path: 'Wan-AI/Wan2.1-T2V-1.3B-Diffusers' {OFFLINE}"),
    Mistake("model.path=org/name@v1.0", f"model.path: 'org/name@v1.0' {OFFLINE}"),
    Mistake("model.path=org/name@refs/pr/1", f"model.path: 'org/name@refs/pr/1' {OFFLINE}"),
    Mistake(
        "model.path=org/name@0123456789012345678901234567890123456789",
        f"model.path: 'org/name@0123456789...' {OFFLINE}",
    ),
    Mistake("model.path=org/name model.variant=fp16", f"model.path: 'org/name' {OFFLINE}"),
    Mistake("model.path=org--x/name", "model.path: 'org--x/name' is no folder here, and it is no hub id: ..."),
    Mistake("model.path=org/name.git", "model.path: 'org/name.git' is no folder here, and it is no hub id: ..."),
    Mistake("model.path=org/-name", "model.path: 'org/-name' is no folder here, and it is no hub id: ..."),
    Mistake(f"model.path=org/{'a' * 99}", f"model.path: 'org/{'a' * 99}' is no folder here, and it is no hub id: ..."),
    Mistake("model.path=org/name@", f"model.path: 'org/name@' {NO_FOLDER}"),
    Mistake("model.path=org/name/more", f"model.path: 'org/name/more' {NO_FOLDER}"),
    Mistake(["model.path=org/a name"], f"model.path: 'org/a name' {NO_FOLDER}"),
    Mistake("model.path=hf://org/name", f"model.path: 'hf://org/name' {NO_FOLDER}"),
    Mistake(
        ["model.path=https://huggingface.co/org/name"], f"model.path: 'https://huggingface.co/org/name' {NO_FOLDER}"
    ),
    Mistake("model.path=../org/name", f"model.path: '../org/name' {NO_FOLDER}"),
    # A folder that is here is meant, not the hub's organisation of its name.
    Mistake("model.path=models/wan", f"model.path: 'models/wan' {NO_FOLDER}", files={"models/other": "x"}),
]
