"""Workloads of the benchmarks: sessions of turns, generated or read from traces."""
