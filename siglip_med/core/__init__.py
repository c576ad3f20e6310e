"""What every room may use: configuration, errors, whole files, seals, trust, reading CSV, progress, provenance."""
