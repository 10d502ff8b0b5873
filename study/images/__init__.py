"""Image sets: the list of their images, decoding, selection and labels."""

from study.images.image_sets import Candidate, ImageSet, candidates

__all__ = ["Candidate", "ImageSet", "candidates"]
