"""The benchmark of our own detector, and beside it what other tools' rules make of the same processes.

`replay` runs the production rules of `bench.stats` and `bench.verdict` on recorded processes, `targets` says what must
hold, `anchors` has the rules of others in our words, `traces` the recordings, and `record` makes further ones. All need
NumPy, so they are imported late.
"""
