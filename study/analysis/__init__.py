"""From rows to answers: typed functions from a polars LazyFrame to a polars frame. No model is run here."""
