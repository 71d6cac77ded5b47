"""From photos to masks and cut-outs, one or many."""
