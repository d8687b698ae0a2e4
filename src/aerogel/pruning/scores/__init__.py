"""One method a file that ranks weights by what training shows; each defines `METHOD`, and the registry finds it."""
