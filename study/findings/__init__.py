"""What a paper claims, as statements that a run's rows can be held against. Data alone: `study.analysis` evaluates."""
