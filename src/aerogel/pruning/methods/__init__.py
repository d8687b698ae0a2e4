"""One pruning method a file; each defines `METHOD` and is found by itself."""
