"""What runs on a replica: denoiser, scorer and encoder in plain torch, with no Ray."""
