"""Image sets: candidates, their pixels, and what was selected of them."""

from study.images.sets import Candidate, Images, candidates

__all__ = ["Candidate", "Images", "candidates"]
