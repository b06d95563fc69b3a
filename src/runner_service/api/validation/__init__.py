"""Request validation: every invalid field is found and named at once."""
