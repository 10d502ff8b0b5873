"""Image sets: candidates, their pixels, and what was selected of them."""

from study.images.image_sets import Candidate, ImageSet, candidates

__all__ = ["Candidate", "ImageSet", "candidates"]
