"""Defences in front of a target model.

A defence changes the images that the target gets, or lets the target vote on several versions of each image.
"""

# The registry of components imports attacks and defences, and attacks must be imported first.
import study.attacks  # noqa: F401
