"""Rewrites of networks: a rewritten network computes the same function, but faster or with deterministic gradients."""
