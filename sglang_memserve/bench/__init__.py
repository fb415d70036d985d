"""What the benchmarks in scripts/ share: figures and bars, load, mock workers, and the stock systems."""
