"""Remote classifiers that a study asks over HTTP."""
