"""SGLang's attention on a CPU: decode in batches, and prefill whose work grows with the new tokens only."""

NAME = "memserve_cpu"
