"""What a user says: YAML, overrides, prompts and media, checked before anything is loaded."""
