"""What scripts/test_gpu.sh runs on a host with GPUs: steps, one after the other, and their report.

`arguments` says what is asked for and `plan` which steps that makes; `execution` runs them, each within
`containment`; `host` looks for CUDA, `report` is the JSON and `page` the same for a reader.
"""
