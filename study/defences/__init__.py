"""Defences: processing of finished images in front of a target model."""
