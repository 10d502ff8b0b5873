"""What stands in front of a target model."""
