"""The record of a run: a CSV ledger, and the sinks that follow it."""
