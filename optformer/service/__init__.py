"""Vizier's service: one with our policies, a client of any, and what a client tunes."""
