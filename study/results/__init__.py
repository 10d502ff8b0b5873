"""The rows of a study and the adversarial images that a run keeps: schema, writing, reading, verifying, compacting."""
