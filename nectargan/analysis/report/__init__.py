"""One HTML page that shows runs: status, curves, and the same pairs over runs and epochs."""
