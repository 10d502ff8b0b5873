"""From a spec to attack runs and units with ids; resume of a run folder; additions of a changed spec."""
