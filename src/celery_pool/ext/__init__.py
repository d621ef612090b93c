"""Adapters to other packages; each is a module of its own and imports its package."""
