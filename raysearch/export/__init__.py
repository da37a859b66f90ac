"""The way out of a run: layouts of benchmark suites, pairs for training, trackers, and candidates as videos."""
