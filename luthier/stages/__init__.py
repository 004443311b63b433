"""Stages: each a function from artifacts and a config to an artifact; none knows another."""
