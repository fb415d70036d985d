"""What bench_policies measures: one cluster behind one router after the other.

`contenders` are the routers, `cluster` the instances that all of them are put before, `sessions` what is
asked; `bars` judges.
"""
