"""Run folders in object stores: a run works in a folder on local disk, the stage, and a mirror uploads it meanwhile."""
