"""What `raysearch train` and `raysearch prfl` run: trainings on Ray, and the one loop of every training."""
