"""runner beside its peers: `python -m bench`. Every figure is a ratio in one run on one machine."""
