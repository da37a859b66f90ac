"""The workers: models, rewards, features and solvers in plain torch, and the Ray cluster that runs them.

The letters of shapes, in all docstrings below this folder:

    B   clips that are processed together        H, W   rows and columns: of a latent, or pixels of a frame
    C   channels of a latent                     L      tokens, of a caption or of a clip
    T   frames: of a latent, or of a video       D      width of an embedding or of a feature vector

A latent is float32 (1, C, T, H, W) unless a docstring says otherwise. Noise levels (sigma) go from 1, noise, to 0.
"""
