"""Golden values: ids, digests and pixels that must not change unseen, and a finished run folder of an earlier day.

`python -m tests.golden > tests/golden/values.json`, from the root of the repository, writes all values anew. A value
that changes means that finished studies are crafted again, or that their rows are no longer those that the same spec
gives: change one only on purpose, and say so where users read it.
"""
