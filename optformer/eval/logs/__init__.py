"""Real tuning studies as a benchmark: what would a model have saved on them?"""
