"""Predictions of a network."""
