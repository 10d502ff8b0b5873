"""From a spec to attack runs and units with ids; what a changed spec adds; what is left to do."""
