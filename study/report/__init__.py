"""What a person is shown of finished rows."""
