"""`optformer demo`: the whole loop on real input, with what it tunes and what it reports."""
