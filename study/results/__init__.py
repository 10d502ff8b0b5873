"""The rows of a study: schema, writing, scanning, verifying, compacting, and the images that a run keeps."""
