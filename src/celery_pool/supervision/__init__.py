"""Keeps the workers of one run of a pool: starts, watches, limits and replaces them."""
