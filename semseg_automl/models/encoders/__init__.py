"""Image encoders: one file per architecture, one registry of builders by backbone family."""
