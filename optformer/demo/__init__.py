"""`optformer demo`: the whole workflow on real data, its problems and its report."""
