"""One score a file; each defines `SCORE` and is found by itself."""
