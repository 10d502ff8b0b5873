"""Remote classifiers that a study calls over HTTP."""
